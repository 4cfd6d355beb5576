//! The machine itself: RAM is shared, registers answer, DMA lands, errors say what happened.

use std::time::Duration;

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::Mmio;
use dmakit_qemu::{Board, Config, FunctionId, Machine, QemuError};

const SMMU: u64 = 0x0905_0000;

fn range(start: PhysAddr, len: u64) -> PhysRange {
    PhysRange::new(start, len).unwrap()
}

#[test]
fn the_smmu_says_what_it_can_do() {
    let (machine, ram) = Machine::start(&Config::virt()).unwrap();
    assert_eq!(ram.len(), 2);
    assert_eq!(ram[1].range().start(), PhysAddr::new(0x5000_0000));
    let smmu = machine.mmio(PhysAddr::new(SMMU));
    let idr0 = smmu.read32(0);
    assert_eq!(idr0 & 0b10, 0b10, "stage 1, IDR0 is {idr0:#x}");
}

#[test]
fn a_transfer_of_edu_lands_at_the_physical_address_and_nowhere_else() {
    for board in [Board::Virt, Board::Q35] {
        untranslated(board);
    }
}

fn untranslated(board: Board) {
    let mut config = Config::virt();
    config.board = board;
    config.iommu = None;
    config
        .devices
        .push("edu,addr=2,dma_mask=0xffffffffffffffff".into());
    let (machine, ram) = Machine::start(&config).unwrap();
    let mut pci = machine.pci();
    let edu = pci.enable(FunctionId::on_root(2, 0)).unwrap();
    assert_eq!(edu.identity, 0x11e8_1234);
    let regs = edu.bar(0).unwrap();
    let window = ram[1].window().slice(0x10_0000, 0x3000).unwrap();
    window.fill(0xee);
    window.slice(0, 64).unwrap().write(&[0x5a; 64]);
    let base = window.range().start().raw();
    for (source, target, command) in [(base, 0x4_0000, 1), (0x4_0000, base + 0x1000, 3)] {
        regs.write64(0x80, source);
        regs.write64(0x88, target);
        regs.write64(0x90, 64);
        regs.write64(0x98, command);
        machine
            .wait_for("end of transfer", Duration::from_secs(5), || {
                (regs.read64(0x98) & 1 == 0).then_some(())
            })
            .unwrap();
    }
    let seen = machine
        .hardware_window(range(PhysAddr::new(base), 0x3000))
        .unwrap();
    let mut bytes = vec![0; 0x3000];
    seen.read(&mut bytes);
    assert!(bytes[0x1000..0x1040].iter().all(|&byte| byte == 0x5a));
    assert!(
        bytes[0x40..0x1000].iter().all(|&byte| byte == 0xee),
        "below"
    );
    assert!(bytes[0x1040..].iter().all(|&byte| byte == 0xee), "above");
}

#[test]
fn no_address_is_given_to_two_bars() {
    let mut config = Config::virt();
    for slot in [2, 3] {
        config.devices.push(format!("edu,addr={slot}"));
    }
    let (machine, _ram) = Machine::start(&config).unwrap();
    let [one, other] = [2, 3].map(|slot| {
        let function = machine.pci().enable(FunctionId::on_root(slot, 0)).unwrap();
        function.bars[0].range
    });
    assert!(one.end() <= other.start(), "{one}, {other}");
}

#[test]
fn a_function_that_is_not_there_is_named() {
    let (machine, _ram) = Machine::start(&Config::virt()).unwrap();
    let error = machine
        .pci()
        .enable(FunctionId::on_root(9, 0))
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "there is no PCI function 00:09.0");
}

#[test]
fn a_bad_device_shows_what_qemu_said() {
    let mut config = Config::virt();
    config.devices.push("nosuchdevice".into());
    let error = Machine::start(&config).err().unwrap();
    assert!(matches!(error, QemuError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("nosuchdevice"), "{error}");
}

#[test]
fn a_missing_program_says_what_to_install() {
    let mut config = Config::virt();
    config.program = Some("qemu-system-nowhere".into());
    let error = Machine::start(&config).err().unwrap().to_string();
    assert_eq!(
        error,
        "qemu-system-nowhere is not installed; on Debian: apt-get install qemu-system-arm"
    );
}

#[test]
fn a_pc_has_no_more_memory_than_lies_in_one_piece() {
    let mut config = Config::virt();
    config.board = Board::Q35;
    config.iommu = None;
    config.nodes = vec![2 << 30; 2];
    let error = Machine::start(&config).err().unwrap();
    assert!(matches!(error, QemuError::Memory { .. }), "{error}");
    config.nodes = vec![64 << 20; 2];
    let (_machine, ram) = Machine::start(&config).unwrap();
    let starts: Vec<_> = ram.iter().map(|node| node.range().start().raw()).collect();
    assert_eq!(starts, [1 << 20, 64 << 20], "windows lie below");
}
