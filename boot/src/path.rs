//! Which way a client's device reaches memory, as the parameters say.

use dmakit_addr::DmaMask;
use dmakit_dma::{
    BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, DeviceStats, NoTranslation, Path,
    Translate, Trust, Unchecked,
};
use dmakit_platform::{Platform, SegmentRequest, TableMemory};
use dmakit_swiotlb::{BounceConfig, BouncePool, NoGrowth};
use dmakit_untyped::UntypedDevice;

use crate::board::Board;
use crate::failing::Failing;
use crate::memory::{Coherent, leak};
use crate::parameters::Parameters;
use crate::translation::Translator;
use crate::usage::{Usage, settle};

/// A device by address, on one kind of path.
pub type Untyped<T> = UntypedDevice<Board, NoGrowth, Unchecked, T>;

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
    let bounce = match parameters.bounce || parameters.untrusted {
        true => {
            let pool = pool(memory)?;
            Some((pool, pool.attach(None).map_err(|_| "no place in the pool")?))
        }
        false => None,
    };
    let slots = || bounce.map_or(0, |(pool, _)| pool.statistics().used);
    let coherent = CoherentSource::Cached(memory);
    match (translator, bounce) {
        (None, None) => {
            let path: Path<'_, _, NoGrowth, NoTranslation> = Path::Direct;
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, Usage::default(), Usage::default())
        }
        (None, Some((pool, id))) => {
            let when = BounceWhen::Always;
            let path: Path<'_, _, _, NoTranslation> = Path::Bounced { pool, id, when };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            let usage = || Usage {
                slots: slots(),
                ..Usage::default()
            };
            let before = usage();
            settle(client.run(device)?, before, usage())
        }
        (Some(translator), bounce) if parameters.lazy => {
            let lazy = translator.lazy(stream)?;
            let usage = || {
                let flushed = lazy.flush(&Board.enter_cpu());
                flushed.map_err(|_| "the SMMU does not forget")?;
                Ok(Usage::of(lazy.domain(), slots()))
            };
            let before = usage()?;
            let domain = leak(Failing(lazy));
            let path = Path::Translated { domain, bounce };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, before, usage()?)
        }
        (Some(translator), bounce) => {
            let strict = translator.strict(stream)?;
            let before = Usage::of(strict, slots());
            let domain = leak(Failing(strict));
            let path = Path::Translated { domain, bounce };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, before, Usage::of(strict, slots()))
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
