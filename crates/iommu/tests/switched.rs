//! Strict to lazy and back, while other CPUs map and unmap.
//!
//! `DMAKIT_STEPS` sets how many unmaps of each kind there are at least.

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dmakit_addr::{DmaMask, Iova, IovaRange};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::Lpae;
use dmakit_iommu::{
    Domain, DomainId, Hardware, Invalidation, LazyConfig, StrictDomain, Switched, SyncError,
    Translate,
};
use dmakit_iova::CpuCache;
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};
use support::{ram, run, space, table};

/// A cache of translations that forgets what it is told to when it is synced.
#[derive(Default)]
struct Tlb(Mutex<State>);

#[derive(Default)]
struct State {
    /// Pages that a device was seen to reach, and that nothing has made the hardware forget.
    known: HashSet<u64>,
    queued: Vec<Option<IovaRange>>,
    fails: bool,
}

impl Tlb {
    fn learn(&self, range: IovaRange) {
        self.0.lock().unwrap().known.insert(range.start().raw());
    }

    fn knows(&self, range: IovaRange) -> bool {
        self.0.lock().unwrap().known.contains(&range.start().raw())
    }

    fn fail(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }
}

impl Hardware for &Tlb {
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        self.0.lock().unwrap().queued.push(Some(what.range));
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        self.0.lock().unwrap().queued.push(None);
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        let mut state = self.0.lock().unwrap();
        if state.fails {
            return Err(SyncError::Failed);
        }
        for what in std::mem::take(&mut state.queued) {
            match what {
                None => state.known.clear(),
                Some(range) => state.known.retain(|at| !range.contains(Iova::new(*at))),
            }
        }
        Ok(())
    }
}

type TestDomain<'a> = Switched<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, &'a Tlb>;

fn with_domain(queue: usize, test: impl FnOnce(TestDomain<'_>, &HostPlatform, &Tlb)) {
    let platform = HostPlatform::new(3);
    let (_ram, memory) = ram();
    let (table, space) = (table(&platform, memory), space(3));
    let tlb = Tlb::default();
    let domain = Domain::new(DomainId(1), space, table, &tlb);
    let config = LazyConfig {
        queue,
        ..LazyConfig::default()
    };
    let Ok(domain) = Switched::strict(domain, platform.clone(), config) else {
        panic!("no memory");
    };
    test(domain, &platform, &tlb);
}

/// So long that a change of mode often falls between the decision for an unmap and its end.
const LEN: u64 = 1 << 20;

fn map(domain: &TestDomain<'_>, platform: &HostPlatform) -> IovaRange {
    let runs = [run(1 << 33, LEN)].into_iter();
    let (cpu, all) = (platform.enter_cpu(), DmaMask::ALL);
    let mapped = StrictDomain::map(domain.domain(), &cpu, runs, Permissions::READ, 1, all);
    mapped.unwrap()
}

/// Lets the other threads end, also when this one fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn unmaps_under_way_end_strictly_or_lazily_and_nothing_lazy_outlives_the_change() {
    let steps = std::env::var("DMAKIT_STEPS").ok();
    let unmaps: u64 = steps.and_then(|text| text.parse().ok()).unwrap_or(20_000);
    with_domain(8, |domain, platform, tlb| {
        // Counts changes to strict that are complete: even while lazy is possible.
        let changes = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let [strict, lazy] = [AtomicU64::new(0), AtomicU64::new(0)];
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let range = map(&domain, platform);
                        tlb.learn(range);
                        let before = changes.load(Ordering::SeqCst);
                        let cpu = platform.enter_cpu();
                        let ticket = domain.unmap(&cpu, range, LEN).unwrap();
                        let after = changes.load(Ordering::SeqCst);
                        let Some(ticket) = ticket else {
                            assert!(before != after || before % 2 == 0, "lazy, while strict");
                            lazy.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        strict.fetch_add(1, Ordering::Relaxed);
                        let proof = domain.domain().sync().unwrap();
                        assert!(!tlb.knows(range), "proved, and known");
                        domain.domain().redeem(&cpu, ticket, &proof).unwrap();
                    }
                });
            }
            let _stop = StopOnDrop(&stop);
            let fewest = || {
                [&strict, &lazy]
                    .map(|count| count.load(Ordering::Relaxed))
                    .into_iter()
                    .min()
            };
            while fewest() < Some(unmaps) {
                domain.make_strict(&platform.enter_cpu()).unwrap();
                changes.fetch_add(1, Ordering::SeqCst);
                // Long enough for an unmap that had begun to come to its end.
                for _ in 0..64 {
                    assert_eq!(domain.exposure().bytes, 0, "exposed, while strict");
                    std::thread::yield_now();
                }
                changes.fetch_add(1, Ordering::SeqCst);
                domain.make_lazy().unwrap();
                std::thread::yield_now();
            }
        });
        let Ok(strict) = domain.into_strict(&platform.enter_cpu()) else {
            panic!("hardware forgets");
        };
        assert_eq!(strict.space().statistics().used, 0);
        assert_eq!(strict.quarantined(), 0);
        assert!(tlb.0.lock().unwrap().known.is_empty());
    });
}

#[test]
fn a_domain_owes_tickets_while_strict_and_nothing_while_lazy() {
    with_domain(8, |domain, platform, tlb| {
        let cpu = platform.enter_cpu();
        let unmap = || {
            let range = map(&domain, platform);
            tlb.learn(range);
            (range, domain.unmap(&cpu, range, LEN).unwrap())
        };
        let (range, ticket) = unmap();
        let strict = ticket.expect("strict");
        domain.make_lazy().unwrap();
        let (exposed, none) = unmap();
        assert!(none.is_none() && domain.is_lazy());
        assert_eq!(domain.exposure().bytes, LEN);
        // What was owed before is paid as before.
        let proof = domain.domain().sync().unwrap();
        assert!(!tlb.knows(range) && tlb.knows(exposed));
        domain.domain().redeem(&cpu, strict, &proof).unwrap();
        tlb.fail(true);
        domain.make_strict(&cpu).unwrap_err();
        assert!(!domain.is_lazy());
        assert_eq!(domain.exposure().bytes, LEN, "still");
        tlb.fail(false);
        domain.flush(&cpu).unwrap();
        assert!(!tlb.knows(exposed));
        assert_eq!(domain.exposure().bytes, 0);
        assert!(unmap().1.is_some());
    });
}

#[test]
fn a_lazy_range_for_which_there_is_no_room_is_owed_as_a_strict_one() {
    with_domain(2, |domain, platform, tlb| {
        domain.make_lazy().unwrap();
        let cpu = platform.enter_cpu();
        tlb.fail(true);
        let mut owed = Vec::new();
        for _ in 0..4 {
            let range = map(&domain, platform);
            tlb.learn(range);
            owed.extend(
                domain
                    .unmap(&cpu, range, LEN)
                    .unwrap()
                    .map(|it| (range, it)),
            );
        }
        assert_eq!((owed.len(), domain.exposure().bytes), (2, 2 * LEN));
        domain.domain().sync().unwrap_err();
        tlb.fail(false);
        let proof = domain.domain().sync().unwrap();
        for (range, ticket) in owed {
            assert!(!tlb.knows(range));
            domain.domain().redeem(&cpu, ticket, &proof).unwrap();
        }
        let Ok(strict) = domain.into_strict(&cpu) else {
            panic!("hardware forgets");
        };
        assert_eq!(strict.space().statistics().used, 0);
        assert_eq!(strict.quarantined(), 0);
    });
}
