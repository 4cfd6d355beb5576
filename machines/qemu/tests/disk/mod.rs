//! A machine with an `edu` and a disk behind its SMMU.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use dmakit_addr::DmaMask;
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::devices::Edu;
use dmakit_qemu::devices::nvme::Nvme;
use dmakit_qemu::smmu::{Counters, Mode, Port, PortConfig, SmmuStack};
use dmakit_qemu::{Config, FunctionId, Machine, QemuMmio};

pub const EDU: FunctionId = FunctionId::on_root(2, 0);
pub const DISK: FunctionId = FunctionId::on_root(3, 0);

pub type Disk = Nvme<HostPlatform, QemuMmio>;

pub struct Rig {
    pub stack: SmmuStack,
    /// What the disk is kept in.
    pub file: File,
    /// Bytes in use before any port was open.
    before: u64,
    reach: DmaMask,
    _directory: tempfile::TempDir,
}

/// A machine with an `edu` that reaches `reach` and a disk of `disk_bytes` with transfers of up to
/// 2 MiB.
pub fn start(reach: DmaMask, disk_bytes: u64) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.set_len(disk_bytes).unwrap();
    let mut config = Config::virt();
    config.devices = vec![
        Edu::argument(2, reach),
        "nvme,drive=disk,serial=dmakit,addr=3,mdts=9".into(),
    ];
    let drive = format!("file={},if=none,id=disk,format=raw", path.display());
    config.drives = vec![drive];
    let (machine, ram) = Machine::start(&config).unwrap();
    let stack = SmmuStack::start(&machine, ram, dmakit_smmuv3::Config::default()).unwrap();
    for device in [EDU, DISK] {
        // The part of the stream table that has them stays.
        stack.smmu().detach(device.raw().into()).unwrap();
    }
    let before = stack.memory().outstanding_bytes();
    Rig {
        stack,
        file,
        before,
        reach,
        _directory: directory,
    }
}

impl Rig {
    pub fn edu(&self) -> (Port, Edu<HostPlatform, QemuMmio>) {
        let machine = self.stack.machine();
        let regs = machine.pci().enable(EDU).unwrap().bar(0).unwrap();
        let config = PortConfig::strict(1, self.reach);
        let port = self.stack.open(EDU, config).unwrap();
        (port, Edu::new(machine.platform(), regs, self.reach))
    }

    pub fn disk(&self, mode: Mode) -> (Port, Disk) {
        let machine = self.stack.machine();
        let regs = machine.pci().enable(DISK).unwrap().bar(0).unwrap();
        let config = PortConfig {
            mode,
            ..PortConfig::strict(2, DmaMask::ALL)
        };
        let port = self.stack.open(DISK, config).unwrap();
        let memory = port.block(Disk::MEMORY_BYTES, None).unwrap();
        let disk = Nvme::start(machine.platform(), regs, memory).unwrap();
        (port, disk)
    }

    /// Ends a disk and its port; nothing is in use then that was not before.
    pub fn close_disk(&self, port: Port, disk: Disk) -> Counters {
        port.free_block(disk.stop().unwrap()).unwrap();
        self.close(port)
    }

    pub fn close(&self, port: Port) -> Counters {
        let counters = port.close().unwrap();
        assert_eq!(
            (counters.iova_bytes, counters.leaves, counters.tickets),
            (0, 0, 0),
            "addresses, leaves, tickets"
        );
        assert_eq!(counters.quarantined, 0);
        assert_eq!(counters.maps, counters.unmaps);
        assert_eq!(self.stack.memory().outstanding_bytes(), self.before);
        assert_eq!(self.stack.smmu().command_counts().refused, 0);
        counters
    }

    pub fn no_faults(&self) {
        let (faults, count) = self.stack.take_faults();
        assert_eq!(faults, []);
        assert!(!count.lost);
    }

    /// What is in the disk's file.
    pub fn stored(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
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
