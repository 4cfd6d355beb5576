//! Pins and leases: who holds what, and what a claim does about it.

// Each test uses a part of it.
#[allow(dead_code)]
mod movers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dmakit_addr::PfnRange;
use dmakit_phys::{
    Account, ClaimFailure, ClaimLimits, FrameRequest, FreeReason, LeaseHolder, LeaseTerms,
    MigrateType, MoverId, NotRevoked, Obstacle, PinError, PinId, PinKind, Refusal, Revoke,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build, frames};

const MOVER: MoverId = MoverId::new(3);

const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 3,
};

/// One movable allocation of `count` frames.
fn keep(memory: &Memory, owners: &Owners, count: u64) -> PfnRange {
    let request = FrameRequest::movable(count, MOVER);
    let frames = memory.allocator().allocate(&request).unwrap();
    let range = frames.range();
    owners.keep(frames);
    range
}

/// Half of memory is an area, and lent first because the rest is taken.
fn with_area() -> (Owners, Memory) {
    let owners = Owners::new();
    let memory = build(&[(0, 2048, 0)], owners.clone());
    assert!(
        memory
            .allocator()
            .set_migrate_type(frames(1024, 1024), MigrateType::Contiguous)
    );
    (owners, memory)
}

/// A movable allocation in the area, and the memory outside free again.
fn lent(memory: &Memory, owners: &Owners, count: u64) -> PfnRange {
    let outside = FrameRequest::unmovable(1024);
    let outside = memory.allocator().allocate(&outside).unwrap();
    let lent = keep(memory, owners, count);
    memory.allocator().free(outside).unwrap();
    lent
}

#[test]
fn a_long_term_pin_leaves_the_area_first_and_keeps_every_byte() {
    let (owners, memory) = with_area();
    let account = Arc::new(Account::new(100));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    let range = lent(&memory, &owners, 16);
    assert!(range.start().raw() >= 1024);
    let part = frames(range.start().raw() + 4, 8);
    let pin = memory.pin_long_term(owner, &[part], &LIMITS).unwrap();
    let [now] = pin.ranges() else {
        panic!("one piece")
    };
    assert!(now.end().raw() <= 1024);
    assert_eq!(now.len(), 8);
    owners.check_all();
    assert_eq!(account.charged(), 8);
    let claimed = memory.claim(frames(1024, 1024), &LIMITS).unwrap();
    let error = memory
        .claim(frames(now.start().raw(), 1), &LIMITS)
        .unwrap_err();
    assert_eq!(error.blocking[0].why, Obstacle::Pinned);
    assert_eq!(error.blocking[0].holder.unwrap().id, pin.id());
    memory.allocator().free(claimed).unwrap();
    memory.unpin(pin).unwrap();
    assert_eq!(account.charged(), 0);
    owners.free_all(&memory);
}

#[test]
fn a_long_term_pin_that_cannot_leave_pins_nothing_and_says_why() {
    let (owners, memory) = with_area();
    let account = Arc::new(Account::new(100));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    let first = lent(&memory, &owners, 1);
    let second = lent(&memory, &owners, 1);
    owners.refuse(second.start(), Refusal::Dirty, u32::MAX);
    let error = memory
        .pin_long_term(owner, &[first, second], &LIMITS)
        .unwrap_err();
    let PinError::Blocked(blocking) = error else {
        panic!("{error}")
    };
    assert_eq!(blocking.frames, second);
    assert_eq!(blocking.why, Obstacle::Refused(Refusal::Dirty));
    assert_eq!((account.charged(), memory.pins().len()), (0, 0));
    owners.check_all();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_frames(), 2048);
}

#[test]
fn a_frame_is_charged_once_however_often_its_owner_pins_it() {
    let (owners, memory) = with_area();
    let account = Arc::new(Account::new(24));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    let other = memory.add_pin_owner(account.clone()).unwrap();
    let range = keep(&memory, &owners, 16);
    let half = frames(range.start().raw(), 8);
    let pin = memory.pin_long_term(owner, &[range], &LIMITS).unwrap();
    let again = memory.pin_long_term(owner, &[half], &LIMITS).unwrap();
    assert_eq!(
        (account.charged(), memory.pin_owner(owner).unwrap().frames),
        (16, 16)
    );
    let theirs = memory.pin_long_term(other, &[half], &LIMITS).unwrap();
    let error = memory.pin_long_term(other, &[range], &LIMITS).unwrap_err();
    let PinError::Limit(over) = error else {
        panic!("{error}")
    };
    assert_eq!((over.asked, over.charged, over.limit), (8, 24, 24));
    memory.unpin(pin).unwrap();
    assert_eq!(account.charged(), 16);
    memory.unpin(again).unwrap();
    memory.unpin(theirs).unwrap();
    assert_eq!((account.charged(), account.peak()), (0, 24));
    owners.free_all(&memory);
}

#[test]
fn when_an_owner_goes_its_pins_go_with_it() {
    let (owners, memory) = with_area();
    let account = Arc::new(Account::new(100));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    let range = keep(&memory, &owners, 3);
    let pin = memory.pin_long_term(owner, &[range], &LIMITS).unwrap();
    let error = owners.try_free(&memory, range.start()).unwrap_err();
    assert_eq!(error, FreeReason::Pinned);
    memory.remove_pin_owner(owner);
    assert!(memory.pins_on(range.start()).is_empty());
    assert_eq!(account.charged(), 0);
    memory.unpin(pin).unwrap_err();
    let error = memory.pin_long_term(owner, &[range], &LIMITS).unwrap_err();
    assert_eq!(error, PinError::NoOwner(owner));
    owners.free_all(&memory);
}

#[test]
fn a_short_term_pin_blocks_a_claim_and_is_reported_once_it_overstays() {
    let (owners, memory) = with_area();
    let owner = memory.add_pin_owner(Arc::new(Account::new(100))).unwrap();
    let range = lent(&memory, &owners, 2);
    let deadline = Instant::from_nanos(1000);
    let pin = memory.pin_short_term(owner, &[range], deadline).unwrap();
    let error = memory.claim(range, &LIMITS).unwrap_err();
    assert_eq!(error.reason, ClaimFailure::Blocked);
    assert_eq!(error.blocking[0].holder.unwrap().owner, owner);
    assert!(memory.overdue_pins(deadline).is_empty());
    let [late] = memory.overdue_pins(Instant::from_nanos(1001))[..] else {
        panic!("one pin overstays")
    };
    assert_eq!(late.kind, PinKind::ShortTerm { deadline });
    memory.unpin(pin).unwrap();
    let claimed = memory.claim(range, &LIMITS).unwrap();
    memory.allocator().free(claimed).unwrap();
    owners.free_all(&memory);
}

/// Gives the lease back when asked, or does nothing.
struct Holder {
    memory: Mutex<Option<Arc<Memory>>>,
}

impl LeaseHolder for Holder {
    fn recall(&self, lease: PinId, _until: Instant) {
        if let Some(memory) = &*self.memory.lock().unwrap() {
            memory.end_lease(lease).unwrap();
        }
    }
}

#[derive(Default)]
struct Iommu {
    revoked: Mutex<Vec<PinId>>,
}

impl Revoke for Iommu {
    fn revoke(&self, lease: PinId, _frames: &[PfnRange]) -> Result<(), NotRevoked> {
        self.revoked.lock().unwrap().push(lease);
        Ok(())
    }
}

fn terms(memory: Option<Arc<Memory>>, revoker: Option<Arc<dyn Revoke>>) -> LeaseTerms {
    LeaseTerms {
        holder: Arc::new(Holder {
            memory: Mutex::new(memory),
        }),
        hold_max: Duration::from_micros(10),
        revoker,
    }
}

#[test]
fn a_claim_recalls_the_leases_in_its_range() {
    let (owners, memory) = with_area();
    let memory = Arc::new(memory);
    let owner = memory.add_pin_owner(Arc::new(Account::new(100))).unwrap();
    let range = lent(&memory, &owners, 8);
    let terms = terms(Some(memory.clone()), None);
    let lease = memory.lease(owner, &[range], terms).unwrap();
    let claimed = memory.claim(frames(1024, 1024), &LIMITS).unwrap();
    owners.check_all();
    memory.unpin(lease).unwrap_err();
    memory.allocator().free(claimed).unwrap();
    owners.free_all(&memory);
}

#[test]
fn an_expired_lease_is_revoked_before_anything_moves() {
    let (owners, memory) = with_area();
    let owner = memory.add_pin_owner(Arc::new(Account::new(100))).unwrap();
    let range = lent(&memory, &owners, 8);
    let iommu = Arc::new(Iommu::default());
    let terms = terms(None, Some(iommu.clone()));
    let lease = memory.lease(owner, &[range], terms).unwrap();
    let claimed = memory.claim(frames(1024, 1024), &LIMITS).unwrap();
    assert_eq!(iommu.revoked.lock().unwrap()[..], [lease.id()]);
    owners.check_all();
    memory.allocator().free(claimed).unwrap();
    owners.free_all(&memory);
}

#[test]
fn without_an_iommu_an_expired_lease_fails_the_claim_and_is_named() {
    let (owners, memory) = with_area();
    let owner = memory.add_pin_owner(Arc::new(Account::new(100))).unwrap();
    let range = lent(&memory, &owners, 8);
    let lease = memory.lease(owner, &[range], terms(None, None)).unwrap();
    let error = memory.claim(frames(1024, 1024), &LIMITS).unwrap_err();
    assert_eq!(error.blocking[0].frames, range);
    assert_eq!(error.blocking[0].why, Obstacle::Leased);
    assert_eq!(error.blocking[0].holder.unwrap().id, lease.id());
    owners.check_all();
    memory.unpin(lease).unwrap();
    owners.free_all(&memory);
    assert_eq!(memory.allocator().free_frames(), 2048);
}
