//! Tables taken from areas before there is a page allocator.

#[path = "lockstep/random.rs"]
mod random;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaRequest, EarlyAreas, EarlyReason, Outcome, Place, Purpose, Reserved, reserve,
};
use dmakit_phys::{MemoryKind, MemoryMap, Region};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Segment, SegmentRequest, TableMemory};
use random::{Random, steps};

const MIB: u64 = 1 << 20;

/// Two nodes of 64 MiB each, and an area of `mib` on each.
fn machine(mib: u64, unit_order: u32) -> (Vec<Reserved>, Vec<Segment>) {
    let mut map = MemoryMap::new(2);
    let mut ranges = Vec::new();
    for node in 0..2 {
        let range = PhysRange::new(PhysAddr::new((node + 1) << 32), 64 * MIB).unwrap();
        ranges.push(range);
        let region = Region {
            range: range.frames(),
            node: NodeId::new(node as u16),
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    let requests = [0, 1].map(|node| AreaRequest {
        unit_order,
        place: Place::Anywhere,
        ..AreaRequest::new(Purpose::PerNode(NodeId::new(node)), mib * MIB)
    });
    let reserved = reserve(&mut map, &[], requests).into_iter().map(|one| {
        let Outcome::Reserved(reserved) = one.outcome else {
            panic!("{one}");
        };
        reserved
    });
    let (_, ram) = HostRam::new(&ranges).unwrap();
    (reserved.collect(), ram)
}

fn request(len: u64, align: u64, node: u16) -> SegmentRequest {
    SegmentRequest {
        len,
        align,
        node: Some(NodeId::new(node)),
        limit: DmaMask::ALL,
    }
}

fn is_zero(segment: &Segment) -> bool {
    let mut bytes = vec![1; segment.len() as usize];
    segment.window().read(&mut bytes);
    bytes.iter().all(|byte| *byte == 0)
}

#[test]
fn an_early_table_is_local_zeroed_aligned_and_stays_out_when_the_stage_ends() {
    let (reserved, mut ram) = machine(16, 0);
    let area = reserved[1].ranges()[0];
    ram[1].window().fill(0xa5);
    let mut bits = vec![!0; EarlyAreas::<HostPlatform>::bitmap_words(&reserved)];
    let early = EarlyAreas::new(HostPlatform::new(1), reserved, &mut ram, &mut bits).unwrap();
    // What is left of the nodes' RAM was not taken.
    let rest: u64 = ram.iter().map(Segment::len).sum();
    assert_eq!(rest, 2 * 48 * MIB);
    let small = early.allocate_table(&request(100, 1, 1)).unwrap();
    let table = early.allocate_table(&request(5 * MIB, MIB, 1)).unwrap();
    assert!(area.contains_range(&table.range().frames()));
    assert!(table.is_aligned(MIB) && is_zero(&table) && is_zero(&small));
    assert_eq!(early.taken_bytes(), 5 * MIB + 4096);
    // The other node, once this one is full.
    let large = early.allocate_table(&request(12 * MIB, 4096, 1)).unwrap();
    assert_eq!(large.range().start().raw() >> 32, 1);
    assert!(early.allocate_table(&request(12 * MIB, 4096, 1)).is_err());
    early.free(small).unwrap();
    let mut held = Vec::new();
    let _areas = early.close(&mut held);
    let held: u64 = held.iter().map(Segment::len).sum();
    assert_eq!(held, 2 * 16 * MIB - table.len() - large.len());
}

#[test]
fn only_a_whole_claim_comes_back_and_only_once() {
    let (reserved, mut ram) = machine(2, 2);
    let mut bits = vec![0; EarlyAreas::<HostPlatform>::bitmap_words(&reserved)];
    let early = EarlyAreas::new(HostPlatform::new(1), reserved, &mut ram, &mut bits).unwrap();
    let one = early.allocate_table(&request(4096, 4096, 0)).unwrap();
    assert_eq!(one.len(), 4 * 4096, "a unit is four frames");
    let two = early.allocate_table(&request(20_000, 4096, 0)).unwrap();
    assert_eq!(one.range().end(), two.range().start());
    let both = Segment::merge(one, two).unwrap();
    let both = early.free(both).unwrap_err();
    let (one, two) = both.split_at(4 * 4096).unwrap();
    let (low, high) = two.split_at(4 * 4096).unwrap();
    let low = early.free(low).unwrap_err();
    early.free(Segment::merge(low, high).unwrap()).unwrap();
    early.free(one).unwrap();
    let foreign = ram.pop().unwrap();
    assert!(early.free(foreign).is_err());
    assert_eq!(early.taken_bytes(), 0);
}

#[test]
fn too_small_a_bitmap_and_missing_ram_give_the_areas_back() {
    let (reserved, mut ram) = machine(16, 0);
    let needed = EarlyAreas::<HostPlatform>::bitmap_words(&reserved);
    assert_eq!(needed, 2 * 2 * (16 * MIB / 4096 / 64) as usize);
    let mut bits = vec![0; needed - 1];
    let error = EarlyAreas::new(HostPlatform::new(1), reserved, &mut ram, &mut bits).unwrap_err();
    let given = needed - 1;
    assert_eq!(error.reason, EarlyReason::TooFewWords { needed, given });
    assert_eq!(ram.len(), 2);
    let mut none = Vec::new();
    let mut bits = vec![0; needed];
    let platform = HostPlatform::new(1);
    let error = EarlyAreas::new(platform, error.reserved, &mut none, &mut bits).unwrap_err();
    assert!(matches!(error.reason, EarlyReason::NoRam(_)));
    assert_eq!(error.reserved.len(), 2);
}

/// The lowest window of free frames, looked for frame by frame.
fn free_window(out: &[bool], base: u64, frames: u64, align: u64, end: u64) -> Option<u64> {
    let mut free_from = base;
    (base..end.min(base + out.len() as u64)).find_map(|frame| {
        if out[(frame - base) as usize] {
            free_from = frame + 1;
        }
        let start = free_from.next_multiple_of(align);
        (start + frames == frame + 1).then_some(start)
    })
}

fn mark(out: &mut [Vec<bool>; 2], bases: [u64; 2], segment: &Segment, to: bool) {
    let frames = segment.range().frames();
    let node = usize::from(frames.start().raw() >= bases[1]);
    let first = (frames.start().raw() - bases[node]) as usize;
    out[node][first..first + frames.len() as usize].fill(to);
}

#[test]
fn an_early_claim_is_the_lowest_window_that_there_is() {
    for seed in 0..steps(4_000) / 200 {
        let mut random = Random::new(seed);
        let (reserved, mut ram) = machine(4, 0);
        let areas = [&reserved[0], &reserved[1]].map(|area| area.ranges()[0]);
        let bases = areas.map(|area| area.start().raw());
        let mut bits = vec![!0; EarlyAreas::<HostPlatform>::bitmap_words(&reserved)];
        let early = EarlyAreas::new(HostPlatform::new(1), reserved, &mut ram, &mut bits).unwrap();
        let mut out = areas.map(|area| vec![false; area.len() as usize]);
        let mut live: Vec<Segment> = Vec::new();
        for _ in 0..200 {
            if random.chance(60) {
                let frames = u64::from(1 + random.below(200));
                let align = random.pick(&[1, 1, 2, 16, 64, 256]);
                let node = random.below(2) as usize;
                let end = areas[0].start().raw() + u64::from(random.below(1200));
                let end = if random.chance(30) {
                    end
                } else {
                    u64::MAX >> 12
                };
                let limit = DmaMask::up_to((end << 12) - 1);
                let request = SegmentRequest {
                    limit,
                    ..request(frames * 4096, align * 4096, node as u16)
                };
                let expected = [node, 1 - node]
                    .into_iter()
                    .find_map(|of| free_window(&out[of], bases[of], frames, align, end));
                let got = early.allocate_table(&request).ok();
                let start = got
                    .as_ref()
                    .map(|segment| segment.range().start().pfn().raw());
                assert_eq!(start, expected, "seed {seed}: {request:?}");
                if let Some(segment) = got {
                    assert!(is_zero(&segment));
                    segment.window().fill(0x5a);
                    mark(&mut out, bases, &segment, true);
                    live.push(segment);
                }
            } else if !live.is_empty() {
                let segment = live.swap_remove(random.below(live.len() as u32) as usize);
                mark(&mut out, bases, &segment, false);
                early.free(segment).unwrap();
            }
        }
        let taken = out.iter().flatten().filter(|out| **out).count();
        let bytes = taken as u64 * 4096;
        assert_eq!(early.taken_bytes(), bytes);
        let mut held = Vec::new();
        let _areas = early.close(&mut held);
        let held: u64 = held.iter().map(Segment::len).sum();
        assert_eq!(held + bytes, 2 * 4 * MIB);
    }
}
