//! Claims of contiguous frames: what moves, where to, and what stands in the way.

// Each test uses a part of it.
#[allow(dead_code)]
mod movers;

use dmakit_addr::{NodeId, PfnRange};
use dmakit_phys::{
    ClaimFailure, ClaimLimits, FrameRequest, MigrateType, MigrationCause, MigrationCounts, MoverId,
    Obstacle, Refusal, WindowIn, WindowRequest,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build, frames};

const MOVER: MoverId = MoverId::new(3);

const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 3,
};

fn anywhere<'r>(within: &'r [PfnRange], count: u64, align_order: u32) -> WindowRequest<'r> {
    WindowRequest {
        within,
        frames: count,
        align_order,
        excluded: &[],
        memory: WindowIn::OtherMemory,
    }
}

/// Movable single frames in every frame of `range`, which has to be free.
fn fill(memory: &Memory, owners: &Owners, range: PfnRange) {
    while let Ok(frames) = memory
        .allocator()
        .allocate(&FrameRequest::movable(1, MOVER))
    {
        if range.contains(frames.range().start()) {
            owners.keep(frames);
        } else {
            owners.set_aside(frames);
        }
    }
    owners.free_aside(memory);
}

#[test]
fn a_claim_moves_what_is_in_its_way_and_keeps_every_byte() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    let range = frames(512, 700);
    fill(&memory, &owners, range);
    let claimed = memory.claim(range, &LIMITS).unwrap();
    assert_eq!(claimed.range(), range);
    owners.check_all();
    assert!(owners.ranges().iter().all(|held| !held.overlaps(&range)));
    assert_eq!(memory.migrations(MigrationCause::Claim).moved, 700);
    assert_eq!(memory.allocator().owner(range.start()), Some(range));
    assert_eq!(memory.allocator().owner(range.last().unwrap()), Some(range));
    memory.allocator().free(claimed).unwrap();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_blocks(11, MigrateType::Movable), 1);
}

#[test]
fn a_search_looks_into_the_one_block_whose_window_costs_least() {
    let owners = Owners::new();
    let memory = build(&[(0, 8 * 512, 0)], owners.clone());
    let request = FrameRequest::movable(1, MOVER);
    while let Ok(frames) = memory.allocator().allocate(&request) {
        // Each page block has a window that is cheaper than those of the blocks before it.
        let start = frames.range().start().raw();
        match start % 512 <= start / 512 {
            true => owners.set_aside(frames),
            false => owners.keep(frames),
        }
    }
    owners.free_aside(&memory);
    let all = [frames(0, 8 * 512)];
    // What blocks cost at least is worked out at first, and known later.
    for _ in 0..2 {
        let found = memory.find(&anywhere(&all, 16, 4)).unwrap();
        assert_eq!((found.range, found.moves), (frames(7 * 512, 16), 8));
        assert_eq!(found.steps, 8 + 1);
    }
    owners.free_all(&memory);
}

#[test]
fn a_refused_claim_leaves_everything_as_it_was() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    let range = frames(0, 512);
    fill(&memory, &owners, range);
    owners.refuse(range.start(), Refusal::Busy, u32::MAX);
    let before = memory.allocator().free_frames();
    let error = memory.claim(range, &LIMITS).unwrap_err();
    assert_eq!(error.reason, ClaimFailure::Tries);
    assert_eq!(error.blocking[0].frames, frames(0, 1));
    assert_eq!(error.blocking[0].why, Obstacle::Refused(Refusal::Busy));
    assert_eq!(memory.allocator().free_frames(), before);
    let counts = memory.migrations(MigrationCause::Claim);
    assert_eq!(counts.refused[Refusal::Busy as usize], 4);
    owners.check_all();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_blocks(11, MigrateType::Movable), 1);
}

#[test]
fn a_gate_that_is_closed_as_a_whole_ends_a_claim_before_anybody_is_asked() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    fill(&memory, &owners, frames(0, 1024));
    owners.close(MigrationCause::Claim);
    let all = [frames(0, 2048)];
    let before = memory.allocator().free_frames();
    // Every window of this size has something in it that would have to move.
    let error = memory.claim_window(&anywhere(&all, 1500, 0), &LIMITS);
    let error = error.unwrap_err();
    assert_eq!(
        error.reason,
        ClaimFailure::Full {
            moves: 476,
            free: 0
        }
    );
    let error = memory.claim(frames(1000, 600), &LIMITS).unwrap_err();
    assert_eq!(error.reason, ClaimFailure::NotPermitted);
    let [blocking] = &error.blocking[..] else {
        panic!("{error}");
    };
    assert_eq!(blocking.frames, frames(1000, 1));
    assert_eq!(
        blocking.why,
        Obstacle::Refused(Refusal::NotPermitted),
        "the first that would have had to move"
    );
    let counts = memory.migrations(MigrationCause::Claim);
    assert_eq!((owners.asked(), counts.moved), (0, 0));
    assert_eq!(counts.refused[Refusal::NotPermitted as usize], 1);
    assert_eq!(memory.allocator().free_frames(), before);
    // Where nothing has to move nobody's leave is needed, and other causes are not meant.
    let free = memory.claim(frames(1024, 600), &LIMITS).unwrap();
    let other = memory.claim_for(frames(1000, 24), MigrationCause::HugePage, &LIMITS);
    memory.allocator().free(other.unwrap()).unwrap();
    memory.allocator().free(free).unwrap();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_blocks(11, MigrateType::Movable), 1);
}

#[test]
fn a_gate_that_closes_as_a_whole_during_a_claim_ends_it_at_the_next_window() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    fill(&memory, &owners, frames(900, 200));
    let closing = owners.clone();
    owners.meanwhile(move |_| closing.close(MigrationCause::Claim));
    // The second allocation may not move, so that another window is tried.
    owners.deny(1);
    let all = [frames(0, 2048)];
    let error = memory.claim_window(&anywhere(&all, 1000, 9), &LIMITS);
    // Something in the window tried last, and nobody was asked about it.
    let error = error.unwrap_err();
    assert_eq!(error.reason, ClaimFailure::NotPermitted);
    assert!(frames(0, 1000).contains_range(&error.blocking[0].frames));
    assert_eq!(owners.asked(), 2);
    assert_eq!(memory.migrations(MigrationCause::Claim).moved, 1);
    owners.forgive();
    owners.check_all();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_blocks(11, MigrateType::Movable), 1);
}

#[test]
fn a_claim_without_room_for_all_that_has_to_leave_moves_nothing() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    fill(&memory, &owners, frames(0, 1600));
    // 500 frames have to leave; but for one of them there is room.
    let all = [frames(0, 2048)];
    let rest = memory.claim_free(frames(1601, 447)).unwrap();
    let error = memory.claim_window(&anywhere(&all, 500, 0), &LIMITS);
    let full = ClaimFailure::Full {
        moves: 499,
        free: 0,
    };
    assert_eq!(error.unwrap_err().reason, full);
    let error = memory.claim(frames(500, 2), &LIMITS).unwrap_err();
    assert_eq!(error.reason, ClaimFailure::Full { moves: 2, free: 1 });
    assert_eq!(error.blocking[0].why, Obstacle::NoRoom);
    assert_eq!((owners.asked(), error.blocking.len()), (0, 1));
    let one = memory.claim(frames(500, 1), &LIMITS).unwrap();
    assert_eq!(memory.migrations(MigrationCause::Claim).moved, 1);
    for frames in [one, rest] {
        memory.allocator().free(frames).unwrap();
    }
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_blocks(11, MigrateType::Movable), 1);
}

#[test]
fn free_frames_are_claimed_all_or_none_and_nobody_is_asked() {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    let lists =
        || [9, 10, 11].map(|order| memory.allocator().free_blocks(order, MigrateType::Movable));
    let last = memory.claim_free(frames(1100, 1)).unwrap();
    let before = (memory.allocator().free_frames(), lists());
    assert_eq!(memory.claim_free(frames(100, 1001)), None);
    assert_eq!((memory.allocator().free_frames(), lists()), before);
    let whole = memory.claim_free(frames(100, 1000)).unwrap();
    assert_eq!(
        memory.migrations(MigrationCause::Claim),
        MigrationCounts::default()
    );
    memory.allocator().free(whole).unwrap();
    memory.allocator().free(last).unwrap();
    assert_eq!(lists(), [0, 0, 1]);
}

#[test]
fn the_cheapest_window_is_found_and_nothing_unmovable_is_in_it() {
    let owners = Owners::new();
    let memory = build(&[(0, 4096, 0)], owners.clone());
    let all = [frames(0, 4096)];
    fill(&memory, &owners, frames(0, 4000));
    let window = memory.find(&anywhere(&all, 96, 5)).unwrap();
    assert_eq!((window.range, window.moves), (frames(4000, 96), 0));
    let window = memory.find(&anywhere(&all, 100, 2)).unwrap();
    assert_eq!((window.range, window.moves), (frames(3996, 100), 4));
    let claimed = memory
        .claim_window(&anywhere(&all, 96, 5), &LIMITS)
        .unwrap();
    let window = memory.find(&anywhere(&all, 96, 5)).unwrap();
    assert_eq!(window.moves, 96);
    let error = memory.find(&anywhere(&all, 4096, 0)).unwrap_err();
    assert_eq!(error.reason, ClaimFailure::NoWindow);
    assert_eq!(error.blocking[0].frames, claimed.range());
    assert_eq!(error.blocking[0].why, Obstacle::Unmovable);
}

#[test]
fn what_moves_goes_to_the_nearest_node_outside_of_what_is_cleared() {
    let owners = Owners::new();
    let memory = build(&[(0, 1024, 0), (4096, 1024, 1)], owners.clone());
    fill(&memory, &owners, frames(0, 100));
    let claimed = memory.claim(frames(0, 100), &LIMITS).unwrap();
    let near = |held: &PfnRange| frames(100, 924).contains(held.start());
    assert!(owners.ranges().iter().all(near));
    let rest = memory.allocator().free_on(NodeId::new(1));
    assert_eq!(rest, 1024);
    drop(claimed);
}
