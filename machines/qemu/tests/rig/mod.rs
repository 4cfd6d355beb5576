//! QEMU's `virt` with an SMMUv3 and `edu` devices, and the stack on top.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::sync::Mutex;
use std::time::Duration;

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Fault, FaultFold, Mapped};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{
    CpuSlot, Mmio, NoMemory, Platform, Segment, SegmentRequest, TableMemory, Window,
};
use dmakit_qemu::{Clock, Config, FunctionId, Machine, QemuMmio};
use dmakit_smmuv3::{Smmu, Translation};

/// The first `edu`.
pub const EDU: FunctionId = FunctionId::on_root(2, 0);
/// The second.
pub const OTHER: FunctionId = FunctionId::on_root(3, 0);

/// The buffer in an `edu`.
const INSIDE: u64 = 0x4_0000;

/// Where RAM begins.
pub const RAM: u64 = 0x4000_0000;

/// Memory that is cut off one end, and counted.
pub struct Bump {
    rest: Mutex<Option<Segment>>,
    out: Mutex<u64>,
}

impl Bump {
    /// Bytes that were given and have not come back.
    pub fn out(&self) -> u64 {
        *self.out.lock().unwrap()
    }
}

impl TableMemory for &Bump {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        let mut rest = self.rest.lock().unwrap();
        let segment = rest.take().ok_or(refused)?;
        let start = segment.range().start().raw();
        let skip = start.next_multiple_of(request.align) - start;
        let (_, segment) = segment.split_at(skip).map_err(|_| refused)?;
        let (segment, left) = segment.split_at(request.len).map_err(|_| refused)?;
        *rest = Some(left);
        *self.out.lock().unwrap() += segment.len();
        segment.window().fill(0);
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        *self.out.lock().unwrap() -= segment.len();
    }
}

pub struct Rig {
    pub machine: Machine,
    pub edu: QemuMmio,
    pub other: QemuMmio,
    pub buffers: Segment,
    pub memory: Bump,
}

pub fn rig() -> Rig {
    rig_with(Clock::Jumping, 64)
}

/// A rig whose first `edu` has so many address bits.
pub fn rig_with(clock: Clock, bits: u32) -> Rig {
    let config = Config::virt();
    rig_on(Config { clock, ..config }, bits)
}

/// A rig on a machine of two nodes: the first one's memory is for buffers, the other's for tables.
pub fn rig_on(mut config: Config, bits: u32) -> Rig {
    let mask = DmaMask::bits(bits).unwrap().last();
    config
        .devices
        .push(format!("edu,addr=2,dma_mask={mask:#x}"));
    config
        .devices
        .push("edu,addr=3,dma_mask=0xffffffffffffffff".into());
    let (machine, mut ram) = Machine::start(&config).unwrap();
    let [edu, other] = [EDU, OTHER].map(|id| machine.pci().enable(id).unwrap().bar(0).unwrap());
    Rig {
        memory: Bump {
            rest: Mutex::new(ram.pop()),
            out: Mutex::new(0),
        },
        buffers: ram.pop().unwrap(),
        machine,
        edu,
        other,
    }
}

pub type Driver<'a> = Smmu<HostPlatform, QemuMmio, &'a Bump>;
pub type TestDomain<'a> =
    Domain<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, &'a Bump, Translation<&'a Driver<'a>>>;

impl Rig {
    pub fn regs(&self) -> QemuMmio {
        self.machine.mmio(PhysAddr::new(0x0905_0000))
    }

    pub fn smmu(&self) -> Driver<'_> {
        self.smmu_with(dmakit_smmuv3::Config::default())
    }

    pub fn smmu_with(&self, config: dmakit_smmuv3::Config) -> Driver<'_> {
        Smmu::start(self.machine.platform(), self.regs(), &self.memory, config).unwrap()
    }

    /// A domain to which the first `edu` is attached.
    pub fn domain<'a>(&'a self, smmu: &'a Driver<'a>, granule: Granule) -> TestDomain<'a> {
        let domain = self.detached_domain(smmu, granule, 1);
        smmu.attach(EDU.raw().into(), domain.hardware().context())
            .unwrap();
        domain
    }

    pub fn detached_domain<'a>(
        &'a self,
        smmu: &'a Driver<'a>,
        granule: Granule,
        id: u64,
    ) -> TestDomain<'a> {
        self.domain_of_stage(smmu, Stage::One, granule, id)
    }

    pub fn domain_of_stage<'a>(
        &'a self,
        smmu: &'a Driver<'a>,
        stage: Stage,
        granule: Granule,
        id: u64,
    ) -> TestDomain<'a> {
        let platform = self.machine.platform();
        // Stage 2 takes no more bits than addresses of memory have.
        let input_bits = if stage == Stage::Two { 44 } else { 48 };
        let format = Lpae::new(stage, granule, input_bits, 44, ContiguousHint::Never).unwrap();
        let cpus = (0..platform.cpu_count())
            .map(|_| CpuSlot::default())
            .collect();
        let aperture = IovaRange::new(Iova::new(0), 1 << (input_bits - 1)).unwrap();
        let space = Space::new(granule, aperture, Policy::TopDown, cpus).unwrap();
        let table = PageTable::new(
            format,
            platform,
            &self.memory,
            None,
            WalkCoherence::Coherent,
        )
        .unwrap();
        let context = smmu.create_context(&table).unwrap();
        let hardware = Translation::new(smmu, context);
        Domain::new(DomainId(id), space, table, hardware)
    }

    /// Ends a domain that nothing is attached to and that has no debts.
    pub fn close<'a>(&'a self, smmu: &'a Driver<'a>, domain: TestDomain<'a>) {
        let Ok((hardware, _table)) = domain.close() else {
            panic!("the domain has debts");
        };
        smmu.release_context(hardware.into_context()).unwrap();
    }

    pub fn map(
        &self,
        domain: &TestDomain<'_>,
        runs: &[PhysRange],
        permissions: Permissions,
    ) -> Mapped {
        self.map_below(domain, runs, permissions, DmaMask::ALL)
    }

    pub fn map_below(
        &self,
        domain: &TestDomain<'_>,
        runs: &[PhysRange],
        permissions: Permissions,
        limit: DmaMask,
    ) -> Mapped {
        let platform = self.machine.platform();
        let cpu = platform.enter_cpu();
        domain
            .map(&cpu, runs.iter().copied(), permissions, 1, limit)
            .unwrap()
    }

    pub fn unmap(&self, domain: &TestDomain<'_>, mapped: Mapped) {
        let ticket = domain.unmap(mapped).unwrap();
        let proof = domain.sync().unwrap();
        let platform = self.machine.platform();
        domain
            .redeem(&platform.enter_cpu(), ticket, &proof)
            .unwrap();
    }

    /// One transfer of the first `edu`, to (`true`) or from its own buffer.
    pub fn transfer(&self, address: u64, len: u64, to_device: bool) {
        self.transfer_by(&self.edu, address, len, to_device);
    }

    pub fn transfer_by(&self, edu: &QemuMmio, address: u64, len: u64, to_device: bool) {
        Self::begin(edu, address, len, to_device);
        self.finish(edu);
    }

    /// Starts a transfer, which is done some time later.
    pub fn begin(edu: &QemuMmio, address: u64, len: u64, to_device: bool) {
        let (source, target, command) = match to_device {
            true => (address, INSIDE, 1),
            false => (INSIDE, address, 3),
        };
        edu.write64(0x80, source);
        edu.write64(0x88, target);
        edu.write64(0x90, len);
        edu.write64(0x98, command);
    }

    pub fn finish(&self, edu: &QemuMmio) {
        self.machine
            .wait_for("end of transfer", Duration::from_secs(10), || {
                (edu.read64(0x98) & 1 == 0).then_some(())
            })
            .unwrap();
    }

    /// Frame `index` of the buffers, filled.
    pub fn frame(&self, index: u64, byte: u8) -> Window<'_> {
        let frame = self.buffers.window().slice(index << 12, 0x1000).unwrap();
        frame.fill(byte);
        frame
    }

    /// Loads 64 bytes of `byte` into the first `edu`, through a mapping of its own.
    pub fn arm(&self, domain: &TestDomain<'_>, byte: u8) {
        let frame = self.frame(1, byte);
        let mapped = self.map(domain, &[frame.range()], Permissions::READ);
        self.transfer(mapped.range().start().raw(), 64, true);
        self.unmap(domain, mapped);
    }

    /// The first 64 bytes of frame `index`, as the device models see them.
    pub fn first(&self, index: u64) -> Vec<u8> {
        self.bytes(PhysAddr::new(RAM + (index << 12)), 64)
    }

    pub fn bytes(&self, phys: PhysAddr, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.machine
            .hardware_window(PhysRange::new(phys, len).unwrap())
            .unwrap()
            .read(&mut bytes);
        bytes
    }
}

pub fn faults(smmu: &Driver<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    smmu.take_events(|event| faults.push(event.into()));
    faults
}

/// What happened, however often it was recorded.
pub fn folded(smmu: &Driver<'_>) -> FaultFold<8> {
    let mut fold = FaultFold::default();
    smmu.take_events(|event| fold.add(event.into()));
    fold
}
