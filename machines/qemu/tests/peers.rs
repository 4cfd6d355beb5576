//! An `edu` behind the SMMU that reads and writes the memory of an NVMe controller.

mod fabric;

use dmakit_addr::{Attributes, Bidirectional, DmaAddr, DmaMask};
use dmakit_dma::{
    DeviceId, DeviceInfo, DmaSegment, PeerProvider, PeerRoute, PeerWindow, ProviderId,
};
use dmakit_iommu::FaultReason;
use dmakit_platform::Mmio;
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::devices::{Edu, edu};
use dmakit_qemu::smmu::{AttachConfig, Mode, SmmuStack};
use dmakit_qemu::{Config, FunctionId, Machine, QemuMmio};

use fabric::{Client, PROVIDER, paths};

const EDU: FunctionId = FunctionId::on_root(2, 0);
const DISK: FunctionId = FunctionId::on_root(3, 0);
/// The BAR of the controller memory buffer.
const BUFFER: u8 = 2;
const LEN: u64 = 256;

fn fill(buffer: &QemuMmio, at: u64, bytes: &[u8]) {
    for (word, bytes) in bytes.chunks(4).enumerate() {
        let value = u32::from_le_bytes(bytes.try_into().unwrap());
        buffer.write32(at + 4 * word as u64, value);
    }
}

fn bytes(buffer: &QemuMmio, at: u64) -> Vec<u8> {
    let words = (0..LEN / 4).map(|word| buffer.read32(at + 4 * word));
    words.flat_map(u32::to_le_bytes).collect()
}

#[test]
fn edu_reaches_a_controllers_memory_while_it_is_mapped_and_faults_afterwards() {
    let mut config = Config::virt();
    config.devices = vec![
        edu::argument(2, DmaMask::ALL),
        "nvme,drive=disk,serial=dmakit,addr=3,cmb_size_mb=1".into(),
    ];
    config.drives = vec!["driver=null-co,if=none,id=disk,size=1M".into()];
    let (machine, ram) = Machine::start(&config).unwrap();
    let stack = SmmuStack::start(&machine, ram, dmakit_smmuv3::Config::default()).unwrap();
    let disk = machine.pci().enable(DISK).unwrap();
    let (range, buffer) = (disk.bar_range(BUFFER).unwrap(), disk.bar(BUFFER).unwrap());
    assert_eq!(range.len(), 1 << 20);
    let regs = machine.pci().enable(EDU).unwrap().bar(0).unwrap();
    let attachment = stack
        .attach(EDU, AttachConfig::new(1, Mode::Strict))
        .unwrap();
    let info = DeviceInfo::new(DeviceId::new(1), "edu", DmaMask::ALL);
    let device = attachment.device(info, None);
    let edu = Edu::start(machine.platform(), &device, regs).unwrap();

    let window = PeerWindow::new(range, DmaAddr::new(range.start().raw())).unwrap();
    let provider: PeerProvider<'_, HostPlatform> =
        PeerProvider::new(machine.platform(), ProviderId(1), PROVIDER, window);
    let import = provider.import(device.info().id, &Client).unwrap();
    let mut paths = paths();
    let part = provider.lend(&import, 0x4000, 0x2000).unwrap();
    let mapping = device
        .map_peer::<Bidirectional>(part, &mut paths, Attributes::NONE)
        .unwrap();
    assert_eq!(mapping.route(), PeerRoute::HostBridge);
    let [first, second] = [0, 0x1000].map(|at| DmaSegment {
        addr: DmaAddr::new(mapping.segment().addr.raw() + at),
        len: LEN,
    });

    let pattern: Vec<u8> = (0..LEN).map(|i| (i * 7 + 3) as u8).collect();
    fill(&buffer, 0x4000, &pattern);
    fill(&buffer, 0x5000, &[0xee; LEN as usize]);
    edu.read(&[first]).unwrap();
    edu.write(&[second]).unwrap();
    assert!(bytes(&buffer, 0x5000) == pattern, "read and written by edu");
    assert_eq!(stack.take_faults().0, []);

    let debt = device.unmap_peer(mapping).unwrap();
    let proof = device.sync().unwrap();
    let part = device.redeem(debt, &proof).unwrap();
    provider.take_back(part).unwrap();
    provider.leave(import).unwrap();
    provider.release().unwrap();
    fill(&buffer, 0x5000, &[0xee; LEN as usize]);
    edu.write(&[second]).unwrap();
    let (faults, _) = stack.take_faults();
    assert!(!faults.is_empty());
    for fault in faults {
        assert_eq!(fault.reason, FaultReason::Unmapped);
        assert_eq!(fault.stream, u32::from(EDU.raw()));
    }
    assert!(bytes(&buffer, 0x5000).iter().all(|&byte| byte == 0xee));
    edu.stop();
    assert_eq!(device.remove().unwrap().live(), 0);
    let counters = attachment.close().unwrap();
    assert_eq!((counters.leaves, counters.quarantined), (0, 0));
}
