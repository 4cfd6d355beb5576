//! A machine with an adversarial SMMU, the stack on it, and ways to break the stack.

use std::sync::{Mutex, PoisonError};

use dmakit_addr::{
    Direction, DmaAddr, DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange,
};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{
    Domain, DomainId, Fault, Hardware, Invalidation, InvalidationCosts, Mapped, SyncError, Ticket,
};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::{CpuSlot, Mmio, Platform, Segment, SegmentRequest};
use dmakit_sim::{
    DeviceConfig, Machine, MachineConfig, MachineMemory, Rng, SimDevice, SimSmmu, SmmuConfig,
};
use dmakit_smmuv3::{Config, Smmu, Translation};

pub const STREAM: u32 = 0x108;

/// What is wrong with the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    Nothing,
    NoSync,
    EarlyRedemption,
    LeafOnly,
    WrongLevel,
    NoInvalidation,
}

/// A translation that does what it is told, or not.
pub struct Broken<'a, R: Mmio> {
    pub inner: Translation<&'a Smmu<Machine, R, MachineMemory>>,
    mutant: Mutant,
    late: Mutex<Vec<Invalidation>>,
}

impl<R: Mmio + Send + Sync> Hardware for Broken<'_, R> {
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        let mut what = *what;
        match self.mutant {
            Mutant::NoInvalidation => return Ok(()),
            Mutant::EarlyRedemption => {
                let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
                late.push(what);
                return Ok(());
            }
            Mutant::LeafOnly => what.tables = false,
            Mutant::WrongLevel => what.leaf_height = what.leaf_height.map(|height| height ^ 1),
            Mutant::Nothing | Mutant::NoSync => {}
        }
        self.inner.invalidate(&what)
    }

    fn commands_for(&self, what: &Invalidation) -> u64 {
        self.inner.commands_for(what)
    }

    fn costs(&self) -> InvalidationCosts {
        self.inner.costs()
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
        // What should have come before.
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.drain(..)
            .try_for_each(|what| self.inner.invalidate(&what))
    }
}

/// What varies between machines.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub smmu: SmmuConfig,
    pub driver: Config,
    pub granule: Granule,
    pub stage: Stage,
    pub hint: ContiguousHint,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            smmu: SmmuConfig::default(),
            driver: Config {
                command_shift: 6,
                event_shift: 6,
                ..Config::default()
            },
            granule: Granule::K4,
            stage: Stage::One,
            hint: ContiguousHint::Never,
        }
    }
}

/// RAM of a node where addresses take 52 bits.
fn high(node: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(0xd_4000_0000_0000 + (node << 40)), 64 << 20).unwrap()
}

pub struct Rig {
    pub machine: Machine,
    pub memory: MachineMemory,
    pub smmu: SimSmmu,
    pub device: SimDevice,
    pub shape: Shape,
}

pub type Driver<R = SimSmmu> = Smmu<Machine, R, MachineMemory>;
pub type TestDomain<'a, R = SimSmmu> =
    Domain<Machine, Vec<CpuSlot<CpuCache>>, Lpae, MachineMemory, Broken<'a, R>>;

impl Rig {
    pub fn new(seed: u64, shape: Shape) -> Self {
        let config = MachineConfig::new(seed);
        let config = match shape.smmu.output_bits {
            52 => config.node(&[high(0)]).node(&[high(1)]),
            _ => config,
        };
        let config = match shape.smmu.coherent {
            true => config,
            false => config.non_coherent(),
        };
        let machine = config.build().unwrap();
        let smmu = machine.add_smmu(shape.smmu);
        let device = DeviceConfig::new().coherent(true).stream(smmu.id(), STREAM);
        Self {
            memory: MachineMemory::new(&machine),
            device: machine.add_device(device),
            smmu,
            machine,
            shape,
        }
    }

    pub fn driver(&self) -> Driver {
        self.driver_over(self.smmu.clone())
    }

    pub fn driver_over<R: Mmio>(&self, regs: R) -> Driver<R> {
        let (machine, memory) = (self.machine.clone(), self.memory.clone());
        Smmu::start(machine, regs, memory, self.shape.driver).unwrap()
    }

    /// A domain to which the device is attached.
    pub fn domain<'a, R: Mmio + Send + Sync>(
        &self,
        driver: &'a Driver<R>,
        mutant: Mutant,
    ) -> TestDomain<'a, R> {
        let domain = self.detached_domain(driver, mutant);
        let context = domain.hardware().inner.context();
        driver.attach(STREAM, context).unwrap();
        domain
    }

    /// A domain to which nothing is attached.
    pub fn detached_domain<'a, R: Mmio + Send + Sync>(
        &self,
        driver: &'a Driver<R>,
        mutant: Mutant,
    ) -> TestDomain<'a, R> {
        self.numbered_domain(driver, mutant, DomainId(1))
    }

    /// The same, by another name.
    pub fn numbered_domain<'a, R: Mmio + Send + Sync>(
        &self,
        driver: &'a Driver<R>,
        mutant: Mutant,
        id: DomainId,
    ) -> TestDomain<'a, R> {
        let Shape {
            granule,
            stage,
            hint,
            ..
        } = self.shape;
        let output_bits = self.shape.smmu.output_bits;
        let input_bits = if output_bits == 52 { 52 } else { 40 };
        let format = Lpae::new(stage, granule, input_bits, output_bits, hint).unwrap();
        let cpus = (0..self.machine.cpu_count())
            .map(|_| CpuSlot::default())
            .collect();
        let aperture = IovaRange::new(Iova::new(0), 1 << input_bits).unwrap();
        let space = Space::new(granule, aperture, Policy::TopDown, cpus).unwrap();
        let coherence = match self.shape.smmu.coherent {
            true => WalkCoherence::Coherent,
            false => WalkCoherence::NonCoherent,
        };
        let (machine, memory) = (self.machine.clone(), self.memory.clone());
        let table = PageTable::new(format, machine, memory, None, coherence).unwrap();
        let context = driver.create_context(&table).unwrap();
        let hardware = Broken {
            inner: Translation::new(driver, context),
            mutant,
            late: Mutex::default(),
        };
        Domain::new(id, space, table, hardware)
    }

    /// A buffer that belongs to the test, on a node.
    pub fn buffer(&self, len: u64, node: u16) -> Segment {
        let request = SegmentRequest {
            len,
            align: len.next_power_of_two().min(2 << 20),
            node: Some(NodeId::new(node)),
            limit: DmaMask::ALL,
        };
        self.memory.allocate(&request).unwrap()
    }

    /// Maps, and lends the memory to the device.
    pub fn map<R: Mmio + Send + Sync>(
        &self,
        domain: &TestDomain<'_, R>,
        runs: &[PhysRange],
        permissions: Permissions,
        limit: DmaMask,
    ) -> Mapped {
        for run in runs {
            self.device.grant(*run, Direction::Bidirectional);
        }
        let cpu = self.machine.enter_cpu();
        let runs = runs.iter().copied();
        domain.map(&cpu, runs, permissions, 1, limit).unwrap()
    }

    /// Waits for a ticket, and takes the memory back from the device.
    pub fn redeem<R: Mmio + Send + Sync>(
        &self,
        domain: &TestDomain<'_, R>,
        ticket: Ticket,
        runs: &[PhysRange],
    ) {
        let proof = domain.sync().unwrap();
        domain
            .redeem(&self.machine.enter_cpu(), ticket, &proof)
            .unwrap();
        for run in runs {
            self.device.revoke(*run, Direction::Bidirectional);
        }
    }

    /// One round of map, transfers, unmap and reuse. `false` where a device reached what it should
    /// not have, or did not reach what it should have.
    pub fn round<R: Mmio + Send + Sync>(
        &self,
        domain: &TestDomain<'_, R>,
        driver: &Driver<R>,
        frames: &Segment,
        rng: &mut Rng,
    ) -> bool {
        let granule = self.shape.granule.bytes();
        let count = frames.len() / granule;
        let pages = 1 + rng.below(4);
        let whole_table = rng.below(8) == 0 && granule == 4096;
        let mut runs: Vec<PhysRange> = (0..pages)
            .map(|_| {
                let frame = rng.below(count) * granule;
                frames.range().slice(frame, granule).unwrap()
            })
            .collect();
        if whole_table {
            // 2 MiB that are no block: a table falls out when it is unmapped.
            let half = frames.range().slice(0x1000, 1 << 20).unwrap();
            runs = vec![half, half];
        }
        let limit = rng.pick(&[DmaMask::ALL, DmaMask::bits(32).unwrap()]);
        let mapped = self.map(domain, &runs, Permissions::READ_WRITE, limit);
        let iova = mapped.range().start().raw();
        let offset = rng.below(mapped.range().len() / 256) * 256;
        let target = DmaAddr::new(iova + offset);
        let good = self.device.write(target, &[0x5a; 256]).is_ok();
        let mut read = [0; 256];
        let good = good && self.device.read(target, &mut read).is_ok() && read == [0x5a; 256];
        // On its way while it is unmapped.
        let late = rng
            .chance(128)
            .then(|| self.device.start_write(target, &[0x77; 256]));
        let ticket = domain.unmap(mapped).unwrap();
        self.machine.disturb();
        self.redeem(domain, ticket, &runs);
        for run in &runs {
            let offset = run.start().raw() - frames.range().start().raw();
            frames.window().slice(offset, run.len()).unwrap().fill(0xcc);
        }
        // Somebody else's now, maybe with the same table.
        let other = frames
            .range()
            .slice(frames.len() - granule, granule)
            .unwrap();
        let mapped = self.map(
            domain,
            &[other],
            Permissions::READ_WRITE,
            DmaMask::bits(31).unwrap(),
        );
        let others = mapped.range();
        let wanted = DmaAddr::new(others.start().raw() + rng.below(granule / 64) * 64);
        let good = good && self.device.write(wanted, &[1; 64]).is_ok();
        drop(late.map(|late| self.device.complete(late)));
        let stale = match others.contains(Iova::new(target.raw())) {
            true => false,
            false => self.device.write(target, &[0x99; 256]).is_ok(),
        };
        let ticket = domain.unmap(mapped).unwrap();
        self.redeem(domain, ticket, &[other]);
        driver.take_events(|_| ());
        good && !stale && self.machine.take_violations().total == 0
    }

    /// Up to `rounds` rounds: how many went well before one did not.
    pub fn rounds(&self, mutant: Mutant, rounds: u64) -> u64 {
        let driver = self.driver();
        let domain = self.domain(&driver, mutant);
        let frames = self.buffer(4 << 20, 0);
        self.device.confine();
        let mut rng = Rng::new(self.machine.seed());
        (0..rounds)
            .take_while(|_| self.round(&domain, &driver, &frames, &mut rng))
            .count() as u64
    }
}

pub fn faults<R: Mmio>(driver: &Driver<R>) -> Vec<Fault> {
    let mut faults = Vec::new();
    driver.take_faults(|fault| faults.push(fault));
    faults
}
