extern crate std;

use std::vec::Vec;

use dmakit_addr::{BoundaryMask, DmaAddr};

use super::*;
use crate::{BusMap, BusRange};

fn phys(start: u64, end: u64) -> PhysRange {
    PhysRange::between(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
}

fn device(id: u64, bits: u32) -> DeviceInfo<'static> {
    DeviceInfo::new(DeviceId::new(id), "device", DmaMask::bits(bits).unwrap())
}

#[test]
fn a_frame_for_renderer_and_display_lies_where_the_display_reaches_it() {
    let renderer = device(1, 36);
    let mut display = device(2, 32);
    display.bus_limit = DmaMask::up_to(0x3fff_ffff);
    let devices = [&renderer, &display];
    let shared = SharedConstraints::new(&devices, MaskKind::Streaming);
    let frame = shared.placement(34 << 20, 4096).unwrap();
    assert_eq!(frame.window, phys(0, 0x4000_0000));
    assert_eq!(frame.request.limit, DmaMask::up_to(0x3fff_ffff));
    assert!(frame.accepts(phys(0x3e00_0000, 0x4000_0000)));
    assert!(!frame.accepts(phys(0x3e00_0000, 0x4000_0001)));
}

#[test]
fn devices_whose_buses_show_different_memory_share_none() {
    let low = [BusRange {
        phys: phys(0, 0x1000_0000),
        dma: DmaAddr::new(0x8000_0000),
    }];
    let high = [BusRange {
        phys: phys(0x1000_0000, 0x2000_0000),
        dma: DmaAddr::new(0),
    }];
    let (mut one, mut other) = (device(1, 32), device(2, 30));
    one.bus = BusMap::new(&low).unwrap();
    other.bus = BusMap::new(&high).unwrap();
    let devices = [&one, &other];
    let shared = SharedConstraints::new(&devices, MaskKind::Streaming);
    let refused = shared.placement(4096, 1).unwrap_err();
    assert_eq!((refused.len, refused.largest), (4096, 0));
    let narrowest = (DeviceId::new(2), DmaMask::bits(30).unwrap());
    assert_eq!(refused.narrowest, Some(narrowest));
}

#[test]
fn the_highest_window_that_is_large_enough_comes_first() {
    let ranges = [
        BusRange {
            phys: phys(0x9000, 0xa000),
            dma: DmaAddr::new(0x5000),
        },
        BusRange {
            phys: phys(0x1000, 0x5000),
            dma: DmaAddr::new(0),
        },
        BusRange {
            phys: phys(0x6000, 0x7000),
            dma: DmaAddr::new(0xffff_f800),
        },
    ];
    let mut one = device(1, 32);
    one.bus = BusMap::new(&ranges).unwrap();
    let other = device(2, 20);
    let devices = [&one, &other];
    let shared = SharedConstraints::new(&devices, MaskKind::Streaming);
    let windows: Vec<_> = shared.windows().collect();
    let cut = phys(0x6000, 0x6800);
    assert_eq!(windows, [phys(0x1000, 0x5000), cut, phys(0x9000, 0xa000)]);
    let found = |len, align| {
        let found = shared.placements(len, align);
        found
            .map(|placement| placement.window.start().raw())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(0x800, 1), [0x9000, 0x6000, 0x1000]);
    assert_eq!(found(0x1000, 0x4000), [0x1000]);
    assert_eq!(found(0x1001, 0x4000), [], "aligned, and too near the end");
    assert_eq!(found(0x1001, 1), [0x1000]);
}

#[test]
fn every_window_is_reachable_by_all_and_no_byte_beside_it_is() {
    // Bus ranges of pseudo-random devices, against asking each device about single bytes.
    let mut state = 0x9e37_79b9_u64;
    let mut next = move |below: u64| {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    for round in 0..200 {
        let maps: Vec<Vec<BusRange>> = (0..3)
            .map(|_| {
                let mut at = next(8);
                let mut ranges = Vec::new();
                for _ in 0..1 + next(3) {
                    let len = 1 + next(24);
                    let dma = DmaAddr::new(at + 64 * next(2));
                    ranges.push(BusRange {
                        phys: phys(at, at + len),
                        dma,
                    });
                    at += len + next(8);
                }
                ranges
            })
            .collect();
        let mut infos: Vec<_> = (1..4).map(|id| device(id, 7)).collect();
        for (info, map) in infos.iter_mut().zip(&maps) {
            // Overlapping DMA sides are refused; the device then has no offsets.
            info.bus = BusMap::new(map).unwrap_or_default();
            info.bus_limit = DmaMask::up_to(20 + next(100));
        }
        let devices: Vec<_> = infos.iter().collect();
        let shared = SharedConstraints::new(&devices, MaskKind::Streaming);
        let windows: Vec<_> = shared.windows().collect();
        for byte in 0..200 {
            let run = phys(byte, byte + 1);
            let reached = infos
                .iter()
                .all(|info| info.direct(run, MaskKind::Streaming).is_some());
            let listed = windows
                .iter()
                .filter(|window| window.contains_range(&run))
                .count();
            assert_eq!(usize::from(reached), listed, "round {round}, byte {byte}");
        }
        for window in windows {
            let whole = infos
                .iter()
                .all(|info| info.direct(window, MaskKind::Streaming).is_some());
            assert!(whole, "round {round}, {window}");
        }
    }
}

#[test]
fn limits_in_common_are_the_strictest_of_each() {
    let (mut one, mut other) = (device(1, 32), device(2, 32));
    one.limits.max_bytes = 0x1_0000;
    one.min_align = AlignMask::of_size(0x200).unwrap();
    one.node = Some(NodeId::new(1));
    other.limits.boundary = BoundaryMask::of_size(0x1000).unwrap();
    other.limits.max_count = 8;
    other.coherence = Coherence::NonCoherent;
    let devices = [&one, &other];
    let shared = SharedConstraints::new(&devices, MaskKind::Coherent);
    let limits = shared.limits();
    assert_eq!((limits.max_bytes, limits.max_count), (0x1_0000, 8));
    assert_eq!(limits.boundary.raw(), 0xfff);
    assert_eq!(shared.min_align().align_bytes(), 0x200);
    assert_eq!(shared.coherence(), Coherence::NonCoherent);
    assert_eq!(shared.node(), None);
    assert_eq!(shared.placement(0x1000, 1).unwrap().request.align, 0x200);
}
