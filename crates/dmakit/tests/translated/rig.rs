//! A machine with an adversarial SMMU, the whole stack on it, and devices behind it.

use std::sync::Mutex;

use dmakit::addr::{
    Direction, DmaAddr, DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange,
};
use dmakit::dma::{
    Coherence, CoherentSource, Device, DeviceId, DeviceInfo, Path, Translate, Trust,
};
use dmakit::io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit::io_pgtable::{PageTable, WalkCoherence};
use dmakit::iommu::{Domain, DomainId, Hardware, Invalidation, Lazy, LazyConfig, SyncError};
use dmakit::iova::{CpuCache, Policy, Space};
use dmakit::platform::{CpuBuffer, CpuSlot, Platform, Segment, SegmentRequest};
use dmakit::smmuv3::{Config, Smmu, Translation};
use dmakit::swiotlb::{BounceConfig, BouncePool};
use dmakit_sim::{
    DeviceConfig, Machine, MachineConfig, MachineMemory, Rng, SimDevice, SimSmmu, SmmuConfig,
};

pub const STREAM: u32 = 0x108;
/// RAM: 32 MiB, far above what a device with 32 address bits reaches.
pub const RAM: u64 = 0x8_0000_0000;
pub const RAM_BYTES: u64 = 32 << 20;

pub type Driver = Smmu<Machine, SimSmmu, MachineMemory>;
pub type Strict<'a> = Domain<Machine, Vec<CpuSlot<CpuCache>>, Lpae, MachineMemory, Broken<'a>>;
pub type LazyDomain<'a> = Lazy<Machine, Vec<CpuSlot<CpuCache>>, Lpae, MachineMemory, Broken<'a>>;

/// What is wrong with the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    Nothing,
    /// Syncs return at once.
    NoSync,
    /// Invalidation is queued after the sync that is to cover it.
    EarlyRedemption,
    /// Nothing is invalidated.
    NoInvalidation,
}

/// A translation that does what it is told, or not.
pub struct Broken<'a> {
    inner: Translation<&'a Driver>,
    mutant: Mutant,
    late: Mutex<Vec<Invalidation>>,
}

impl Hardware for Broken<'_> {
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        match self.mutant {
            Mutant::NoInvalidation => Ok(()),
            Mutant::EarlyRedemption => {
                self.late.lock().unwrap().push(*what);
                Ok(())
            }
            Mutant::Nothing | Mutant::NoSync => self.inner.invalidate(what),
        }
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        self.inner.invalidate_all()
    }

    fn assign(&mut self, domain: DomainId) {
        self.inner.assign(domain);
    }

    fn sync(&self) -> Result<(), SyncError> {
        if self.mutant == Mutant::NoSync {
            return Ok(());
        }
        self.inner.sync()?;
        let late: Vec<_> = self.late.lock().unwrap().drain(..).collect();
        late.iter().try_for_each(|what| self.inner.invalidate(what))
    }
}

pub fn phys(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

pub struct Rig {
    pub machine: Machine,
    pub memory: MachineMemory,
    pub sim: SimDevice,
    pub smmu: SimSmmu,
    pub driver: Driver,
    pub pool: BouncePool<Machine>,
    pub pool_memory: PhysRange,
    pub coherent: bool,
}

impl Rig {
    pub fn coherent(seed: u64) -> Self {
        Self::build(seed, true)
    }

    /// The device goes past the CPU's caches; the SMMU does not.
    pub fn non_coherent(seed: u64) -> Self {
        Self::build(seed, false)
    }

    fn build(seed: u64, coherent: bool) -> Self {
        let config = MachineConfig::new(seed).node(&[phys(RAM, RAM_BYTES)]);
        let config = if coherent {
            config
        } else {
            config.non_coherent()
        };
        let machine = config.build().unwrap();
        let smmu = machine.add_smmu(SmmuConfig::default());
        let device = DeviceConfig::new()
            .coherent(coherent)
            .stream(smmu.id(), STREAM);
        let sim = machine.add_device(device);
        let memory = MachineMemory::new(&machine);
        let config = Config {
            command_shift: 6,
            event_shift: 6,
            ..Config::default()
        };
        let driver = Smmu::start(machine.clone(), smmu.clone(), memory.clone(), config).unwrap();
        let request = SegmentRequest {
            len: 256 << 10,
            align: 64 << 10,
            node: Some(NodeId::new(0)),
            limit: DmaMask::ALL,
        };
        let segment = memory.allocate(&request).unwrap();
        let pool_memory = segment.range();
        let config = BounceConfig {
            credit_batch: 0,
            areas: 2,
            ..BounceConfig::default()
        };
        let pool = BouncePool::new(machine.clone(), segment, &config).unwrap();
        Self {
            machine,
            memory,
            sim,
            smmu,
            driver,
            pool,
            pool_memory,
            coherent,
        }
    }

    /// A domain of `bytes` of addresses to which the device is attached.
    pub fn domain_of(&self, bytes: u64) -> Strict<'_> {
        self.broken_domain(bytes, Mutant::Nothing)
    }

    /// The same, with something wrong.
    pub fn broken_domain(&self, bytes: u64, mutant: Mutant) -> Strict<'_> {
        let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
        let cpus = (0..self.machine.cpu_count())
            .map(|_| CpuSlot::default())
            .collect();
        let aperture = IovaRange::new(Iova::new(0), bytes).unwrap();
        let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
        let (machine, memory) = (self.machine.clone(), self.memory.clone());
        let coherence = WalkCoherence::Coherent;
        let table = PageTable::new(format, machine, memory, None, coherence).unwrap();
        let context = self.driver.create_context(&table).unwrap();
        self.driver.attach(STREAM, &context).unwrap();
        let hardware = Broken {
            inner: Translation::new(&self.driver, context),
            mutant,
            late: Mutex::default(),
        };
        Domain::new(DomainId(1), space, table, hardware)
    }

    pub fn strict(&self) -> Strict<'_> {
        self.domain_of(1 << 40)
    }

    pub fn lazy(&self) -> LazyDomain<'_> {
        let config = LazyConfig::default();
        let Ok(lazy) = Lazy::new(self.strict(), self.machine.clone(), config) else {
            panic!("no memory for the queues");
        };
        lazy
    }

    pub fn info(&self) -> DeviceInfo<'static> {
        let mut info = DeviceInfo::new(DeviceId::new(7), "device", DmaMask::bits(32).unwrap());
        if !self.coherent {
            info.coherence = Coherence::NonCoherent;
        }
        info
    }

    pub fn untrusted(&self) -> DeviceInfo<'static> {
        let mut info = self.info();
        info.trust = Trust::Untrusted;
        info
    }

    /// A device behind `domain`, with the pool for what must not be shown.
    pub fn device<'a, T: Translate>(
        &'a self,
        info: DeviceInfo<'a>,
        domain: &'a T,
    ) -> TestDevice<'a, T> {
        let bounce = Some((&self.pool, self.pool.attach(None).unwrap()));
        let path = Path::Translated { domain, bounce };
        let source = match self.coherent {
            true => CoherentSource::Cached(&self.memory),
            false => CoherentSource::None,
        };
        Device::new(self.machine.clone(), info, path, source)
    }

    pub fn segment(&self, len: u64) -> Segment {
        self.aligned_segment(len, 4096)
    }

    pub fn aligned_segment(&self, len: u64, align: u64) -> Segment {
        let request = SegmentRequest {
            len: len.next_multiple_of(4096),
            align,
            node: Some(NodeId::new(0)),
            limit: DmaMask::ALL,
        };
        self.memory.allocate(&request).unwrap()
    }

    /// A buffer of `len` bytes that begins `offset` bytes into a frame, and what is around it.
    pub fn buffer(&self, len: u64, offset: u64, byte: u8) -> Around {
        let whole = self.segment(offset + len);
        whole.window().fill(0xc5);
        let (before, rest) = whole.split_at(offset).unwrap();
        let (body, after) = rest.split_at(len).unwrap();
        body.window().fill(byte);
        Around {
            run: body.range(),
            before,
            buffer: Some(CpuBuffer::from_segment(body, len).unwrap()),
            after,
        }
    }

    /// A buffer of single frames from all over memory.
    pub fn scattered(&self, frames: u64, rng: &mut Rng) -> CpuBuffer {
        let mut segments: Vec<_> = (0..frames).map(|_| self.segment(4096)).collect();
        for left in (2..=segments.len()).rev() {
            segments.swap(left - 1, rng.below(left as u64) as usize);
        }
        CpuBuffer::from_segments(segments, frames << 12).unwrap()
    }

    /// Ends a domain, after which the stack holds what it held before.
    pub fn close(&self, domain: Strict<'_>) {
        let whole = IovaRange::new(Iova::new(0), 1 << 40).unwrap();
        assert_eq!(domain.table().leaves(whole).count(), 0, "leaves");
        assert_eq!(domain.quarantined(), 0);
        self.driver.detach(STREAM).unwrap();
        let Ok((hardware, table)) = domain.close() else {
            panic!("addresses are in use");
        };
        self.driver
            .release_context(hardware.inner.into_context())
            .unwrap();
        drop(table);
        assert_eq!(self.pool.used(), 0, "slots");
        self.machine.check().unwrap();
    }

    pub fn close_lazy(&self, lazy: LazyDomain<'_>) {
        let strict = lazy.into_strict(&self.machine.enter_cpu());
        let Ok(domain) = strict else {
            panic!("the SMMU does not forget");
        };
        self.close(domain);
    }
}

pub type TestDevice<'a, T> =
    Device<'a, Machine, dmakit::swiotlb::NoGrowth, dmakit::dma::Unchecked, T>;

/// A buffer and the memory around it in its frames.
pub struct Around {
    pub run: PhysRange,
    pub buffer: Option<CpuBuffer>,
    pub before: Segment,
    pub after: Segment,
}

impl Around {
    pub fn take(&mut self) -> CpuBuffer {
        self.buffer.take().unwrap()
    }

    pub fn is_untouched(&self) -> bool {
        [&self.before, &self.after].iter().all(|segment| {
            let mut bytes = vec![0; segment.len() as usize];
            segment.window().read(&mut bytes);
            bytes.iter().all(|byte| *byte == 0xc5)
        })
    }
}

pub fn bytes_of(buffer: &CpuBuffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len() as usize];
    buffer.read(0, &mut bytes);
    bytes
}

pub fn at(addr: DmaAddr, offset: i64) -> DmaAddr {
    DmaAddr::new(addr.raw().wrapping_add_signed(offset))
}

pub const BOTH: Direction = Direction::Bidirectional;
