//! Which syncs cover which unmaps.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::ticket::Epoch;

/// Counts the syncs of a domain.
///
/// The rule: an unmap reads the count *after* its invalidation was queued; a sync takes a number
/// *before* it queues its own command. A sync whose number is not below what an unmap read was
/// therefore queued after that unmap's invalidation, and covers it.
pub(crate) struct Epochs {
    begun: AtomicU64,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
        }
    }
}

impl Epochs {
    /// What a range whose invalidation is queued by now must wait for.
    #[inline]
    pub(crate) fn now(&self) -> Epoch {
        Epoch(self.begun.load(Ordering::SeqCst))
    }

    /// Takes the number of a sync that is about to begin.
    #[inline]
    pub(crate) fn begin(&self) -> Epoch {
        Epoch(self.begun.fetch_add(1, Ordering::SeqCst))
    }
}

#[cfg(all(test, loom))]
mod protocol {
    extern crate std;

    use super::*;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    /// Hardware: invalidations queued, and how many of them each sync has completed.
    #[derive(Default)]
    struct Hardware {
        queued: u64,
        done: u64,
    }

    #[test]
    fn a_proof_covers_only_what_its_sync_completed() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let epochs = Arc::new(Epochs::default());
            let hardware = Arc::new(Mutex::new(Hardware::default()));
            let unmaps = {
                let (epochs, hardware) = (epochs.clone(), hardware.clone());
                thread::spawn(move || {
                    let mine = {
                        let mut hardware = hardware.lock().unwrap();
                        hardware.queued += 1;
                        hardware.queued
                    };
                    // What the unmap reads after its invalidation is queued.
                    (epochs.now(), mine)
                })
            };
            let syncs = |epochs: Arc<Epochs>, hardware: Arc<Mutex<Hardware>>| {
                let number = epochs.begin();
                let mut hardware = hardware.lock().unwrap();
                hardware.done = hardware.queued;
                (number, hardware.done)
            };
            let other = {
                let (epochs, hardware) = (epochs.clone(), hardware.clone());
                thread::spawn(move || syncs(epochs, hardware))
            };
            let proofs = [
                syncs(epochs.clone(), hardware.clone()),
                other.join().unwrap(),
            ];
            let (since, mine) = unmaps.join().unwrap();
            for (completed, done) in proofs {
                assert!(completed < since || done >= mine, "a proof too early");
            }
        });
    }

    /// A lazy domain: a queue under its lock, an entry that its range clears, hardware that walks.
    #[test]
    fn a_flush_frees_only_ranges_whose_entries_were_clear_when_hardware_forgot() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let epochs = Arc::new(Epochs::default());
            let queue = Arc::new(Mutex::new(None));
            let entry = Arc::new(AtomicU64::new(1));
            let unmaps = {
                let (epochs, queue, entry) = (epochs.clone(), queue.clone(), entry.clone());
                thread::spawn(move || {
                    entry.store(0, Ordering::Relaxed);
                    let mut queue = queue.lock().unwrap();
                    *queue = Some(epochs.now());
                })
            };
            let flushes = move |epochs: Arc<Epochs>,
                                queue: Arc<Mutex<Option<Epoch>>>,
                                entry: Arc<AtomicU64>| {
                let completed = epochs.begin();
                drop(queue.lock().unwrap());
                let walked = entry.load(Ordering::Relaxed);
                let waiting = *queue.lock().unwrap();
                let is_covered = waiting.is_some_and(|since| since <= completed);
                assert!(!is_covered || walked == 0, "freed while hardware knows it");
            };
            let other = {
                let all = (epochs.clone(), queue.clone(), entry.clone());
                thread::spawn(move || flushes(all.0, all.1, all.2))
            };
            flushes(epochs, queue, entry);
            other.join().unwrap();
            unmaps.join().unwrap();
        });
    }
}
