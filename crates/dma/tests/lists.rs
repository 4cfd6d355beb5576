//! Memory of many runs, and the segments that a device is told of.

mod rig;

use dmakit_addr::{Attributes, Bidirectional, BoundaryMask, ToDevice};
use dmakit_dma::{DmaSegment, MapError, ScatterList, SegmentLimits};
use dmakit_platform::CpuBuffer;
use dmakit_sim::SimDevice;
use rig::{PathKind, Rig, pattern};

const NONE: Attributes = Attributes::NONE;

/// Three buffers, of which the last is out of reach where `is_high`.
fn list(rig: &Rig, is_high: bool) -> ScatterList<Vec<CpuBuffer>> {
    let whole = rig.segment(0x4000, false);
    let (first, rest) = whole.split_at(0x1000).unwrap();
    let (second, rest) = rest.split_at(0x1000).unwrap();
    let (_, third) = rest.split_at(0x1000).unwrap();
    let third = if is_high {
        rig.segment(0x1000, true)
    } else {
        third
    };
    let segments = [first, second, third];
    let buffers = segments
        .into_iter()
        .map(|segment| CpuBuffer::from_segment(segment, 0x1000).unwrap());
    let mut list = ScatterList::new(buffers.collect::<Vec<_>>()).unwrap();
    dmakit_dma::DmaMemory::write(&mut list, 0, &pattern(1, 0x3000));
    list
}

fn gather(sim: &SimDevice, segments: &[DmaSegment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments {
        let mut part = vec![0; segment.len as usize];
        sim.read(segment.addr, &mut part).unwrap();
        bytes.extend(part);
    }
    bytes
}

#[test]
fn a_list_becomes_the_fewest_segments_that_the_limits_allow() {
    let rig = Rig::coherent(14);
    for (max_bytes, boundary, count) in [
        (u64::MAX, BoundaryMask::NONE, 2),
        (0x1800, BoundaryMask::NONE, 3),
        (u64::MAX, BoundaryMask::of_size(0x800).unwrap(), 6),
    ] {
        let (sim, device) = rig.ready_with(PathKind::Direct, 64, |info| {
            info.limits = SegmentLimits {
                max_bytes,
                boundary,
                ..SegmentLimits::NONE
            };
        });
        let mut segments = [DmaSegment::default(); 8];
        let mapping = device
            .map_scatter::<ToDevice, _>(list(&rig, false), NONE, &mut segments)
            .unwrap();
        assert_eq!(mapping.segment_count(), count);
        assert_eq!(gather(&sim, &segments[..count]), pattern(1, 0x3000));
        let list = device.unmap_and_sync(mapping).unwrap();
        assert_eq!(list.into_buffers().len(), 3);
    }
}

#[test]
fn a_list_of_which_one_run_must_bounce_bounces_as_one_stretch() {
    let rig = Rig::coherent(15);
    let (sim, device) = rig.ready_with(PathKind::Needed, 32, |info| {
        info.limits.max_bytes = 0x1000;
    });
    let mut segments = [DmaSegment::default(); 8];
    let mapping = device
        .map_scatter::<Bidirectional, _>(list(&rig, true), NONE, &mut segments)
        .unwrap();
    assert!(mapping.is_bounced());
    let segments = &segments[..mapping.segment_count()];
    assert_eq!(segments.len(), 3);
    assert_eq!(gather(&sim, segments), pattern(1, 0x3000));
    for (i, segment) in segments.iter().enumerate() {
        sim.write(segment.addr, &vec![i as u8; 0x1000]).unwrap();
    }
    let list = device.unmap_and_sync(mapping).unwrap();
    let mut bytes = vec![0xff; 0x3000];
    dmakit_dma::DmaMemory::read(&list, 0, &mut bytes);
    assert!(
        bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == (at / 0x1000) as u8)
    );
}

#[test]
fn a_list_longer_than_its_slice_says_how_long() {
    let rig = Rig::coherent(16);
    for path in [PathKind::Direct, PathKind::Always] {
        let (_, device) = rig.ready_with(path, 64, |info| info.limits.max_bytes = 0x800);
        let used = rig.pool.used();
        let mut segments = [DmaSegment::default(); 4];
        let refused = device.map_scatter::<ToDevice, _>(list(&rig, false), NONE, &mut segments);
        let error = MapError::TooManySegments { needed: 6, room: 4 };
        assert_eq!(refused.unwrap_err().error, error, "{path:?}");
        assert_eq!(
            (rig.pool.used(), device.stats().failed.limits),
            (used, 1),
            "{path:?}"
        );
    }
}

#[test]
fn one_segment_is_one_segment_or_an_error() {
    let rig = Rig::coherent(17);
    let (_, device) = rig.ready_with(PathKind::Direct, 64, |info| {
        info.limits.boundary = BoundaryMask::of_size(0x1000).unwrap();
    });
    let refused = device
        .map::<ToDevice>(rig.filled(0x1000, 1, false), NONE)
        .unwrap_err();
    assert!(
        matches!(refused.error, MapError::Limits { .. }),
        "{refused}"
    );
    let apart = CpuBuffer::from_segments(
        vec![rig.segment(0x1000, false), rig.segment(0x1000, true)],
        0x2000,
    );
    let refused = device.map::<ToDevice>(apart.unwrap(), NONE).unwrap_err();
    assert!(
        matches!(refused.error, MapError::Scattered { .. }),
        "{refused}"
    );
    let empty = CpuBuffer::from_segment(rig.segment(0x1000, false), 0).unwrap();
    assert_eq!(
        device.map::<ToDevice>(empty, NONE).unwrap_err().error,
        MapError::Empty
    );
    let (_, device) = rig.ready_with(PathKind::Always, 64, |info| {
        info.limits.max_bytes = 10;
    });
    let refused = device
        .map::<ToDevice>(rig.filled(11, 0, false), NONE)
        .unwrap_err();
    assert_eq!(refused.error, MapError::TooLong { len: 11, max: 10 });
    assert_eq!(rig.pool.used(), 0);
}
