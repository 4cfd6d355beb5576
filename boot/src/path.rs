//! Which way a client's device reaches memory, as the parameters say.

use dmakit_addr::DmaMask;
use dmakit_dma::{
    BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, NoTranslation, Path, Translate,
    Trust, Unchecked,
};
use dmakit_platform::{SegmentRequest, TableMemory};
use dmakit_swiotlb::{BounceConfig, BouncePool, NoGrowth};
use dmakit_untyped::UntypedDevice;

use crate::board::Board;
use crate::memory::{Coherent, leak};
use crate::parameters::Parameters;
use crate::translation::Translator;

/// A device by address, on one kind of path.
pub type Untyped<T> = UntypedDevice<Board, NoGrowth, Unchecked, T>;

/// Bytes of the bounce pool.
const POOL_BYTES: u64 = 4 << 20;

/// What a client does with a device, whatever its path.
pub trait Client {
    /// Runs on a device whose path leads through `T`.
    fn run<T: Translate + 'static>(self, device: Untyped<T>) -> Result<(), &'static str>;
}

/// Opens the path that the parameters ask for, and runs the client on it.
pub fn run(
    parameters: &Parameters,
    translator: Option<&Translator>,
    memory: &'static Coherent,
    (name, stream): (&'static str, u32),
    client: impl Client,
) -> Result<(), &'static str> {
    let mut info = DeviceInfo::new(DeviceId::new(stream.into()), name, DmaMask::ALL);
    let coherent = CoherentSource::Cached(memory);
    let bounce = match parameters.bounce || parameters.untrusted {
        true => Some(pool(memory)?),
        false => None,
    };
    if parameters.untrusted {
        info.trust = Trust::Untrusted;
    }
    let bounce = match bounce {
        Some(pool) => Some((pool, pool.attach(None).map_err(|_| "no place in the pool")?)),
        None => None,
    };
    match (translator, bounce) {
        (None, None) => {
            let path: Path<'_, _, NoGrowth, NoTranslation> = Path::Direct;
            client.run(Untyped::new(Device::new(Board, info, path, coherent)))
        }
        (None, Some((pool, id))) => {
            let when = BounceWhen::Always;
            let path: Path<'_, _, _, NoTranslation> = Path::Bounced { pool, id, when };
            client.run(Untyped::new(Device::new(Board, info, path, coherent)))
        }
        (Some(translator), bounce) if parameters.lazy => {
            let path = Path::Translated {
                domain: translator.lazy(stream)?,
                bounce,
            };
            client.run(Untyped::new(Device::new(Board, info, path, coherent)))
        }
        (Some(translator), bounce) => {
            let path = Path::Translated {
                domain: translator.strict(stream)?,
                bounce,
            };
            client.run(Untyped::new(Device::new(Board, info, path, coherent)))
        }
    }
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
