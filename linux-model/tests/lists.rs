//! What this stack tells a device of a list, beside what the incumbent would.

#[path = "../../crates/dma/tests/domain/mod.rs"]
mod domain;

use dmakit_addr::{Attributes, BoundaryMask, PhysAddr, PhysRange, ToDevice};
use dmakit_dma::{DmaSegment, ScatterList, SegmentLimits};
use dmakit_linux_model::lay_out;
use dmakit_platform::CpuBuffer;
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_sim::Rng;

const PAGE: u64 = 4096;
const LISTS: u64 = 400;

/// Physical address and bytes of entries, mostly whole pages, none in the middle of another's pages.
fn entries(rng: &mut Rng, bytes_max: u64) -> Vec<(u64, u64)> {
    let mut next = 1 << 32;
    let count = 1 + rng.below(12);
    let one = |_| {
        next += rng.below(3) * PAGE;
        let offset = [0, 0, 0, 512 * rng.below(8)][rng.below(4) as usize];
        let whole = PAGE * (1 + rng.below(bytes_max / PAGE));
        let tail = [0, 0, 0, 512 * rng.below(8)][rng.below(4) as usize];
        let entry = (
            next + offset,
            whole - offset - tail.min(whole - offset - 512),
        );
        next += whole;
        entry
    };
    (0..count).map(one).collect()
}

fn buffer(&(start, len): &(u64, u64)) -> CpuBuffer {
    let page = start / PAGE * PAGE;
    let pages = (start + len).next_multiple_of(PAGE) - page;
    let frames = PhysRange::new(PhysAddr::new(page), pages).unwrap();
    let (_ram, mut segments) = HostRam::new(&[frames]).unwrap();
    let whole = segments.pop().unwrap();
    let body = match start - page {
        0 => whole,
        offset => whole.split_at(offset).unwrap().1,
    };
    CpuBuffer::from_segment(body, len).unwrap()
}

/// What both say to one list: segments as offsets from the first, and ours each piece apart.
struct Told {
    ours: Vec<DmaSegment>,
    apart: Vec<DmaSegment>,
    theirs: Vec<(u64, u64)>,
    entries: Vec<(u64, u64)>,
}

/// Tells devices with `limits` of random lists.
fn tell(limits: SegmentLimits, seed: u64, mut check: impl FnMut(&Told)) {
    let platform = HostPlatform::new(1);
    let domain = domain::strict(&platform);
    let device = domain::device(&platform, &domain, limits);
    let asked = dmakit_linux_model::SegmentLimits {
        boundary_mask: limits.boundary.raw(),
        bytes_max: limits.max_bytes,
    };
    let mut rng = Rng::new(seed);
    for _ in 0..LISTS {
        let entries = entries(&mut rng, limits.max_bytes.min(8 * PAGE));
        let list = ScatterList::new(entries.iter().map(buffer).collect::<Vec<_>>()).unwrap();
        let mapping = device
            .map_request::<ToDevice, _>(list, Attributes::NONE)
            .unwrap();
        check(&Told {
            ours: device.segments(&mapping).collect(),
            apart: device.segments_apart(&mapping).unwrap().collect(),
            theirs: lay_out(&entries, PAGE, &asked).segments,
            entries,
        });
        device.unmap_and_sync(mapping).unwrap();
    }
}

fn lens(segments: &[DmaSegment]) -> Vec<u64> {
    segments.iter().map(|segment| segment.len).collect()
}

#[test]
fn without_limits_both_join_alike_and_apart_is_the_list_itself() {
    tell(SegmentLimits::NONE, 1, |told| {
        let base = told.ours[0].addr.raw() - told.theirs[0].0;
        let ours = told.ours.iter().map(|s| (s.addr.raw() - base, s.len));
        assert_eq!(ours.collect::<Vec<_>>(), told.theirs);
        let lens_of_entries: Vec<_> = told.entries.iter().map(|entry| entry.1).collect();
        assert_eq!(lens(&told.apart), lens_of_entries);
    });
}

/// The incumbent ends a segment before an entry that is too long for it; here the entry is cut.
#[test]
fn with_a_longest_segment_ours_are_never_more() {
    let limits = SegmentLimits {
        max_bytes: 8 * PAGE,
        ..SegmentLimits::NONE
    };
    let mut fewer = 0;
    tell(limits, 2, |told| {
        assert!(told.ours.len() <= told.theirs.len());
        assert!(
            told.ours
                .iter()
                .all(|segment| segment.len <= limits.max_bytes)
        );
        fewer += u64::from(told.ours.len() < told.theirs.len());
    });
    println!("fewer segments for {fewer} of {LISTS} lists");
    assert!(fewer > 0, "lists on which the two differ");
}

/// The incumbent leaves addresses unused before an entry that would cross; here it is cut.
#[test]
fn with_a_boundary_none_crosses_it_and_none_is_wasted() {
    let limits = SegmentLimits {
        boundary: BoundaryMask::of_size(16 * PAGE).unwrap(),
        ..SegmentLimits::NONE
    };
    let (mut ours, mut theirs, mut padded) = (0, 0, 0);
    tell(limits, 3, |told| {
        let page = |segment: &DmaSegment| segment.addr.raw() / (16 * PAGE);
        let last = |segment: &DmaSegment| (segment.addr.raw() + segment.len - 1) / (16 * PAGE);
        assert!(
            told.ours
                .iter()
                .all(|segment| page(segment) == last(segment))
        );
        let bytes: u64 = told.entries.iter().map(|entry| entry.1).sum();
        assert_eq!(lens(&told.ours).iter().sum::<u64>(), bytes);
        assert_eq!(
            told.theirs.iter().map(|segment| segment.1).sum::<u64>(),
            bytes
        );
        let span = |first: u64, last: u64| last - first;
        let (first, end) = (told.ours[0], told.ours[told.ours.len() - 1]);
        let ours_span = span(first.addr.raw(), end.addr.raw() + end.len);
        let (first, end) = (told.theirs[0], told.theirs[told.theirs.len() - 1]);
        let theirs_span = span(first.0, end.0 + end.1);
        assert!(ours_span <= theirs_span);
        padded += u64::from(ours_span < theirs_span);
        ours += told.ours.len();
        theirs += told.theirs.len();
    });
    println!("{ours} segments, the incumbent's {theirs}; it pads {padded} of {LISTS} lists");
    assert!(padded > 0, "lists that the incumbent pads");
}
