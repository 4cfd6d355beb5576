//! Active areas: lent, claimed back, and what stands in the way.

mod support;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    ActivateReason, AreaClaim, AreaReleaseError, AreaRequest, EarlyAreas, InactiveAreas, NoClaim,
    Place, Purpose,
};
use dmakit_phys::{
    AttachedRam, ClaimError, ClaimFailure, FrameRequest, FreeReason, MigrateType, Obstacle, Refusal,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{SegmentRequest, TableMemory};
use support::{MOVER, PATIENT, activate, claim, fill, frames, free_if, map, memory, reserved};

const MIB: u64 = 1 << 20;

fn request(purpose: Purpose, mib: u64) -> AreaRequest {
    AreaRequest::new(purpose, mib * MIB)
}

#[test]
fn an_idle_area_serves_movable_memory_and_comes_back_with_every_byte_kept() {
    let mut map = map(&[(0x1000, 0x1200, 0)]);
    let areas = reserved(&mut map, &[request(Purpose::Default, 8)]);
    let area = areas[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, areas);
    let id = areas.find(Purpose::Default).unwrap();
    let unmovable = |frames| {
        memory
            .allocator()
            .allocate(&FrameRequest::unmovable(frames))
    };
    // Movable memory everywhere, then room outside the area.
    fill(&memory, 1);
    assert_eq!(memory.allocator().free_frames(), 0);
    free_if(&memory, |range| !area.overlaps(&range));
    let taken = unmovable(1).unwrap();
    assert!(
        !area.overlaps(&taken.range()),
        "an area is lent to movable memory only"
    );
    let claimed = areas.claim(id, &claim(2048, 8), &PATIENT).unwrap();
    assert_eq!(claimed.range(), area);
    let word = memory.movers().write(area);
    memory.movers().check_all();
    memory.movers().check(area, word);
    assert_eq!(areas.usage(id).free, 0);
    let statistics = areas.statistics(id);
    assert_eq!((statistics.claims, statistics.claimed_frames), (1, 2048));
    assert_eq!(
        (statistics.moving_claims, statistics.moved_frames),
        (1, 2048)
    );
    areas.release(claimed).unwrap();
    assert_eq!(areas.usage(id).free, 2048);
    assert_eq!(areas.statistics(id).released_frames, 2048);
    assert_eq!(
        memory.allocator().migrate_type(area.start()),
        Some(MigrateType::Contiguous)
    );
}

#[test]
fn a_free_window_is_claimed_without_asking_anybody() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let areas = reserved(&mut map, &[request(Purpose::Default, 16)]);
    let area = areas[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, areas);
    let id = areas.find(Purpose::Default).unwrap();
    fill(&memory, 1);
    let hole = area.slice(0x700, 0x80).unwrap();
    free_if(&memory, |range| hole.contains_range(&range));
    let lent = areas.claim_free(id, &claim(0x81, 0)).unwrap_err();
    assert_eq!(lent.reason, NoClaim::Lent);
    let claimed = areas.claim_free(id, &claim(0x80, 5)).unwrap();
    assert_eq!(claimed.range(), hole);
    areas.release(claimed).unwrap();
    let claimed = areas.claim(id, &claim(0x80, 5), &PATIENT).unwrap();
    assert_eq!((claimed.range(), memory.movers().moves()), (hole, 0));
}

#[test]
fn an_area_that_was_lent_still_knows_what_is_full_and_what_is_idle() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let areas = reserved(&mut map, &[request(Purpose::Default, 4)]);
    let area = areas[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, areas);
    let id = areas.find(Purpose::Default).unwrap();
    fill(&memory, 1);
    free_if(&memory, |range| !area.overlaps(&range));
    let cleared = areas.claim(id, &claim(0x100, 8), &PATIENT).unwrap();
    assert_eq!(memory.movers().moves(), 0x100);
    // Not what is in the way, but that it is claimed.
    let full = areas.claim(id, &claim(0x400, 0), &PATIENT).unwrap_err();
    let NoClaim::Full(window) = full.reason else {
        panic!("{full}");
    };
    assert_eq!((window.units, window.free), (0x400, 0x300));
    free_if(&memory, |_| true);
    let idle = [0x80, 0x80].map(|count| areas.claim(id, &claim(count, 7), &PATIENT).unwrap());
    assert_eq!(memory.movers().moves(), 0x100, "nothing had to move");
    let mut claimed = idle.into_iter().chain([cleared]);
    claimed
        .try_for_each(|frames| areas.release(frames))
        .unwrap();
    assert_eq!(areas.usage(id).free, 0x400);
    assert_eq!(areas.statistics(id).moving_claims, 1);
}

#[test]
fn what_stands_in_the_way_is_named_and_nothing_stays_claimed() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let areas = reserved(&mut map, &[request(Purpose::Default, 4)]);
    let area = areas[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, areas);
    let id = areas.find(Purpose::Default).unwrap();
    fill(&memory, 1);
    free_if(&memory, |range| !area.overlaps(&range));
    // One frame in each half says no for good.
    let stuck = [area.slice(0x123, 1), area.slice(0x3ff, 1)].map(Option::unwrap);
    for frame in stuck {
        memory
            .movers()
            .refuse(frame.start(), Refusal::Pinned, u32::MAX);
    }
    let error = areas.claim(id, &claim(0x200, 9), &PATIENT).unwrap_err();
    let NoClaim::InTheWay(ClaimError {
        reason, blocking, ..
    }) = &error.reason
    else {
        panic!("{error}");
    };
    assert_eq!(*reason, ClaimFailure::Blocked);
    assert!(stuck.contains(&blocking[0].frames));
    assert_eq!(blocking[0].why, Obstacle::Refused(Refusal::Pinned));
    assert!(error.to_string().contains("pinned"), "{error}");
    assert_eq!(
        (areas.usage(id).free, areas.statistics(id).failures),
        (0x400, 1)
    );
    memory.movers().check_all();
    // Between them there is room.
    let claimed = areas.claim(id, &claim(0x200, 8), &PATIENT).unwrap_err();
    assert!(matches!(claimed.reason, NoClaim::InTheWay(_)));
    let claimed = areas.claim(id, &claim(0x100, 8), &PATIENT).unwrap();
    assert!(stuck.iter().all(|frame| !claimed.range().overlaps(frame)));
    areas.release(claimed).unwrap();
}

#[test]
fn frames_go_home_to_the_area_they_lie_in() {
    let mut map = map(&[(0x1000, 0x2000, 0), (0x10_0000, 0x2000, 1)]);
    let node = |node| request(Purpose::PerNode(NodeId::new(node)), 4);
    let set = reserved(&mut map, &[request(Purpose::Device, 2), node(0), node(1)]);
    let ranges: Vec<_> = set.iter().map(|area| area.ranges()[0]).collect();
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let ids: Vec<_> = areas.ids().collect();
    let claimed: Vec<_> = ids
        .iter()
        .map(|id| areas.claim_free(*id, &claim(7, 0)).unwrap())
        .collect();
    for ((id, frames), range) in ids.iter().zip(&claimed).zip(&ranges) {
        assert!(range.contains_range(&frames.range()));
        assert_eq!(areas.area_of(frames.range().start()), Some(*id));
        assert_eq!(areas.area_of(range.last().unwrap()), Some(*id));
        assert_eq!(areas.ranges(*id), [*range]);
    }
    assert_eq!(areas.area_of(frames(0x1000, 1).start()), None);
    for frames in claimed.into_iter().rev() {
        areas.release(frames).unwrap();
    }
    assert!(
        ids.iter()
            .all(|id| areas.usage(*id).free == areas.usage(*id).frames)
    );
    let other = memory
        .allocator()
        .allocate(&FrameRequest::unmovable(1))
        .unwrap();
    let error = areas.release(other).unwrap_err();
    let AreaReleaseError::NotHere(other) = error else {
        panic!("{error}");
    };
    memory.allocator().free(other).unwrap();
}

#[test]
fn a_limit_cuts_an_area_and_nothing_above_it_is_given() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let set = reserved(&mut map, &[request(Purpose::Default, 4)]);
    let area = set[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let id = areas.find(Purpose::Default).unwrap();
    let below = |offset: u64| AreaClaim {
        limit: DmaMask::up_to(((area.start().raw() + offset) << 12) - 1),
        ..claim(16, 0)
    };
    // The lowest window goes first, so it takes one above the limit to see the difference.
    let first = areas.claim_free(id, &claim(0x100, 0)).unwrap();
    assert_eq!(first.range().start(), area.start());
    let second = areas.claim_free(id, &claim(0x200, 0)).unwrap();
    areas.release(first).unwrap();
    let low = areas.claim_free(id, &below(0x100)).unwrap();
    assert!(low.range().end().raw() <= area.start().raw() + 0x100);
    let none = areas.claim(id, &below(8), &PATIENT).unwrap_err();
    assert!(matches!(none.reason, NoClaim::InTheWay(_)), "{none}");
    let none = areas.claim_free(id, &below(0)).unwrap_err();
    assert_eq!(none.reason, NoClaim::OutOfReach);
    areas.release(low).unwrap();
    areas.release(second).unwrap();
    assert_eq!(areas.usage(id).free, 0x400);
}

#[test]
fn claims_take_whole_units() {
    let mut map = map(&[(0x10_0000, 0x8_0000, 0)]);
    let gigantic = AreaRequest {
        unit_order: 9,
        align_order: 18,
        ..request(Purpose::Gigantic(NodeId::new(0)), 1024)
    };
    let set = reserved(&mut map, &[gigantic]);
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let id = areas.ids().next().unwrap();
    let claimed = areas.claim_free(id, &claim(513, 0)).unwrap();
    assert_eq!(claimed.range().len(), 1024);
    assert_eq!(areas.usage(id).free, (1 << 18) - 1024);
    areas.release(claimed).unwrap();
    let whole = areas.claim(id, &claim(1 << 18, 18), &PATIENT).unwrap();
    assert_eq!(
        memory.allocator().owner(whole.range().start()),
        Some(whole.range())
    );
    areas.release(whole).unwrap();
    let too_many = areas.claim(id, &claim(u64::MAX, 0), &PATIENT).unwrap_err();
    assert!(matches!(too_many.reason, NoClaim::Full(_)));
}

#[test]
fn what_was_claimed_early_stays_and_comes_home_later() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let set = reserved(&mut map, &[request(Purpose::Default, 4)]);
    let area = set[0].ranges()[0];
    let all = PhysRange::new(PhysAddr::new(0x1000 << 12), 0x2000 << 12).unwrap();
    let (_ram, mut ram) = HostRam::new(&[all]).unwrap();
    let mut bits = vec![0; EarlyAreas::<HostPlatform>::bitmap_words(&set)];
    let platform = HostPlatform::new(1);
    let early = EarlyAreas::new(platform.clone(), set, &mut ram, &mut bits).unwrap();
    let wanted = |len| SegmentRequest {
        len,
        align: 4096,
        node: None,
        limit: DmaMask::ALL,
    };
    let one = early.allocate_table(&wanted(3 * 4096)).unwrap();
    let two = early.allocate_table(&wanted(MIB)).unwrap();
    one.window().fill(0x11);
    let inactive = early.close(&mut ram);
    assert_eq!(inactive.claims(), 2);
    let memory = memory(&map);
    let (areas, failed) = inactive.activate(&memory);
    assert!(failed.is_empty());
    let id = areas.find(Purpose::Default).unwrap();
    let attached = AttachedRam::new(platform, memory.allocator(), ram, 4).with_out(2);
    assert_eq!(areas.usage(id).free, 0x400 - 3 - 0x100);
    // Nobody is given these frames, whatever is claimed and lent.
    fill(&memory, 1);
    free_if(&memory, |range| !area.overlaps(&range));
    let rest = areas.claim(id, &claim(0x400 - 0x103, 0), &PATIENT).unwrap();
    assert!(!rest.range().overlaps(&one.range().frames()));
    let mut bytes = vec![0; 3 * 4096];
    one.window().read(&mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0x11));
    // They are freed like any other claim.
    for segment in [one, two] {
        let frames = attached.detach(segment).unwrap();
        areas.release(frames).unwrap();
    }
    areas.release(rest).unwrap();
    let whole = areas.claim(id, &claim(0x400, 9), &PATIENT).unwrap();
    let segment = attached.attach(whole).unwrap();
    assert_eq!(segment.len(), 4 * MIB);
    areas.release(attached.detach(segment).unwrap()).unwrap();
}

#[test]
fn the_page_allocator_does_not_free_what_an_area_keeps_books_of() {
    let mut map = map(&[(0x1000, 0x1000, 0)]);
    let set = reserved(&mut map, &[request(Purpose::Default, 4)]);
    let all = PhysRange::new(PhysAddr::new(0x100_0000), 16 * MIB).unwrap();
    let (_ram, mut ram) = HostRam::new(&[all]).unwrap();
    let mut bits = vec![0; EarlyAreas::<HostPlatform>::bitmap_words(&set)];
    let platform = HostPlatform::new(1);
    let early = EarlyAreas::new(platform.clone(), set, &mut ram, &mut bits).unwrap();
    let wanted = SegmentRequest {
        len: MIB,
        align: 4096,
        node: None,
        limit: DmaMask::ALL,
    };
    let table = early.allocate_table(&wanted).unwrap();
    let inactive = early.close(&mut ram);
    let memory = memory(&map);
    let (areas, _) = inactive.activate(&memory);
    let attached = AttachedRam::new(platform, memory.allocator(), ram, 4).with_out(1);
    let id = areas.find(Purpose::Default).unwrap();

    // Claimed early, claimed idle, claimed from lent memory.
    let early = attached.detach(table).unwrap();
    let idle = areas.claim_free(id, &claim(0x100, 0)).unwrap();
    fill(&memory, 1);
    free_if(&memory, |range| range.start().raw() >= 0x1800);
    let lent = areas.claim(id, &claim(0x100, 0), &PATIENT).unwrap();
    for frames in [early, idle, lent] {
        let free = (areas.usage(id).free, memory.allocator().free_frames());
        let refused = memory.allocator().free(frames).unwrap_err();
        assert_eq!(refused.reason, FreeReason::Booked);
        let after = (areas.usage(id).free, memory.allocator().free_frames());
        assert_eq!(after, free, "nothing has changed");
        areas.release(refused.frames).unwrap();
    }
    assert_eq!(areas.usage(id).free, 0x400);
    // A claim that nobody keeps books of is freed as any allocation is.
    let own = memory.claim(frames(0x1c00, 0x10), &PATIENT).unwrap();
    memory.allocator().free(own).unwrap();
}

#[test]
fn an_area_that_the_page_allocator_does_not_know_stays_reserved() {
    let mut known = map(&[(0x1000, 0x2000, 0)]);
    let mut unknown = map(&[(0x1000, 0x2000, 0), (0x8000, 0x1000, 0)]);
    let elsewhere = AreaRequest {
        place: Place::At(frames(0x8000, 1).start()),
        ..request(Purpose::Device, 4)
    };
    let mut set = reserved(&mut known, &[request(Purpose::Default, 4)]);
    set.extend(reserved(&mut unknown, &[elsewhere]));
    let memory = memory(&known);
    let (areas, failed) = InactiveAreas::new(set).activate(&memory);
    assert_eq!(areas.ids().count(), 1);
    assert_eq!(failed[0].purpose, Purpose::Device);
    assert_eq!(
        failed[0].reason,
        ActivateReason::NotSetAside(frames(0x8000, 0x400))
    );
    let id = areas.ids().next().unwrap();
    let claimed = areas.claim_free(id, &claim(0x400, 0)).unwrap();
    areas.release(claimed).unwrap();
    let lent = memory
        .allocator()
        .allocate(&FrameRequest::movable(1, MOVER))
        .unwrap();
    memory.allocator().free(lent).unwrap();
}
