//! A device with few address bits behind an SMMU.

mod disk;

use disk::{EDU, Random, edu_info, part};
use dmakit_addr::{Attributes, DmaAddr, DmaMask, FromDevice, NodeId, PAGE_BYTES, PhysAddr};
use dmakit_dma::{DmaSegment, DomainError, LinkError, MapError, ScatterList};
use dmakit_platform::{CpuBuffer, Segment, SegmentRequest};
use dmakit_qemu::devices::Edu;
use dmakit_qemu::devices::edu::EduError;
use dmakit_qemu::smmu::Mode;

const BITS: u32 = 28;
const NONE: Attributes = Attributes::NONE;

/// Pages from all over both nodes: everything is taken in large pieces, and a page of each is used.
#[test]
fn a_device_of_28_bits_reaches_all_of_memory_through_low_addresses() {
    let mask = DmaMask::bits(BITS).unwrap();
    let rig = disk::start(mask, 1 << 20);
    let attachment = rig.attach(EDU, Mode::Strict);
    let device = attachment.device(edu_info(mask), None);
    let edu = rig.edu(&device);
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
            pieces.push(rig.memory.allocate(&request).unwrap());
        }
    }
    let mut used = Vec::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        let at = random.below((2 << 20) / PAGE_BYTES) * PAGE_BYTES;
        let (before, rest) = piece.split_at(at).unwrap();
        let (page, after) = rest.split_at(PAGE_BYTES).unwrap();
        let phys = page.range();
        assert!(phys.start().raw() > mask.last(), "out of its own reach");
        page.window().fill(0xee);
        let buffer = CpuBuffer::from_segment(page, PAGE_BYTES).unwrap();
        let mapping = device.map::<FromDevice>(buffer, NONE).unwrap();
        let mapped = DmaSegment {
            addr: mapping.dma_addr(),
            len: mapping.len(),
        };
        assert!(mapped.addr.raw() + mapped.len - 1 <= mask.last());
        let byte = index as u8;
        edu.reload(byte).unwrap();
        edu.write(&[part(mapped, 0x80, 0x100)]).unwrap();
        let page = device.unmap_and_sync(mapping).unwrap();
        let mut bytes = [0; PAGE_BYTES as usize];
        page.read(0, &mut bytes);
        let landed = |at: usize| (0x80..0x180).contains(&at);
        for (at, seen) in bytes.iter().enumerate() {
            let expected = if landed(at) { byte } else { 0xee };
            assert_eq!(*seen, expected, "piece {index} at {at:#x}");
        }
        let page = page.into_segment().unwrap();
        let piece = Segment::merge(before, page).unwrap();
        used.push(Segment::merge(piece, after).unwrap());
    }
    rig.no_faults();
    for piece in used {
        rig.memory.free(piece).unwrap();
    }
    edu.stop();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn the_device_really_has_28_bits_and_its_driver_refuses_more() {
    let mask = DmaMask::bits(BITS).unwrap();
    let rig = disk::start(mask, 1 << 20);
    let attachment = rig.attach(EDU, Mode::Strict);
    let device = attachment.device(edu_info(mask), None);
    let edu = rig.edu(&device);
    let block = device.alloc_coherent::<[u8; 64]>(1, NONE).unwrap();
    let beyond = DmaSegment {
        addr: DmaAddr::new(block.dma_addr().raw() + (1 << BITS)),
        len: 64,
    };
    let refused = edu.write(&[beyond]).unwrap_err();
    assert!(matches!(refused, EduError::Reach { .. }), "{refused}");
    edu.reload(0x5a).unwrap();
    // A driver that believes in 64 bits: the device drops the upper ones without a word.
    let wide = attachment.device(edu_info(DmaMask::ALL), None);
    let believer = Edu::start(rig.machine.platform(), &wide, rig.regs(EDU)).unwrap();
    let view = device.view(&block).unwrap();
    view.at(0).unwrap().write(&[0xee; 64]);
    believer.write(&[beyond]).unwrap();
    assert_eq!(view.at(0).unwrap().read(), [0x5a; 64]);
    rig.no_faults();
    device.free_coherent(block).unwrap();
    believer.stop();
    edu.stop();
    wide.remove().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn a_space_of_28_bits_that_is_full_says_so_and_serves_again() {
    for (bits, fits) in [(BITS, false), (64, true)] {
        let mask = DmaMask::bits(bits).unwrap();
        let rig = disk::start(mask, 1 << 20);
        let attachment = rig.attach(EDU, Mode::Strict);
        let device = attachment.device(edu_info(mask), None);
        let first = PhysAddr::new(0);
        let nothing = || ScatterList::new(Vec::<CpuBuffer>::new()).unwrap();
        let reserve = || device.reserve::<FromDevice>(first, 128 << 20, 1, NONE);
        let give_back = |request| {
            let debt = device.cancel(request, nothing(), std::iter::empty());
            device
                .redeem(debt.unwrap(), &device.sync().unwrap())
                .unwrap();
        };
        let half = reserve().unwrap();
        match reserve() {
            Ok(second) => {
                assert!(fits, "{bits} bits");
                give_back(second);
            }
            Err(error) => {
                assert!(!fits, "{bits} bits: {error}");
                let is_full = matches!(
                    error,
                    LinkError::Map(MapError::Domain(DomainError::Space(_)))
                );
                assert!(is_full, "{error}");
                assert!(error.to_string().contains("134217728"), "{error}");
            }
        }
        give_back(half);
        give_back(reserve().unwrap());
        rig.close(device.remove().unwrap(), attachment);
    }
}
