//! A machine with an `edu` and a disk, behind its SMMU or without one.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use dmakit_addr::{DmaMask, NodeId, PhysAddr};
use dmakit_dma::{CoherentSource, Device, DeviceId, DeviceInfo, DeviceStats, DmaSegment, Path};
use dmakit_platform::Mmio;
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_qemu::devices::nvme::Nvme;
use dmakit_qemu::devices::{Edu, edu};
use dmakit_qemu::pieces::{self, Pieces};
use dmakit_qemu::smmu::{
    AttachConfig, Attachment, Counters, Mode, QemuDevice, SmmuDomain, SmmuStack,
};
use dmakit_qemu::{Board, Config, FunctionId, Machine, QemuMmio};
use dmakit_smmuv3::spec::registers::{CR0, CR0_CMDQEN};

pub const EDU: FunctionId = FunctionId::on_root(2, 0);
pub const DISK: FunctionId = FunctionId::on_root(3, 0);
/// A disk that nobody uses, for the memory in its controller.
pub const SPARE: FunctionId = FunctionId::on_root(4, 0);

const SMMU: u64 = 0x0905_0000;

pub type Disk<'a> = Nvme<'a, HostPlatform, SmmuDomain, QemuMmio>;
pub type TestEdu<'a> = Edu<'a, HostPlatform, SmmuDomain, QemuMmio>;

pub struct Rig {
    pub machine: Machine,
    pub memory: SegmentStore,
    stack: Option<SmmuStack>,
    /// What the disk is kept in.
    pub file: File,
    /// Bytes in use before any device was attached.
    before: u64,
    _directory: tempfile::TempDir,
}

/// An Arm machine with an SMMU, an `edu` that reaches `reach`, a disk of `disk_bytes` with transfers of
/// up to 2 MiB, and a controller with a MiB of memory.
pub fn start(reach: DmaMask, disk_bytes: u64) -> Rig {
    start_on(&Config::virt(), reach, disk_bytes)
}

/// The same on another board.
pub fn start_on(config: &Config, reach: DmaMask, disk_bytes: u64) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.set_len(disk_bytes).unwrap();
    let mut config = config.clone();
    config.devices = vec![
        edu::argument(2, reach),
        "nvme,drive=disk,serial=dmakit,addr=3,mdts=9".into(),
        "nvme,drive=spare,serial=spare,addr=4,cmb_size_mb=1".into(),
    ];
    config.drives = vec![
        format!("file={},if=none,id=disk,format=raw", path.display()),
        "driver=null-co,if=none,id=spare,size=1M".into(),
    ];
    let (machine, ram) = Machine::start(&config).unwrap();
    let (stack, memory) = match config.iommu {
        Some(_) => {
            let stack = SmmuStack::start(&machine, ram, dmakit_smmuv3::Config::default()).unwrap();
            for device in [EDU, DISK] {
                // The part of the stream table that has them stays.
                stack.smmu().detach(device.raw().into()).unwrap();
            }
            let memory = stack.memory().clone();
            (Some(stack), memory)
        }
        None => {
            let memory = SegmentStore::new();
            for (node, segment) in (0..).zip(ram) {
                memory.add(NodeId::new(node), segment);
            }
            (None, memory)
        }
    };
    let before = memory.outstanding_bytes();
    Rig {
        machine,
        memory,
        stack,
        file,
        before,
        _directory: directory,
    }
}

/// A PC without an IOMMU.
pub fn q35() -> Config {
    Config {
        board: Board::Q35,
        iommu: None,
        ..Config::virt()
    }
}

/// What drivers of these devices say of them.
pub fn edu_info(reach: DmaMask) -> DeviceInfo<'static> {
    DeviceInfo::new(DeviceId::new(1), "edu", reach)
}

pub fn disk_info() -> DeviceInfo<'static> {
    dmakit_qemu::devices::nvme::info(DeviceId::new(2), "disk")
}

impl Rig {
    /// Of a machine that has one.
    pub fn stack(&self) -> &SmmuStack {
        self.stack.as_ref().unwrap()
    }

    /// Attaches a device to a domain of its own.
    pub fn attach(&self, id: FunctionId, mode: Mode) -> Attachment {
        let config = AttachConfig::new(id.raw().into(), mode);
        self.stack().attach(id, config).unwrap()
    }

    /// Lets a device past the SMMU, where there is one.
    pub fn bypass(&self, id: FunctionId) {
        if let Some(stack) = &self.stack {
            stack.smmu().bypass(id.raw().into()).unwrap();
        }
    }

    /// Keeps the SMMU from executing commands.
    pub fn stop_commands(&self) -> StoppedCommands {
        let regs = self.machine.mmio(PhysAddr::new(SMMU));
        let control = regs.read32(CR0);
        regs.write32(CR0, control & !CR0_CMDQEN);
        StoppedCommands { regs, control }
    }

    /// A device that no SMMU stands before.
    pub fn untranslated<'a>(
        &'a self,
        info: DeviceInfo<'a>,
        path: Path<'a, HostPlatform, dmakit_swiotlb::NoGrowth, SmmuDomain>,
    ) -> QemuDevice<'a> {
        let source = CoherentSource::Cached(&self.memory);
        Device::new(self.machine.platform(), info, path, source)
    }

    pub fn regs(&self, id: FunctionId) -> QemuMmio {
        self.machine.pci().enable(id).unwrap().bar(0).unwrap()
    }

    pub fn edu<'a>(&self, device: &'a QemuDevice<'a>) -> TestEdu<'a> {
        Edu::start(self.machine.platform(), device, self.regs(EDU)).unwrap()
    }

    pub fn disk<'a>(&self, device: &'a QemuDevice<'a>) -> Disk<'a> {
        Nvme::start(self.machine.platform(), device, self.regs(DISK), None).unwrap()
    }

    /// `len` bytes in pages from all over both nodes.
    pub fn scattered(&self, random: &mut Random, len: u64) -> Pieces {
        pieces::scattered(&self.memory, 2, len, 0xee, |n| random.below(n)).unwrap()
    }

    pub fn free(&self, pieces: Pieces) {
        pieces::free(&self.memory, pieces);
    }

    /// Takes a device away whose driver has stopped, and its domain; nothing is in use then that was not
    /// before.
    pub fn close(&self, stats: DeviceStats, attachment: Attachment) -> Counters {
        let counters = attachment.close().unwrap();
        assert_eq!(
            (counters.iova_bytes, counters.leaves, counters.quarantined),
            (0, 0, 0),
            "addresses, leaves, lost addresses"
        );
        assert_eq!(self.stack().smmu().command_counts().refused, 0);
        self.all_is_back(&[stats]);
        counters
    }

    /// Nothing is in use that was not before.
    pub fn all_is_back(&self, stats: &[DeviceStats]) {
        for stats in stats {
            assert_eq!((stats.live(), stats.coherent_live(), stats.lost), (0, 0, 0));
        }
        assert_eq!(self.memory.outstanding_bytes(), self.before);
    }

    pub fn no_faults(&self) {
        if let Some(stack) = &self.stack {
            let (faults, count) = stack.take_faults();
            assert_eq!(faults, []);
            assert!(!count.lost);
        }
    }

    /// What is in the disk's file.
    pub fn stored(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

/// An SMMU that executes no commands, as if something had turned its queue off.
pub struct StoppedCommands {
    regs: QemuMmio,
    control: u32,
}

impl StoppedCommands {
    /// Lets it execute all that it was told meanwhile.
    pub fn go_on(self) {
        self.regs.write32(CR0, self.control);
    }
}

/// The part of a segment.
pub fn part(segment: DmaSegment, at: u64, len: u64) -> DmaSegment {
    assert!(at + len <= segment.len);
    DmaSegment {
        addr: dmakit_addr::DmaAddr::new(segment.addr.raw() + at),
        len,
    }
}

/// Chance that can be had again: xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
