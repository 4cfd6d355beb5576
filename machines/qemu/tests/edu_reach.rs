//! A device with few address bits behind an SMMU.

mod disk;

use disk::{EDU, Random};
use dmakit_addr::{Address, DmaMask, Iova, NodeId, PAGE_BYTES};
use dmakit_io_pgtable::Permissions;
use dmakit_platform::SegmentRequest;
use dmakit_qemu::devices::{Edu, EduError};

const BITS: u32 = 28;

/// Pages from all over both nodes: everything is taken in large pieces, and a page of each is used.
#[test]
fn a_device_of_28_bits_reaches_all_of_memory_through_low_addresses() {
    let mask = DmaMask::bits(BITS).unwrap();
    let rig = disk::start(mask, 1 << 20);
    let (port, edu) = rig.edu();
    let pattern = port.block(PAGE_BYTES, None).unwrap();
    let mut random = Random(28);
    let mut pieces = Vec::new();
    for node in [0, 1] {
        let request = SegmentRequest {
            len: 2 << 20,
            align: 2 << 20,
            node: Some(NodeId::new(node)),
            limit: DmaMask::ALL,
        };
        // 256 MiB, less what the first is already used for.
        for _ in 0..if node == 0 { 127 } else { 128 } {
            pieces.push(rig.stack.memory().allocate(&request).unwrap());
        }
    }
    for (index, piece) in pieces.iter().enumerate() {
        let page = random.below((2 << 20) / PAGE_BYTES) * PAGE_BYTES;
        let page = piece.window().slice(page, PAGE_BYTES).unwrap();
        assert!(
            page.range().start().raw() > mask.last(),
            "out of its own reach"
        );
        page.fill(0xee);
        let mapped = port
            .map([page.range()].into_iter(), Permissions::READ_WRITE)
            .unwrap();
        assert!(mask.reaches(&mapped.range()));
        let byte = index as u8;
        edu.reload(&pattern, byte).unwrap();
        let start = mapped.range().start();
        edu.write(Iova::new(start.raw() + 0x80), 0x100).unwrap();
        let mut bytes = [0; PAGE_BYTES as usize];
        page.read(&mut bytes);
        let landed = |at: usize| (0x80..0x180).contains(&at);
        for (at, seen) in bytes.iter().enumerate() {
            assert_eq!(
                *seen,
                if landed(at) { byte } else { 0xee },
                "piece {index} at {at:#x}"
            );
        }
        port.unmap([mapped]).unwrap();
    }
    rig.no_faults();
    for piece in pieces {
        rig.stack.memory().free(piece).unwrap();
    }
    port.free_block(pattern).unwrap();
    rig.close(port);
}

#[test]
fn the_device_really_has_28_bits_and_its_driver_refuses_more() {
    let mask = DmaMask::bits(BITS).unwrap();
    let rig = disk::start(mask, 1 << 20);
    let (port, edu) = rig.edu();
    let page = port.block(PAGE_BYTES, None).unwrap();
    let start = page.iova(0);
    let beyond = start.checked_add(1 << BITS).unwrap();
    let refused = edu.write(beyond, 64).unwrap_err();
    assert!(matches!(refused, EduError::Reach { .. }), "{refused}");
    // A driver that believes in 64 bits: the device drops the upper ones without a word.
    let machine = rig.stack.machine();
    let regs = machine.pci().enable(EDU).unwrap().bar(0).unwrap();
    let believer = Edu::new(machine.platform(), regs, DmaMask::ALL);
    believer.reload(&page, 0x5a).unwrap();
    page.window().fill(0xee);
    believer.write(beyond, 64).unwrap();
    let mut bytes = [0; 64];
    page.window().read(&mut bytes);
    assert_eq!(bytes, [0x5a; 64]);
    rig.no_faults();
    port.free_block(page).unwrap();
    rig.close(port);
}

#[test]
fn a_space_of_28_bits_that_is_full_says_so_and_serves_again() {
    for (bits, fits) in [(BITS, false), (64, true)] {
        let mask = DmaMask::bits(bits).unwrap();
        let rig = disk::start(mask, 1 << 20);
        let (port, _edu) = rig.edu();
        let run = rig.stack.memory().free_runs(NodeId::new(1))[0];
        let run = run.slice(0, 128 << 20).unwrap();
        let map = || port.map([run].into_iter(), Permissions::READ);
        let half = map().unwrap();
        let second = map();
        assert_eq!(second.is_ok(), fits, "{bits} bits");
        match second {
            Ok(second) => {
                let last = half.range().end().max(second.range().end());
                assert!(last.raw() > 1 << BITS, "only the limit kept it low");
                port.unmap([second]).unwrap();
            }
            Err(error) => assert!(error.to_string().contains("134217728"), "{error}"),
        }
        port.unmap([half]).unwrap();
        let again = map().unwrap();
        port.unmap([again]).unwrap();
        rig.close(port);
    }
}
