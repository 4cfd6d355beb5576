//! Invalidations that hardware did not take.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Counts the invalidations that could not be queued, because hardware took no commands: the next
/// sync forgets everything instead.
///
/// The rule: an unmap notes its failure *before* it reads the epoch; a sync looks here *after* it took
/// its number, and makes good only what it saw, *after* it has queued the invalidation of everything.
/// A sync that covers the unmap has therefore seen the failure, or finds it made good by an
/// invalidation that is queued by now.
pub(crate) struct Unqueued {
    noted: AtomicU64,
    made_good: AtomicU64,
}

impl Default for Unqueued {
    fn default() -> Self {
        Self {
            noted: AtomicU64::new(0),
            made_good: AtomicU64::new(0),
        }
    }
}

impl Unqueued {
    /// Notes one.
    #[cold]
    pub(crate) fn note(&self) {
        self.noted.fetch_add(1, Ordering::SeqCst);
    }

    /// How many there were, where something is still to be made good.
    #[inline]
    pub(crate) fn open(&self) -> Option<u64> {
        let noted = self.noted.load(Ordering::SeqCst);
        (self.made_good.load(Ordering::SeqCst) < noted).then_some(noted)
    }

    /// Everything that was noted up to `noted` is covered by what is queued by now.
    #[cold]
    pub(crate) fn make_good(&self, noted: u64) {
        self.made_good.fetch_max(noted, Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod protocol {
    extern crate std;

    use super::*;
    use crate::epochs::Epochs;
    use loom::sync::atomic::fence;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// All four accesses are sequentially consistent, so there is one order of them. Loom knows such
    /// an order of fences only, and takes the accesses themselves for acquire and release.
    fn in_one_order() {
        fence(Ordering::SeqCst);
    }

    /// Hardware: whether everything is queued to be forgotten, and is forgotten.
    #[derive(Default)]
    struct Hardware {
        queued: bool,
        forgotten: bool,
    }

    #[test]
    fn a_proof_covers_a_failed_invalidation_only_after_everything_was_forgotten() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let epochs = Arc::new(Epochs::default());
            let unqueued = Arc::new(Unqueued::default());
            let hardware = Arc::new(Mutex::new(Hardware::default()));
            let unmaps = {
                let (epochs, unqueued) = (epochs.clone(), unqueued.clone());
                thread::spawn(move || {
                    unqueued.note();
                    in_one_order();
                    epochs.now()
                })
            };
            let syncs =
                |epochs: Arc<Epochs>, unqueued: Arc<Unqueued>, hardware: Arc<Mutex<Hardware>>| {
                    let number = epochs.begin();
                    in_one_order();
                    if let Some(noted) = unqueued.open() {
                        hardware.lock().unwrap().queued = true;
                        unqueued.make_good(noted);
                    }
                    let mut hardware = hardware.lock().unwrap();
                    hardware.forgotten |= hardware.queued;
                    (number, hardware.forgotten)
                };
            let other = {
                let all = (epochs.clone(), unqueued.clone(), hardware.clone());
                thread::spawn(move || syncs(all.0, all.1, all.2))
            };
            let proofs = [syncs(epochs, unqueued, hardware), other.join().unwrap()];
            let since = unmaps.join().unwrap();
            for (completed, forgotten) in proofs {
                assert!(completed < since || forgotten, "a proof too early");
            }
        });
    }
}
