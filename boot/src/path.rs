//! Which way a client's device reaches memory, as the parameters say.

use dmakit_addr::DmaMask;
use dmakit_dma::{
    BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, DeviceStats, NoTranslation, Path,
    Translate, Trust, Unchecked,
};
use dmakit_platform::{SegmentRequest, TableMemory};
use dmakit_swiotlb::{BounceConfig, BouncePool, DeviceId as PoolId, NoGrowth};
use dmakit_untyped::UntypedDevice;

use crate::board::Board;
use crate::failing::{self, FailingMemory};
use crate::memory::{Coherent, leak};
use crate::parameters::Parameters;
use crate::translation::Translator;
use crate::usage::{Usage, settle};

/// A device by address, on one kind of path.
pub type Untyped<T> = UntypedDevice<Board, NoGrowth, Unchecked, T>;

/// A bounce pool, and a device's number there.
pub type Bounce = Option<(&'static BouncePool<Board, NoGrowth>, PoolId)>;

/// Bytes of the bounce pool.
const POOL_BYTES: u64 = 4 << 20;

/// What a client does with a device, whatever its path.
pub trait Client {
    /// Runs on a device whose path leads through `T`, stops it, and says what became of its memory.
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<DeviceStats, &'static str>;
}

/// Opens the path that the parameters ask for, runs the client on it, and says what is left behind.
pub fn run(
    parameters: &Parameters,
    translator: Option<&Translator>,
    memory: &'static Coherent,
    (name, stream): (&'static str, u32),
    client: impl Client,
) -> Result<(), &'static str> {
    let mut info = DeviceInfo::new(DeviceId::new(stream.into()), name, DmaMask::ALL);
    if parameters.untrusted {
        info.trust = Trust::Untrusted;
    }
    let bounce: Bounce = match parameters.bounce || parameters.restricted || parameters.untrusted {
        true => {
            let pool = pool(memory)?;
            Some((pool, pool.attach(None).map_err(|_| "no place in the pool")?))
        }
        false => None,
    };
    if let Some(translator) = translator {
        let coherent = CoherentSource::Cached(memory);
        return translator.run(parameters, info, stream, bounce, coherent, client);
    }
    // Nothing else can be refused here.
    let coherent = CoherentSource::Cached(leak(FailingMemory(memory)));
    match bounce {
        None => {
            let path: Path<'_, _, NoGrowth, NoTranslation> = Path::Direct;
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, Usage::default(), Usage::default())
        }
        Some((pool, id)) => {
            failing::share_pool(pool)?;
            let when = BounceWhen::Always;
            let coherent = match parameters.restricted {
                true => CoherentSource::Pool,
                false => coherent,
            };
            let path: Path<'_, _, _, NoTranslation> = Path::Bounced { pool, id, when };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            let usage = || Usage {
                slots: slots_used(bounce),
                ..Usage::default()
            };
            let before = usage();
            settle(client.run(device)?, before, usage())
        }
    }
}

/// Slots that are in use.
pub fn slots_used(bounce: Bounce) -> u64 {
    bounce.map_or(0, |(pool, _)| pool.statistics().used)
}

fn pool(memory: &'static Coherent) -> Result<&'static BouncePool<Board, NoGrowth>, &'static str> {
    let request = SegmentRequest {
        len: POOL_BYTES,
        align: POOL_BYTES,
        node: None,
        limit: DmaMask::up_to(u32::MAX.into()),
    };
    let segment = memory
        .allocate_table(&request)
        .map_err(|_| "no memory for bouncing")?;
    let pool = BouncePool::new(Board, segment, &BounceConfig::default());
    pool.map(leak).map_err(|_| "no bounce pool")
}
