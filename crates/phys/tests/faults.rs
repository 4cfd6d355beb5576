//! Each step of a claim and of a long-term pin fails in turn, and nothing is left behind.

#[allow(dead_code)]
mod movers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dmakit_addr::PfnRange;
use dmakit_phys::{
    Account, ClaimError, ClaimFailure, ClaimLimits, FrameRequest, Frames, LeaseHolder, LeaseTerms,
    MigrateType, MoverId, Obstacle, PinError, PinId, Refusal,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build, frames};

const MOVER: MoverId = MoverId::new(1);
const AREA: (u64, u64) = (1024, 1024);
const DEADLINE: u64 = 1 << 40;

fn limits() -> ClaimLimits {
    ClaimLimits {
        deadline: Instant::from_nanos(DEADLINE),
        tries: 2,
    }
}

/// Two page blocks of ordinary memory, two of an area with allocations of several sizes in it.
struct World {
    owners: Owners,
    memory: Arc<Memory>,
    lent: Vec<PfnRange>,
}

const SIZES: [u64; 6] = [1, 16, 3, 64, 1, 100];

impl World {
    fn new() -> Self {
        let owners = Owners::new();
        let memory = build(&[(0, 2048, 0)], owners.clone());
        let area = frames(AREA.0, AREA.1);
        assert!(
            memory
                .allocator()
                .set_migrate_type(area, MigrateType::Contiguous)
        );
        let outside = memory
            .allocator()
            .allocate(&FrameRequest::unmovable(1024))
            .unwrap();
        let mut lent = Vec::new();
        for size in SIZES {
            let request = FrameRequest::movable(size, MOVER);
            let frames = memory.allocator().allocate(&request).unwrap();
            lent.push(frames.range());
            owners.keep(frames);
        }
        memory.allocator().free(outside).unwrap();
        Self {
            owners,
            memory: Arc::new(memory),
            lent,
        }
    }

    /// Free frames, blocks by order and type, who has what, what is charged: what a failure must
    /// not change, but for where things are that moved.
    fn state(&self) -> (u64, Vec<u64>, Vec<u64>) {
        let allocator = self.memory.allocator();
        assert_eq!(allocator.first_miscounted(), None);
        let types = (0..2048).step_by(512).map(|block| {
            let of = allocator.migrate_type(frames(block, 1).start()).unwrap();
            u64::from(of == MigrateType::Contiguous)
        });
        let isolated = (0..=18).map(|order| allocator.free_blocks(order, MigrateType::Isolated));
        let mut lengths: Vec<u64> = self.owners.ranges().iter().map(PfnRange::len).collect();
        lengths.sort_unstable();
        (
            allocator.free_frames(),
            types.chain(isolated).collect(),
            lengths,
        )
    }

    fn finish(self, claimed: Option<Frames>) {
        if let Some(frames) = claimed {
            self.memory.allocator().free(frames).unwrap();
        }
        self.owners.check_all();
        self.owners.free_all(&self.memory);
        assert!(self.memory.pins().is_empty());
        let counted = |of| self.memory.allocator().free_blocks(10, of);
        assert_eq!(counted(MigrateType::Movable), 1);
        assert_eq!(counted(MigrateType::Contiguous), 1);
    }

    fn claim(&self) -> Result<Frames, ClaimError> {
        self.memory.claim(frames(AREA.0, AREA.1), &limits())
    }
}

/// Runs a claim with a fault, which has to fail it, and another without, which has to succeed.
fn claim_with(fault: impl FnOnce(&World), expected: impl FnOnce(&ClaimError) -> bool) {
    let world = World::new();
    fault(&world);
    let before = world.state();
    let error = world.claim().unwrap_err();
    assert!(expected(&error), "{error}");
    assert_eq!(world.state(), before, "{error}");
    world.owners.check_all();
    world.owners.forgive();
    let claimed = world.claim().unwrap();
    world.finish(Some(claimed));
}

#[test]
fn a_claim_survives_that_any_one_migration_is_refused_for_any_reason() {
    for index in 0..SIZES.len() {
        for reason in Refusal::ALL {
            claim_with(
                |world| {
                    world
                        .owners
                        .refuse(world.lent[index].start(), reason, u32::MAX);
                },
                |error| {
                    let [blocking] = &error.blocking[..] else {
                        return false;
                    };
                    let passing = error.reason == ClaimFailure::Tries;
                    passing == reason.is_passing() && blocking.why == Obstacle::Refused(reason)
                },
            );
        }
    }
}

#[test]
fn a_claim_survives_a_gate_that_closes_at_any_moment() {
    for after in 0..SIZES.len() as u64 {
        claim_with(
            |world| world.owners.deny(after),
            |error| error.blocking[0].why == Obstacle::Refused(Refusal::NotPermitted),
        );
    }
}

#[test]
fn a_claim_survives_a_deadline_that_passes_at_any_moment() {
    for after in 1..SIZES.len() as u64 {
        let world = World::new();
        let before = world.state();
        let machine = world.owners.machine().clone();
        world.owners.meanwhile(move |asked| {
            if asked == after {
                machine.sleep(Instant::from_nanos(DEADLINE));
            }
        });
        let error = world.claim().unwrap_err();
        assert_eq!(error.reason, ClaimFailure::Deadline);
        assert_eq!(world.state(), before);
        assert_eq!(
            world
                .memory
                .migrations(dmakit_phys::MigrationCause::Claim)
                .moved,
            after
        );
        world.finish(None);
    }
}

#[test]
fn a_claim_survives_that_there_is_room_for_no_more_than_some() {
    for room in 0..SIZES.iter().sum::<u64>() {
        let world = World::new();
        let all = FrameRequest::unmovable(1024 - room);
        let taken = world.memory.allocator().allocate(&all).unwrap();
        // What is left is in one piece or several, so only some of it may do.
        let before = world.state();
        match world.claim() {
            Ok(claimed) => world.memory.allocator().free(claimed).unwrap(),
            Err(error) => {
                let full = matches!(error.reason, ClaimFailure::Full { .. });
                assert!(
                    full || matches!(error.reason, ClaimFailure::NoRoom(_)),
                    "{error}"
                );
                assert_eq!(error.blocking[0].why, Obstacle::NoRoom);
            }
        }
        assert_eq!(world.state(), before);
        world.memory.allocator().free(taken).unwrap();
        world.finish(None);
    }
}

#[test]
fn claims_inside_claims_do_not_wait_and_the_one_too_many_is_told() {
    let world = World::new();
    // Of one frame each, so that nothing moves to where another claim is going to be.
    let range = |index: u64| frames(index * 8, 1);
    let inner: Arc<Mutex<Vec<Frames>>> = Arc::default();
    let told = Arc::new(Mutex::new(0));
    nest(
        world.memory.clone(),
        world.owners.clone(),
        inner.clone(),
        told.clone(),
        0,
    );
    // Each claim finds one frame in its way, and while that is asked the next one begins.
    for index in 0..70 {
        let request = FrameRequest::movable(1, MOVER);
        let mut aside = Vec::new();
        loop {
            let frames = world.memory.allocator().allocate(&request).unwrap();
            if frames.range().start() == range(index).start() {
                world.owners.keep(frames);
                break;
            }
            aside.push(frames);
        }
        for frames in aside {
            world.memory.allocator().free(frames).unwrap();
        }
    }
    let before = world.state();
    let outer = world.claim().unwrap();
    assert_eq!(*told.lock().unwrap(), 1, "64 claims at once, not 65");
    let inner = std::mem::take(&mut *inner.lock().unwrap());
    assert_eq!(inner.len(), 63);
    for frames in inner {
        world.memory.allocator().free(frames).unwrap();
    }
    world.memory.allocator().free(outer).unwrap();
    assert_eq!(world.state(), before);
    world.finish(None);
}

/// Begins the claim of the next range while a mover is asked.
fn nest(
    memory: Arc<Memory>,
    owners: Owners,
    claimed: Arc<Mutex<Vec<Frames>>>,
    told: Arc<Mutex<u32>>,
    depth: u64,
) {
    let again = owners.clone();
    owners.meanwhile(move |_| {
        if depth == 64 || *told.lock().unwrap() > 0 {
            return;
        }
        nest(
            memory.clone(),
            again.clone(),
            claimed.clone(),
            told.clone(),
            depth + 1,
        );
        match memory.claim(frames(depth * 8, 1), &limits()) {
            Ok(frames) => claimed.lock().unwrap().push(frames),
            Err(error) => {
                assert_eq!(error.reason, ClaimFailure::TooManyClaims);
                *told.lock().unwrap() += 1;
            }
        }
    });
}

#[test]
fn a_long_term_pin_survives_that_any_one_migration_is_refused() {
    for index in 0..SIZES.len() {
        for reason in Refusal::ALL {
            let world = World::new();
            let account = Arc::new(Account::new(1000));
            let owner = world.memory.add_pin_owner(account.clone()).unwrap();
            world
                .owners
                .refuse(world.lent[index].start(), reason, u32::MAX);
            let before = world.state();
            let pinned = world.memory.pin_long_term(owner, &world.lent, &limits());
            let Err(PinError::Blocked(blocking)) = pinned else {
                panic!("{pinned:?}")
            };
            assert_eq!(blocking.frames, world.lent[index]);
            assert_eq!(blocking.why, Obstacle::Refused(reason));
            assert_eq!(account.charged(), 0);
            assert_eq!(world.state(), before);
            world.finish(None);
        }
    }
}

#[test]
fn what_its_owner_frees_while_it_is_asked_to_move_is_no_obstacle() {
    for index in 0..SIZES.len() {
        let world = World::new();
        let (memory, owners) = (world.memory.clone(), world.owners.clone());
        let victim = world.lent[index].start();
        world.owners.meanwhile(move |_| {
            // It is asked about another, or about this one: then it is free only afterwards.
            let _ = owners.try_free(&memory, victim);
        });
        let claimed = world.claim().unwrap();
        assert_eq!(world.owners.ranges().len(), SIZES.len() - 1);
        world.finish(Some(claimed));
    }
}

struct Deaf;

impl LeaseHolder for Deaf {
    fn recall(&self, _lease: PinId, _until: Instant) {}
}

#[test]
fn a_claim_survives_that_any_one_lease_is_not_given_back() {
    for index in 0..SIZES.len() {
        let world = World::new();
        let owner = world
            .memory
            .add_pin_owner(Arc::new(Account::new(1000)))
            .unwrap();
        let terms = LeaseTerms {
            holder: Arc::new(Deaf),
            hold_max: Duration::from_micros(1),
            revoker: None,
        };
        let lease = world
            .memory
            .lease(owner, &[world.lent[index]], terms)
            .unwrap();
        let before = world.state();
        let error = world.claim().unwrap_err();
        assert_eq!(error.blocking[0].holder.unwrap().id, lease.id());
        assert_eq!(world.state(), before);
        world.memory.unpin(lease).unwrap();
        let claimed = world.claim().unwrap();
        world.finish(Some(claimed));
    }
}
