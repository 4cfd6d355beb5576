//! Frames with RAM behind them, and what the allocator promises at its edges.

use dmakit_addr::{Address, DmaMask, NodeId, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_phys::{
    AttachedRam, Frame, FrameRequest, FreeReason, MAX_ORDER, MemoryKind, MemoryMap, MigrateType,
    MoverId, PageAllocator, Region, TableError,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{PoolMemory, Segment, SegmentRequest, TableMemory};

type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;

fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

fn map(ranges: &[(u64, u64, u16)]) -> MemoryMap {
    let mut map = MemoryMap::new(4);
    for (start, len, node) in ranges {
        let region = Region {
            range: frames(*start, *len),
            node: NodeId::new(*node),
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    map
}

fn build(map: &MemoryMap, limits: &[DmaMask]) -> Allocator {
    let entries = Allocator::table_entries(map) as usize;
    Allocator::new(map, limits, vec![Frame::default(); entries]).unwrap()
}

fn ram(start: u64, len: u64) -> Vec<Segment> {
    let range = PhysRange::new(PhysAddr::new(start << 12), len << 12).unwrap();
    HostRam::new(&[range]).unwrap().1
}

fn request(len: u64, align: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align,
        node: None,
        limit: DmaMask::ALL,
    }
}

#[test]
fn a_table_is_zeroed_aligned_and_comes_home() {
    let allocator = build(&map(&[(0x1000, 1024, 0)]), &[]);
    let attached = AttachedRam::new(HostPlatform::new(1), &allocator, ram(0x1000, 1024), 4);
    let dirty = attached.allocate_pool(&request(1 << 16, 1)).unwrap();
    dirty.window().fill(0xa5);
    attached.free_pool(dirty);
    let table = attached.allocate_table(&request(5000, 1 << 16)).unwrap();
    assert_eq!(table.len(), 8192);
    assert!(table.is_aligned(1 << 16));
    let mut bytes = vec![1; 8192];
    table.window().read(&mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0));
    attached.free_table(table);
    assert_eq!(allocator.free_frames(), 1024);
    let whole = allocator.allocate(&FrameRequest::unmovable(1024)).unwrap();
    assert_eq!(attached.attach(whole).unwrap().len(), 1024 << 12);
}

#[test]
fn frames_and_segments_turn_into_each_other() {
    let allocator = build(&map(&[(0x1000, 1024, 0)]), &[]);
    let attached = AttachedRam::new(HostPlatform::new(1), &allocator, ram(0x1000, 1024), 8);
    let owned = allocator
        .allocate(&FrameRequest::movable(3, MoverId::new(7)))
        .unwrap();
    let range = owned.range();
    let segment = attached.attach(owned).unwrap();
    assert_eq!(Some(segment.range()), range.bytes());
    let (low, high) = segment.split_at(4096).unwrap();
    let low = attached.detach(low).unwrap_err().segment;
    let segment = Segment::merge(low, high).unwrap();
    let owned = attached.detach(segment).unwrap();
    assert_eq!(owned.range(), range);
    allocator.free(owned).unwrap();
}

#[test]
fn no_more_segments_are_out_than_there_is_room_for() {
    let allocator = build(&map(&[(0x1000, 1024, 0)]), &[]);
    let attached = AttachedRam::new(HostPlatform::new(1), &allocator, ram(0x1000, 1024), 2);
    let one = attached.allocate_table(&request(4096, 1)).unwrap();
    let two = attached.allocate_table(&request(4096, 1)).unwrap();
    assert!(attached.allocate_table(&request(4096, 1)).is_err());
    assert_eq!(allocator.free_frames(), 1022);
    attached.free_table(one);
    let three = attached.allocate_table(&request(4096, 1)).unwrap();
    attached.free_table(two);
    attached.free_table(three);
    assert_eq!(allocator.free_frames(), 1024);
}

#[test]
fn frames_without_ram_behind_them_come_back_as_frames() {
    let allocator = build(&map(&[(0x1000, 1024, 0), (0x8000, 512, 1)]), &[]);
    let attached = AttachedRam::new(HostPlatform::new(1), &allocator, ram(0x1000, 1024), 2);
    let bare = FrameRequest {
        node: Some(NodeId::new(1)),
        ..FrameRequest::unmovable(1)
    };
    let bare = allocator.allocate(&bare).unwrap();
    let bare = attached.attach(bare).unwrap_err();
    allocator.free(bare).unwrap();
}

#[test]
fn nonsense_is_refused_with_the_numbers() {
    let allocator = build(&map(&[(0x1000, 1024, 0)]), &[]);
    let attached = AttachedRam::new(HostPlatform::new(1), &allocator, ram(0x1000, 1024), 2);
    for (len, align) in [(0, 1), (4096, 3), (4096, 0), (u64::MAX, 1), (1, 1 << 63)] {
        assert!(attached.allocate_table(&request(len, align)).is_err());
    }
    let error = attached.allocate_table(&request(8 << 20, 1)).unwrap_err();
    assert_eq!(error.largest_free, Some(4 << 20));
    assert_eq!(allocator.free_frames(), 1024);
}

#[test]
fn a_gibibyte_is_one_block_and_no_block_is_larger() {
    let gib = 1 << MAX_ORDER;
    let allocator = build(&map(&[(gib, 2 * gib, 0)]), &[]);
    let wanted = FrameRequest::unmovable(gib);
    let one = allocator.allocate(&wanted).unwrap();
    let two = allocator.allocate(&wanted).unwrap();
    assert!(allocator.allocate(&FrameRequest::unmovable(1)).is_err());
    assert!(one.range().start().is_aligned(gib) && two.range().start().is_aligned(gib));
    allocator.free(one).unwrap();
    allocator.free(two).unwrap();
    let error = allocator
        .allocate(&FrameRequest::unmovable(gib + 1))
        .unwrap_err();
    assert_eq!((error.order, error.largest_order), (19, Some(18)));
}

#[test]
fn a_token_of_another_allocator_is_refused_and_comes_back() {
    let (ours, theirs) = (
        build(&map(&[(0, 512, 0)]), &[]),
        build(&map(&[(0, 512, 0)]), &[]),
    );
    let foreign = theirs.allocate(&FrameRequest::unmovable(4)).unwrap();
    let error = ours.free(foreign).unwrap_err();
    assert_eq!(error.reason, FreeReason::NotTaken);
    let own = ours.allocate(&FrameRequest::unmovable(2)).unwrap();
    let error = ours.free(error.frames).unwrap_err();
    assert_eq!(error.reason, FreeReason::NotTheOwner);
    let far = build(&map(&[(0x9000, 512, 0)]), &[]);
    let error = far.free(error.frames).unwrap_err();
    assert_eq!(error.reason, FreeReason::NotHere);
    theirs.free(error.frames).unwrap();
    ours.free(own).unwrap();
}

#[test]
fn a_node_without_memory_is_served_by_the_nearest_that_has_some() {
    let mut map = map(&[(0x1000, 512, 0), (0x2000, 512, 2)]);
    map.set_distance(NodeId::new(3), NodeId::new(2), 12)
        .unwrap();
    let allocator = build(&map, &[]);
    let near = |only_node| FrameRequest {
        node: Some(NodeId::new(3)),
        only_node,
        ..FrameRequest::unmovable(1)
    };
    let served = allocator.allocate(&near(false)).unwrap();
    assert!(frames(0x2000, 512).contains(served.range().start()));
    assert!(allocator.allocate(&near(true)).is_err());
}

#[test]
fn low_memory_goes_last_to_those_who_reach_all() {
    let limit = DmaMask::bits(32).unwrap();
    let allocator = build(&map(&[(0xff000, 0x2000, 0)]), &[limit]);
    let anywhere = allocator.allocate(&FrameRequest::unmovable(1)).unwrap();
    assert!(anywhere.range().start().raw() >= 1 << 20);
    let low = FrameRequest {
        limit,
        ..FrameRequest::unmovable(1)
    };
    let low = allocator.allocate(&low).unwrap();
    assert!(low.range().end().raw() <= 1 << 20);
}

#[test]
fn only_movable_memory_borrows_from_contiguous_areas() {
    let allocator = build(&map(&[(0x1000, 1024, 0)]), &[]);
    assert!(allocator.set_migrate_type(frames(0x1000, 1024), MigrateType::Contiguous));
    assert!(allocator.allocate(&FrameRequest::unmovable(1)).is_err());
    let borrowed = allocator
        .allocate(&FrameRequest::movable(1, MoverId::new(7)))
        .unwrap();
    assert!(allocator.set_migrate_type(frames(0x1000, 1024), MigrateType::Isolated));
    assert!(
        allocator
            .allocate(&FrameRequest::movable(1, MoverId::new(7)))
            .is_err()
    );
    allocator.free(borrowed).unwrap();
    assert!(
        allocator
            .allocate(&FrameRequest::movable(1, MoverId::new(7)))
            .is_err()
    );
    assert_eq!(allocator.free_blocks(10, MigrateType::Isolated), 1);
}

#[test]
fn a_table_too_small_is_refused_with_the_size_it_needs() {
    let map = map(&[(0x1000, 1024, 0)]);
    let refused = Allocator::new(&map, &[], vec![Frame::default(); 1000]).unwrap_err();
    // One for each frame, 21 for each page block: at most 16 bytes a frame in all.
    let (needed, given) = (1024 + 2 * 21, 1000);
    assert_eq!(refused, TableError::TooSmall { needed, given });
    assert!(needed as usize * size_of::<Frame>() <= 1024 * 16);
}

#[test]
fn limits_that_make_no_zones_are_refused() {
    let map = map(&[(0x1000, 1024, 0)]);
    let high = DmaMask::bits(32).unwrap();
    let low = DmaMask::bits(24).unwrap();
    for limits in [&[high, low][..], &[DmaMask::ALL], &[DmaMask::up_to(5000)]] {
        let table = vec![Frame::default(); 1024 + 42];
        let refused = Allocator::new(&map, limits, table).unwrap_err();
        assert!(matches!(refused, TableError::Limit(_)));
    }
}

#[test]
fn memory_far_apart_has_a_table_of_its_own_size() {
    let far = map(&[(0x1000, 1024, 0), (1 << 36, 1024, 1)]);
    assert!(Allocator::table_entries(&far) <= (4 << 20) + 21 * (4 << 11));
    let allocator = build(&far, &[]);
    let on = FrameRequest {
        node: Some(NodeId::new(1)),
        ..FrameRequest::unmovable(1024)
    };
    let high = allocator.allocate(&on).unwrap();
    assert_eq!(high.range(), frames(1 << 36, 1024));
}

#[test]
fn what_is_set_aside_serves_nobody_before_its_blocks_are_contiguous() {
    let mut map = map(&[(0x1000, 0x1000, 0)]);
    let area = frames(0x1400, 0x400);
    map.set_aside(area).unwrap();
    let allocator = build(&map, &[]);
    assert_eq!(allocator.free_frames(), 0x1000);
    let mut taken = Vec::new();
    while let Ok(frames) = allocator.allocate(&FrameRequest::movable(1, MoverId::new(7))) {
        assert!(!area.overlaps(&frames.range()));
        taken.push(frames);
    }
    assert_eq!(allocator.free_frames(), area.len());
    assert!(allocator.set_migrate_type(area, MigrateType::Contiguous));
    assert!(allocator.allocate(&FrameRequest::unmovable(1)).is_err());
    let lent = allocator
        .allocate(&FrameRequest::movable(0x400, MoverId::new(7)))
        .unwrap();
    assert_eq!(lent.range(), area);
    allocator.free(lent).unwrap();
}
