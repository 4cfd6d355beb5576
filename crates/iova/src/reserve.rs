//! Addresses that are asked for by name: withheld for good, or claimed for a while.

use alloc::vec::Vec;

use dmakit_addr::IovaRange;
use dmakit_platform::{CpuSlot, Platform};

use crate::cache::CpuCache;
use crate::error::{ReserveCause, ReserveError};
use crate::space::Space;
use crate::tree::TreeError;

/// Addresses that their holder asked for by name, and alone may map.
///
/// It is moved, never copied, and goes back with [`Space::unclaim`] once nothing is mapped there and
/// no translation cache can still know it. Forgetting one leaks its addresses.
#[derive(PartialEq, Eq, Debug)]
pub struct Claim(IovaRange);

impl Claim {
    /// The addresses, whole granules.
    pub fn range(&self) -> IovaRange {
        self.0
    }

    /// The addresses alone: [`Space::resume_claim`] makes the claim again.
    pub fn into_range(self) -> IovaRange {
        self.0
    }
}

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
        let refused = |cause| ReserveError { range, cause };
        let mut reserved = self.reserved.lock();
        let mut holes = Vec::new();
        // One hole before each range reserved, and one behind the last, at the most.
        let most = reserved.len() + 1;
        let no_memory =
            holes.try_reserve_exact(most).is_err() || reserved.try_reserve(most).is_err();
        if no_memory {
            return Err(refused(ReserveCause::NoMemory));
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
                let mut tree = self.tree.lock();
                for &(first, past) in &holes[..done] {
                    // Taken a moment ago, so it can be given.
                    let _ = tree.give(first, past - first);
                }
                return Err(refused(self.cause(error, holes[done])));
            }
        }
        reserved.extend(holes);
        reserved.sort_unstable();
        Ok(())
    }

    /// Hands out exactly `range`, whole granules inside the aperture, all of it free: for a device
    /// that goes on using addresses which somebody chose before. In use until it is
    /// [given back](Self::unclaim). May sleep and allocate memory; O(levels) for each aligned block
    /// that makes up the range.
    ///
    /// # Errors
    /// [`ReserveError`]; where CPUs' caches stood in the way, another try may succeed, as for
    /// [`reserve`](Self::reserve).
    pub fn claim(&self, range: IovaRange) -> Result<Claim, ReserveError> {
        let refused = |cause| Err(ReserveError { range, cause });
        let aperture = self.aperture;
        if range.is_empty() || range.intersection(&aperture) != range {
            return refused(ReserveCause::Outside { aperture });
        }
        if (range.start().raw() | range.len()) & self.granule.mask() != 0 {
            let granule = self.granule.bytes();
            return refused(ReserveCause::Granules { granule });
        }
        let start = self.granule_of(range.start());
        let end = start + (range.len() >> self.granule.shift());
        match self.withhold((start, end), end) {
            Ok(()) => Ok(Claim(range)),
            Err(error) => refused(self.cause(error, (start, end))),
        }
    }

    /// Gives a claim back. Nothing may be mapped there, nor known to a translation cache. Never
    /// sleeps; O(levels) for each aligned block.
    ///
    /// A claim of another space must not come here; one that shows as such is ignored and counted.
    pub fn unclaim(&self, claim: Claim) {
        let start = self.granule_of(claim.0.start());
        self.give(start, claim.0.len() >> self.granule.shift());
    }

    /// The claim of a range that [`Claim::into_range`] gave, of this space, and that nobody has
    /// resumed since.
    pub fn resume_claim(&self, range: IovaRange) -> Claim {
        Claim(range)
    }

    fn cause(&self, error: TreeError, (first, past): (u64, u64)) -> ReserveCause {
        match error {
            TreeError::NoNodes => ReserveCause::NoMemory,
            _ => ReserveCause::InUse(self.bytes(first, past - first)),
        }
    }

    /// Takes granules out of the tree, of which caches may hold some. If so, they are asked for all
    /// that lies below `end`, so that one more try is enough.
    fn withhold(&self, (first, past): (u64, u64), end: u64) -> Result<(), TreeError> {
        self.maintain().map_err(|_| TreeError::NoNodes)?;
        let taken = self.tree.lock().take_at(first, past - first);
        if taken != Err(TreeError::WrongState) {
            return taken;
        }
        self.empty_depots(end);
        self.request_flush_below(end);
        self.tree.lock().take_at(first, past - first)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{Policy, Request};
    use dmakit_addr::{DmaMask, Granule, Iova};
    use dmakit_platform::host::HostPlatform;

    fn range(start: u64, len: u64) -> IovaRange {
        IovaRange::new(Iova::new(start), len).unwrap()
    }

    #[test]
    fn a_claim_is_in_use_until_it_is_given_back_and_leaves_no_trace() {
        let platform = HostPlatform::new(1);
        let cpus = vec![CpuSlot::<CpuCache>::default()];
        let aperture = range(0, 1 << 32);
        let space: Space<HostPlatform, _> =
            Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
        space.reserve(range(0x10_0000, 0x1000)).unwrap();
        let before = space.statistics();
        // Neither a power of two nor aligned to one.
        let wanted = range(0x8000_3000, 0x7000);
        let claim = space.claim(wanted).unwrap();
        assert_eq!(space.statistics().used, 0x7000);
        let again = space.claim(range(0x8000_9000, 0x2000)).unwrap_err();
        assert_eq!(again.cause, ReserveCause::InUse(again.range));
        let cpu = platform.enter_cpu();
        let request = Request {
            len: 1 << 31,
            align: 1 << 31,
            limit: DmaMask::ALL,
        };
        space.alloc(&cpu, &request).unwrap_err();
        space.unclaim(claim);
        assert_eq!(space.statistics(), before);
        let causes = [
            (
                range(0x10_0000, 0x1000),
                ReserveCause::InUse(range(0x10_0000, 0x1000)),
            ),
            (
                range(0x10_0800, 0x1000),
                ReserveCause::Granules { granule: 4096 },
            ),
            (range(0x20_0000, 0), ReserveCause::Outside { aperture }),
            (
                range(0xffff_f000, 0x2000),
                ReserveCause::Outside { aperture },
            ),
        ];
        for (range, cause) in causes {
            assert_eq!(space.claim(range), Err(ReserveError { range, cause }));
        }
        assert_eq!(space.statistics().used, 0);
    }
}
