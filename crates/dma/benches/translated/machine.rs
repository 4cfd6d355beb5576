//! A device behind a domain whose hardware only counts, and the lists that are mapped for it.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange};
use dmakit_dma::{CoherentSource, Device, DeviceId, DeviceInfo, Path, Switched, Unchecked};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Hardware, Invalidation, LazyConfig, SyncError, Translate};
use dmakit_iova::{CpuCache, Policy, Request, Space};
use dmakit_platform::host::{HostRam, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};
use dmakit_swiotlb::NoGrowth;

use super::passes::Draws;

/// Hardware that counts, as far as the incumbent's did when it was measured. One thread uses it, so a
/// count takes no locked operation.
#[derive(Default)]
pub struct Counted {
    pub invalidations: AtomicU64,
    pub syncs: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Hardware for Counted {
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        black_box(what);
        count(&self.invalidations);
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        count(&self.invalidations);
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        count(&self.syncs);
        Ok(())
    }
}

pub type Strict<P> = Domain<P, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, Counted>;
pub type Domains<P> = Switched<P, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, Counted>;
pub type Dev<'a, P> = Device<'a, P, NoGrowth, Unchecked, Domains<P>>;

/// When hardware forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Strict,
    Batched,
    Lazy,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Strict, Self::Batched, Self::Lazy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Batched => "batched",
            Self::Lazy => "lazy",
        }
    }
}

/// One machine, one domain.
pub struct Machine<P: Platform> {
    pub platform: P,
    pub domain: Domains<P>,
}

impl<P: Platform> Machine<P> {
    pub fn new(platform: P, mode: Mode, coherence: WalkCoherence) -> Self {
        let tables = PhysRange::new(PhysAddr::new(1 << 40), 64 << 20).expect("a range");
        let (_ram, segments) = HostRam::new(&[tables]).expect("memory");
        let memory = SegmentStore::new();
        for segment in segments {
            memory.add(NodeId::new(0), segment);
        }
        let format =
            Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).expect("a format");
        let table =
            PageTable::new(format, platform.clone(), memory, None, coherence).expect("a table");
        let aperture = IovaRange::new(Iova::new(0), 1 << 47).expect("a range");
        let cpus = vec![CpuSlot::default()];
        let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).expect("a space");
        let domain = Domain::new(DomainId(1), space, table, Counted::default());
        let config = LazyConfig::default();
        let Ok(domain) = Switched::strict(domain, platform.clone(), config) else {
            unreachable!("memory for the queues");
        };
        if mode == Mode::Lazy {
            domain.make_lazy().expect("memory for the queues");
        }
        Self { platform, domain }
    }

    /// Lets the space have records for `count` ranges of `len` bytes at once, as an embedder that
    /// maintains it sees to.
    pub fn stock(&self, count: usize, len: u64) {
        let (space, cpu) = (self.strict().space(), self.platform.enter_cpu());
        let request = Request {
            len,
            align: 1,
            limit: DmaMask::ALL,
        };
        let ranges: Vec<_> = (0..count)
            .map(|_| {
                space.maintain().expect("memory");
                space.alloc(&cpu, &request).expect("addresses")
            })
            .collect();
        ranges.into_iter().for_each(|range| space.free(&cpu, range));
    }

    pub fn strict(&self) -> &Strict<P> {
        self.domain.domain()
    }

    pub fn device(&self) -> Dev<'_, P> {
        let mask = DmaMask::bits(48).expect("48 bits");
        let info = DeviceInfo::new(DeviceId::new(1), "bench", mask);
        let path = Path::Translated {
            domain: &self.domain,
            bounce: None,
        };
        Device::new(self.platform.clone(), info, path, CoherentSource::None)
    }
}

/// What a list is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Scattered,
    Large,
    Contiguous,
}

impl Shape {
    pub const ALL: [Self; 3] = [Self::Scattered, Self::Large, Self::Contiguous];

    pub fn name(self) -> &'static str {
        match self {
            Self::Scattered => "4K-scattered",
            Self::Large => "64K-scattered",
            Self::Contiguous => "4K-contiguous",
        }
    }

    /// The published addresses.
    pub fn runs(self, count: usize) -> Vec<PhysRange> {
        let mut draws = Draws::default();
        let mut run = |index: usize| {
            let far = |draws: &mut Draws| (1 << 32) + draws.below(1 << 18) as u64 * 0x1_0000;
            let (start, len) = match self {
                Self::Scattered => (far(&mut draws), 4096),
                Self::Large => (far(&mut draws), 0x1_0000),
                Self::Contiguous => ((1 << 33) + 4096 * (index as u64 + 1), 4096),
            };
            PhysRange::new(PhysAddr::new(start), len).expect("a run")
        };
        (0..count).map(&mut run).collect()
    }
}
