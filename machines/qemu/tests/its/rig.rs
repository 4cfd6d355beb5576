//! QEMU's `virt` with its GICv3, an SMMU, an `edu` and a disk; the stack on top.

use std::fs::File;
use std::time::Duration;

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_dma::{DeviceId, DeviceInfo, DmaSegment};
use dmakit_its::{Config, Device, Its, Levels, LpiConfig, Lpis, Redistributor};
use dmakit_platform::Mmio;
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_qemu::devices::edu;
use dmakit_qemu::smmu::{AttachConfig, Attachment, Mode, QemuDevice, SmmuStack};
use dmakit_qemu::{Function, FunctionId, Machine, QemuMmio};

pub const EDU: FunctionId = FunctionId::on_root(2, 0);
pub const DISK: FunctionId = FunctionId::on_root(3, 0);

const DISTRIBUTOR: u64 = 0x0800_0000;
const ITS: u64 = 0x0808_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;
const REDISTRIBUTOR_STRIDE: u64 = 0x2_0000;

const NODE_BYTES: u64 = 32 << 20;

/// What all memory holds that nobody has.
const CANARY: u8 = 0xee;

pub type Driver = Its<HostPlatform, QemuMmio, SegmentStore>;

pub struct Rig {
    pub machine: Machine,
    pub stack: SmmuStack,
    pub lpis: Lpis<HostPlatform>,
    pub redistributors: Vec<Redistributor>,
    pub its: Driver,
    pub edu: Function,
    pub disk: Function,
    _directory: tempfile::TempDir,
}

pub fn start(levels: Levels) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create_new(&path).unwrap().set_len(1 << 20).unwrap();
    let mut config = dmakit_qemu::Config::virt();
    config.nodes = vec![NODE_BYTES; 2];
    config.devices = vec![
        edu::argument(2, DmaMask::ALL),
        "nvme,drive=disk,serial=dmakit,addr=3".into(),
    ];
    let drive = format!("file={},if=none,id=disk,format=raw", path.display());
    config.drives = vec![drive];
    let (machine, ram) = Machine::start(&config).unwrap();
    let stack = SmmuStack::start(&machine, ram, dmakit_smmuv3::Config::default()).unwrap();
    // One bus: it knows which addresses it has given out.
    let mut pci = machine.pci();
    let [edu, disk] = [EDU, DISK].map(|id| pci.enable(id).unwrap());
    let distributor = machine.mmio(PhysAddr::new(DISTRIBUTOR));
    // Affinity routing, and the group that LPIs are in.
    distributor.write32(0, 0x12);
    let config = LpiConfig {
        id_bits: LpiConfig::id_bits_of(distributor.read32(4)),
        node: Some(NodeId::new(0)),
        ..LpiConfig::default()
    };
    let memory = stack.memory().clone();
    for run in (0..2).flat_map(|node| memory.free_runs(NodeId::new(node))) {
        machine.hardware_window(run).unwrap().fill(CANARY);
    }
    let lpis = Lpis::new(machine.platform(), &memory, config).unwrap();
    let redistributors = (0..2).map(|cpu| {
        let base = redistributor(cpu);
        let node = Some(NodeId::new(cpu as u16));
        Redistributor::start(&machine.mmio(base), base, node, &lpis, &memory).unwrap()
    });
    let redistributors: Vec<_> = redistributors.collect();
    let its = its(&machine, memory, levels);
    for (cpu, redistributor) in (0..).zip(&redistributors) {
        its.map_collection(cpu, redistributor.target()).unwrap();
    }
    Rig {
        machine,
        stack,
        lpis,
        redistributors,
        its,
        edu,
        disk,
        _directory: directory,
    }
}

pub fn redistributor(cpu: u64) -> PhysAddr {
    PhysAddr::new(REDISTRIBUTORS + cpu * REDISTRIBUTOR_STRIDE)
}

/// The machine's ITS, on node 1.
pub fn its(machine: &Machine, memory: SegmentStore, levels: Levels) -> Driver {
    let base = PhysAddr::new(ITS);
    let config = Config {
        node: Some(NodeId::new(1)),
        levels,
        ..Config::new(base, 2)
    };
    Its::start(machine.platform(), machine.mmio(base), memory, config).unwrap()
}

impl Rig {
    /// Whether an interrupt is pending on a CPU, as RAM says.
    pub fn is_pending(&self, cpu: usize, interrupt: u32) -> bool {
        let table = self.redistributors[cpu].pending();
        let byte = table.slice(u64::from(interrupt / 8), 1).unwrap();
        self.bytes(byte)[0] >> (interrupt % 8) & 1 != 0
    }

    /// All that is pending on a CPU.
    pub fn pending(&self, cpu: usize) -> Vec<u32> {
        let bytes = self.bytes(self.redistributors[cpu].pending());
        let interrupts = 8192..bytes.len() as u32 * 8;
        interrupts
            .filter(|interrupt| bytes[*interrupt as usize / 8] >> (interrupt % 8) & 1 != 0)
            .collect()
    }

    /// Memory that nobody has was written by nobody.
    pub fn check_canaries(&self) {
        let memory = self.stack.memory();
        for run in (0..2).flat_map(|node| memory.free_runs(NodeId::new(node))) {
            let bytes = self.bytes(run);
            let wrong = bytes.iter().position(|byte| *byte != CANARY);
            assert_eq!(wrong, None, "offset in {run}");
        }
    }

    pub fn bytes(&self, range: PhysRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len() as usize];
        self.machine
            .hardware_window(range)
            .unwrap()
            .read(&mut bytes);
        bytes
    }

    /// A device with events 0 to 3, each with an LPI that is on: 0 and 2 on CPU 0, the others on 1.
    pub fn device(&self, id: u32) -> Device {
        let mut device = self.its.create_device(id, 4).unwrap();
        for event in 0..4 {
            let lpi = self.lpis.allocate().unwrap();
            self.its
                .map(&mut device, event, lpi, event as u16 % 2)
                .unwrap();
            self.its.enable(&self.lpis, &device, event).unwrap();
        }
        device
    }

    pub fn remove(&self, mut device: Device) {
        for event in 0..device.events() {
            let lpi = self.its.unmap(&mut device, event).unwrap();
            self.lpis.free(lpi);
        }
        assert!(self.its.destroy_device(device).unwrap().is_none());
    }

    /// A device in a domain of its own.
    pub fn attach(&self, id: FunctionId) -> Attachment {
        self.stack
            .attach(id, AttachConfig::new(1, Mode::Strict))
            .unwrap()
    }

    /// Maps the doorbell for a device, whose writes raise interrupts.
    pub fn map_doorbell(&self, device: &QemuDevice<'_>) -> DmaSegment {
        let doorbell = PhysRange::new(self.its.doorbell(), 4).unwrap();
        device
            .map_resource(doorbell, Direction::FromDevice, Attributes::MMIO)
            .unwrap()
    }

    /// Waits until an interrupt is pending on a CPU, and takes it.
    pub fn take(&self, cpu: usize, device: &Device, event: u32) {
        let interrupt = device.interrupt(event).unwrap();
        self.machine
            .wait_for("interrupt", Duration::from_secs(10), || {
                self.is_pending(cpu, interrupt).then_some(())
            })
            .unwrap();
        assert_eq!(self.pending(cpu), [interrupt], "CPU {cpu}");
        assert_eq!(self.pending(1 - cpu), [], "CPU {}", 1 - cpu);
        self.its.clear(device, event).unwrap();
        assert!(!self.is_pending(cpu, interrupt));
    }
}

pub fn info(name: &str) -> DeviceInfo<'_> {
    DeviceInfo::new(DeviceId::new(1), name, DmaMask::ALL)
}

/// Lets `edu` write `data` to `address` when it interrupts.
pub fn set_msi(edu: &Function, address: DmaAddr, data: u32) {
    let address = address.raw();
    let capability = edu.capability(0x05).unwrap().unwrap();
    edu.write_config(capability + 4, address as u32).unwrap();
    edu.write_config(capability + 8, (address >> 32) as u32)
        .unwrap();
    edu.write_config(capability + 12, data).unwrap();
    let control = edu.read_config(capability).unwrap();
    edu.write_config(capability, control | 1 << 16).unwrap();
}

/// Lets a vector of the disk write `data` to `address`.
pub fn set_msi_x(disk: &Function, vector: u16, address: DmaAddr, data: u32) {
    const TABLE: u64 = 0x2000;
    let (regs, address) = (disk.bar(0).unwrap(), address.raw());
    let entry = TABLE + 16 * u64::from(vector);
    regs.write32(entry, address as u32);
    regs.write32(entry + 4, (address >> 32) as u32);
    regs.write32(entry + 8, data);
    regs.write32(entry + 12, 0);
    let capability = disk.capability(0x11).unwrap().unwrap();
    let control = disk.read_config(capability).unwrap();
    disk.write_config(capability, control | 1 << 31).unwrap();
}

/// Lets `edu` interrupt once.
pub fn interrupt(edu: &Function) {
    let regs = edu.bar(0).unwrap();
    regs.write32(0x60, 1);
    regs.write32(0x64, 1);
}
