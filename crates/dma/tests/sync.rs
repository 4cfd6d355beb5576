//! What syncs bring and what unmapping brings without them.
// A refused token comes back in the error, and tokens own their memory.
#![allow(clippy::result_large_err)]

mod rig;

use dmakit_addr::{Attributes, Bidirectional, DmaAddr, FromDevice};
use dmakit_dma::{Coherence, SegmentLimits, TokenError};
use rig::{PathKind, Rig, align, bytes_of, pattern};

const NONE: Attributes = Attributes::NONE;

#[test]
fn coherence_and_bouncing_are_independent() {
    for (coherence, path, lines, copies) in [
        (Coherence::Coherent, PathKind::Needed, false, false),
        (Coherence::Coherent, PathKind::Always, false, true),
        (Coherence::NonCoherent, PathKind::Needed, true, false),
        (Coherence::NonCoherent, PathKind::Always, true, true),
    ] {
        let case = format!("{coherence:?}, {path:?}");
        let rig = Rig::non_coherent(11);
        let (sim, info) = rig.device(1, 64, coherence);
        let device = rig.attach(info, path);
        let mapping = device
            .map::<Bidirectional>(rig.filled(512, 64, false), NONE)
            .unwrap();
        let mut seen = vec![0; 512];
        sim.read(mapping.dma_addr(), &mut seen).unwrap();
        assert_eq!(seen, pattern(1, 512), "{case}");
        sim.write(mapping.dma_addr(), &pattern(2, 512)).unwrap();
        let mut cpu = device.sync_for_cpu(mapping).unwrap();
        cpu.read(0, &mut seen);
        assert_eq!(seen, pattern(2, 512), "{case}");
        cpu.write(0, &pattern(3, 512));
        let mapping = device.sync_for_device(cpu).unwrap();
        sim.read(mapping.dma_addr(), &mut seen).unwrap();
        assert_eq!(seen, pattern(3, 512), "{case}");
        assert_eq!(mapping.needs_sync(), lines || copies, "{case}");
        device.unmap_and_sync(mapping).unwrap();
        assert_eq!(rig.machine.counts().lines_maintained > 0, lines, "{case}");
        assert_eq!(device.stats().bytes_copied_in > 0, copies, "{case}");
    }
}

#[test]
fn any_part_can_be_synced_and_none_outside() {
    for (coherence, path) in [
        (Coherence::Coherent, PathKind::Direct),
        (Coherence::Coherent, PathKind::Always),
        (Coherence::NonCoherent, PathKind::Needed),
        (Coherence::NonCoherent, PathKind::Always),
    ] {
        let rig = Rig::non_coherent(12);
        let (sim, info) = rig.device(1, 64, coherence);
        let device = rig.attach(info, path);
        let mut mapping = device
            .map::<Bidirectional>(rig.filled(4096, 0, false), NONE)
            .unwrap();
        let mut model = pattern(1, 4096);
        for (i, (offset, len)) in [(0, 1), (63, 2), (1, 4095), (4096, 0), (2047, 2)]
            .into_iter()
            .enumerate()
        {
            let case = format!("{coherence:?}, {path:?}, {len} at {offset}");
            let bytes = pattern(100 + i as u64, len as u64);
            let addr = DmaAddr::new(mapping.dma_addr().raw() + offset as u64);
            sim.write(addr, &bytes).unwrap();
            model[offset..offset + len].copy_from_slice(&bytes);
            let mut part = device
                .sync_part_for_cpu(&mut mapping, offset as u64, len as u64)
                .unwrap();
            let mut seen = vec![0; len + 8];
            assert_eq!(part.read(0, &mut seen), len, "{case}");
            assert_eq!(seen[..len], bytes, "{case}");
            let answer = pattern(200 + i as u64, len as u64);
            assert_eq!(part.write(0, &answer), len);
            assert_eq!(part.write(len as u64, &[1]), 0, "past the part");
            device.sync_part_for_device(part).unwrap();
            model[offset..offset + len].copy_from_slice(&answer);
            let mut all = vec![0; 4096];
            sim.read(mapping.dma_addr(), &mut all).unwrap();
            assert!(all == model, "{case}");
        }
        for (offset, len) in [(0, 4097), (4097, 0), (u64::MAX, 2)] {
            let refused = device.sync_part_for_cpu(&mut mapping, offset, len).err();
            let error = TokenError::OutOfRange {
                offset,
                len,
                mapped: 4096,
            };
            assert_eq!(refused, Some(error));
        }
        assert_eq!(bytes_of(&device.unmap_and_sync(mapping).unwrap()), model);
    }
}

#[test]
fn what_was_recorded_at_map_counts_at_unmap() {
    let rig = Rig::coherent(13);
    let (sim, mut device) = rig.ready_with(PathKind::Always, 64, |info| {
        info.min_align = align(4096);
    });
    let mapping = device
        .map::<Bidirectional>(rig.filled(5000, 0xe03, false), NONE)
        .unwrap();
    assert_eq!(mapping.dma_addr().raw() & 0xfff, 0xe03);
    device.set_min_align(align(1));
    device.set_limits(SegmentLimits {
        max_bytes: 1,
        ..SegmentLimits::NONE
    });
    sim.write(mapping.dma_addr(), &pattern(2, 5000)).unwrap();
    let buffer = device.unmap_and_sync(mapping).unwrap();
    assert_eq!(bytes_of(&buffer), pattern(2, 5000));
    assert_eq!(rig.pool.used(), 0);
}

#[test]
fn skipped_syncs_can_be_made_up_for() {
    for path in [PathKind::Needed, PathKind::Always] {
        let rig = Rig::non_coherent(19);
        let (sim, info) = rig.device(1, 64, Coherence::NonCoherent);
        let device = rig.attach(info, path);
        let mapping = device
            .map::<FromDevice>(rig.filled(4096, 0, false), Attributes::NONE)
            .unwrap();
        let buffer = device.unmap_and_sync(mapping).unwrap();
        let mapping = device
            .map::<FromDevice>(buffer, Attributes::SKIP_CPU_SYNC)
            .unwrap();
        sim.write(mapping.dma_addr(), &pattern(5, 4096)).unwrap();
        let cpu = device.sync_for_cpu(mapping).unwrap();
        let mut seen = vec![0; 4096];
        cpu.read(0, &mut seen);
        assert_eq!(seen, pattern(5, 4096), "{path:?}");
        let buffer = device.unmap_and_sync(cpu.resubmit()).unwrap();
        assert_eq!(bytes_of(&buffer), pattern(5, 4096), "{path:?}");
    }
}
