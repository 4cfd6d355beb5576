//! Claims by several CPUs at once, while others allocate, free and pin.

#[allow(dead_code)]
mod movers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dmakit_phys::{
    Account, ClaimFailure, ClaimLimits, FrameRequest, Frames, FreeReason, MigrateType,
    MigrationCause, MoverId,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build, frames};

const FRAMES: u64 = 4096;
const ROUNDS: u64 = 10_000;

const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 1000,
};

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn mark(taken: &[AtomicBool], frames: &Frames, to: bool) {
    for frame in frames.range().start().raw()..frames.range().end().raw() {
        let was = taken[frame as usize].swap(to, Ordering::Relaxed);
        assert_ne!(was, to, "frame {frame} is claimed twice");
    }
}

/// Frees what somebody may have pinned for a moment, who meant what lay there before.
fn give_back(memory: &Memory, mut frames: Frames) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = memory.allocator().free(frames) {
        assert_eq!(error.reason, FreeReason::Pinned);
        assert!(std::time::Instant::now() < end, "pinned for a minute");
        frames = error.frames;
        thread::yield_now();
    }
}

/// Claims parts of the area over and over, whatever lies there.
fn claim(memory: &Memory, taken: &[AtomicBool], seed: u64) -> u64 {
    let mut draw = Draw(seed);
    let mut claims = 0;
    for _ in 0..ROUNDS {
        let count = 1 << draw.below(9);
        let start = FRAMES / 2 + draw.below(FRAMES / 2 / count) * count;
        match memory.claim(frames(start, count), &LIMITS) {
            Ok(claimed) => {
                mark(taken, &claimed, true);
                mark(taken, &claimed, false);
                give_back(memory, claimed);
                claims += 1;
            }
            // The other claimed it, a short-term pin is on it, it is moved by the other just now, or
            // what is free elsewhere is in smaller pieces.
            Err(error) => assert_ne!(error.reason, ClaimFailure::Deadline, "{error}"),
        }
    }
    claims
}

/// Allocates, frees and pins until the others are done.
fn use_memory(memory: &Memory, owners: &Owners, done: &AtomicBool) {
    let mut draw = Draw(77);
    let mut pins = 0;
    let account = Arc::new(Account::new(u64::MAX));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    while !done.load(Ordering::Relaxed) {
        let request = FrameRequest::movable(1 + draw.below(8), MoverId::new(0));
        let live = owners.ranges();
        if live.len() < 300 {
            if let Ok(frames) = memory.allocator().allocate(&request) {
                owners.keep(frames);
            }
        }
        if live.is_empty() {
            continue;
        }
        let range = live[draw.below(live.len() as u64) as usize];
        match draw.below(4) {
            0 => {
                // It may have moved away since it was seen, and a claim be there; what is still an
                // owner's has left the area.
                if let Ok(pin) = memory.pin_long_term(owner, &[range], &LIMITS) {
                    let area = frames(FRAMES / 2, FRAMES / 2);
                    let live = owners.ranges();
                    let meant = pin.ranges().iter().filter(|range| live.contains(range));
                    assert!(meant.clone().all(|range| !range.overlaps(&area)));
                    pins += meant.count();
                    memory.unpin(pin).unwrap();
                }
            }
            1 => {
                let pin = memory.pin_short_term(owner, &[range], Instant::default());
                if let Ok(pin) = pin {
                    memory.unpin(pin).unwrap();
                }
            }
            _ if live.len() >= 300 => {
                let _ = owners.try_free(memory, range.start());
            }
            _ => {}
        }
    }
    assert!(pins > 0);
    assert_eq!(account.charged(), 0);
}

#[test]
fn claims_beside_each_other_share_no_frame_and_lose_no_byte() {
    let owners = Owners::new();
    let memory = build(&[(0, FRAMES, 0)], owners.clone());
    let area = frames(FRAMES / 2, FRAMES / 2);
    assert!(
        memory
            .allocator()
            .set_migrate_type(area, MigrateType::Contiguous)
    );
    // Ordinary memory is scarce, so that the area is lent.
    let scarce = memory
        .allocator()
        .allocate(&FrameRequest::unmovable(1024))
        .unwrap();
    // However late its users get to run.
    let request = FrameRequest::movable(8, MoverId::new(0));
    for _ in 0..200 {
        owners.keep(memory.allocator().allocate(&request).unwrap());
    }
    let taken: Vec<AtomicBool> = (0..FRAMES).map(|_| AtomicBool::new(false)).collect();
    let (done, claims) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let claimers = [1, 2].map(|seed| {
            let (memory, taken, claims) = (&memory, &taken, &claims);
            scope.spawn(move || claims.fetch_add(claim(memory, taken, seed), Ordering::Relaxed))
        });
        scope.spawn(|| use_memory(&memory, &owners, &done));
        let outcomes = claimers.map(thread::ScopedJoinHandle::join);
        done.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    assert!(claims.load(Ordering::Relaxed) > ROUNDS / 2);
    assert!(memory.migrations(MigrationCause::Claim).moved > 0);
    owners.check_all();
    owners.free_all(&memory);
    memory.allocator().free(scarce).unwrap();
    assert_eq!(memory.allocator().free_frames(), FRAMES);
    assert_eq!(
        memory.allocator().free_blocks(11, MigrateType::Contiguous),
        1
    );
}
