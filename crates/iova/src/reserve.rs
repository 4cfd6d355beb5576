//! Addresses withheld for good.

use alloc::vec::Vec;

use dmakit_addr::IovaRange;
use dmakit_platform::{CpuSlot, Platform};

use crate::cache::CpuCache;
use crate::error::ReserveError;
use crate::space::Space;
use crate::tree::TreeError;

impl<P: Platform, S: AsRef<[CpuSlot<CpuCache>]>> Space<P, S> {
    /// Withholds `range` for good: a hole, a doorbell, an identity region. What is outside the
    /// aperture or reserved already is no error; granules touched in part count whole. May sleep
    /// and allocate memory; O(ranges reserved).
    ///
    /// # Errors
    /// [`ReserveError`], and nothing is reserved, where part of it is handed out or is in a CPU's
    /// cache. Those caches have been asked to give back what they hold, so once every CPU has come
    /// here another try succeeds unless something is in use.
    pub fn reserve(&self, range: IovaRange) -> Result<(), ReserveError> {
        let inside = range.intersection(&self.aperture);
        let start = self.granule_of(inside.start());
        let end = start
            + self
                .granule
                .count(inside.start().raw(), inside.len())
                .unwrap_or(0);
        let refused = |taken| ReserveError { range, taken };
        let nothing = inside.slice(0, 0).unwrap_or(inside);
        let mut reserved = self.reserved.lock();
        let mut holes = Vec::new();
        // One hole before each range reserved, and one behind the last, at the most.
        let most = reserved.len() + 1;
        let no_memory =
            holes.try_reserve_exact(most).is_err() || reserved.try_reserve(most).is_err();
        if no_memory {
            return Err(refused(nothing));
        }
        let mut at = start.max(1);
        for &(first, past) in reserved.iter().filter(|&&(_, past)| past > start) {
            if at < first.min(end) {
                holes.push((at, first.min(end)));
            }
            at = at.max(past);
        }
        if at < end {
            holes.push((at, end));
        }
        for done in 0..holes.len() {
            if let Err(error) = self.withhold(holes[done], end) {
                self.tree.with(|tree| {
                    for &(first, past) in &holes[..done] {
                        // Taken a moment ago, so it can be given.
                        let _ = tree.give(first, past - first);
                    }
                });
                let (first, past) = holes[done];
                return Err(refused(match error {
                    TreeError::NoNodes => nothing,
                    _ => self.bytes(first, past - first),
                }));
            }
        }
        reserved.extend(holes);
        reserved.sort_unstable();
        Ok(())
    }

    /// Takes granules out of the tree, of which caches may hold some. If so, they are asked for all
    /// that lies below `end`, so that one more try is enough.
    fn withhold(&self, (first, past): (u64, u64), end: u64) -> Result<(), TreeError> {
        self.maintain().map_err(|_| TreeError::NoNodes)?;
        let take = || self.tree.with(|tree| tree.take_at(first, past - first));
        let taken = take();
        if taken != Err(TreeError::WrongState) {
            return taken;
        }
        let end = end << self.granule.shift();
        self.empty_depots(end);
        self.request_flush_below(end);
        take()
    }
}
