//! What caches hold, given back to the tree.

use dmakit_platform::{CpuGuard, CpuId, CpuSlot, Platform};

use crate::cache::{CLASSES, CpuCache, MAGAZINE};
use crate::extent::Class;
use crate::space::Space;

impl<P: Platform, S: AsRef<[CpuSlot<CpuCache>]>> Space<P, S> {
    /// Asks every CPU to give its cache back when it next comes here, and gives back the depots.
    pub fn request_flush(&self) {
        self.request_flush_below(u64::MAX);
        self.empty_depots(u64::MAX);
    }

    /// Gives back the cache of the CPU that was entered: before it goes offline, or on behalf of
    /// whoever called [`request_flush`](Self::request_flush) where that CPU does no I/O. Never
    /// sleeps; O(blocks held).
    pub fn flush_cpu(&self, cpu: &impl CpuGuard) {
        if let Some((cache, _)) = self.cpus.enter(cpu) {
            self.flush(cache, u64::MAX);
        }
    }

    /// Gives back what this CPU's cache and the depots hold below `end`, and asks other CPUs to;
    /// whether anything came back.
    pub(crate) fn flush_below(&self, cpu: &impl CpuGuard, end: u64) -> bool {
        let mut came = self.empty_depots(end);
        if let Some((cache, all)) = self.cpus.enter(cpu) {
            // What others asked for they ask once.
            came |= self.flush(cache, if all { u64::MAX } else { end });
        }
        self.request_flush_below(end);
        came
    }

    /// Asks the CPUs whose caches hold something below `end`.
    pub(crate) fn request_flush_below(&self, end: u64) {
        for (index, cache) in self.cpus.iter().enumerate() {
            if cache.has_below(end) {
                self.cpus.request_flush(CpuId::new(index as u32));
            }
        }
    }

    /// Gives back what a cache of this CPU holds below `end`; whether there may have been something.
    #[cold]
    #[inline(never)]
    pub(crate) fn flush(&self, cache: &CpuCache, end: u64) -> bool {
        if !cache.has_below(end) {
            return false;
        }
        let mut starts = [0; MAGAZINE];
        for class in CLASSES {
            while !cache.is_empty(class) {
                let count = cache.unload(class, end, &mut starts);
                if count == 0 {
                    break;
                }
                self.give_all(class, &starts[..count]);
            }
        }
        cache.find_lowest();
        true
    }

    /// Gives back the magazines of depots that hold something below `end`; whether there was one.
    pub(crate) fn empty_depots(&self, end: u64) -> bool {
        let mut came = false;
        while let Some((class, starts)) = self.depots.pop_any(end) {
            self.give_all(class, &starts);
            came = true;
        }
        came
    }

    pub(crate) fn give_all(&self, class: Class, starts: &[u64]) {
        let shift = self.granule.shift();
        let granules = (1 << class) >> shift;
        // A few at a time, so that nobody waits long for the lock.
        for few in starts.chunks(8) {
            self.tree.with(|tree| {
                for &start in few {
                    if tree.give(start >> shift, granules).is_err() {
                        self.refuse(granules);
                    }
                }
            });
        }
    }
}
