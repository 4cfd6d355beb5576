//! Active areas: lent to movable memory, and claimed back.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::AtomicBool;

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
use dmakit_phys::{ClaimError, ClaimLimits, Frame, Frames, FreeError, Migrate, MovableMemory};
use dmakit_platform::Platform;

use crate::statistics::{AreaCounters, AreaStatistics};
use crate::{Area, AreaUse, NoWindow, Purpose};

mod activate;
mod homes;
mod request;

pub use activate::{ActivateError, ActivateReason};
pub(crate) use homes::Homes;
use request::Request;

/// An area of a set of [`Areas`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaId(u16);

impl AreaId {
    /// Its number among the areas of its set, counted from 0.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What is claimed from an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaClaim {
    /// How many frames; rounded up to whole units of the area.
    pub frames: u64,
    /// log2 of the alignment of the first, in frames, counted from frame 0.
    pub align_order: u32,
    /// The highest byte that they may reach.
    pub limit: DmaMask,
}

/// Why an area gives no frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoClaim {
    /// There is no such area.
    NoArea,
    /// What other claims left has no such window.
    Full(NoWindow),
    /// No frame of the area is within the limit.
    OutOfReach,
    /// Every window is lent in part, and nobody was to be asked.
    Lent,
    /// What is in the way did not move: why, the first of it, and who holds it.
    InTheWay(ClaimError),
}

/// A claim that failed. Nothing is claimed; what had moved out of the way stays where it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AreaClaimError {
    /// What was asked.
    pub claim: AreaClaim,
    /// Of which area.
    pub area: AreaId,
    /// Why there is nothing.
    pub reason: NoClaim,
}

impl fmt::Display for AreaClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames of area {}: ", self.claim.frames, self.area.0)?;
        match &self.reason {
            NoClaim::NoArea => f.write_str("there is no such area"),
            NoClaim::Full(no_window) => no_window.fmt(f),
            NoClaim::OutOfReach => write!(f, "it lies above {}", self.claim.limit),
            NoClaim::Lent => f.write_str("every window is lent in part"),
            NoClaim::InTheWay(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AreaClaimError {}

/// Frames that were not released, given back; nothing has changed.
#[derive(Debug)]
pub enum AreaReleaseError {
    /// They lie in no area.
    NotHere(Frames),
    /// The page allocator refuses them.
    Free(FreeError),
}

impl fmt::Display for AreaReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(frames) => write!(f, "{frames:?} lie in no area"),
            Self::Free(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AreaReleaseError {}

struct Active<P: Platform> {
    purpose: Purpose,
    node: NodeId,
    unit_order: u32,
    ranges: Vec<PfnRange>,
    books: Area<P>,
    /// Whether the window that the books named first was lent in part, when a claim looked last.
    lent: AtomicBool,
    counters: AreaCounters,
}

/// The contiguous areas of a machine, idle frames of which serve movable memory.
///
/// What is claimed is known twice: in the books of the area, where a free window is found in a
/// bounded number of steps and under one lock, and in the page allocator, which knows what else the
/// frames are used for. A claim first enters a window in the books, so that no other claim wants
/// it, and then has it cleared, with no lock held: claims in different areas, and in windows apart,
/// do not wait for each other.
///
/// Areas are made by [`InactiveAreas::activate`](crate::InactiveAreas::activate) only.
pub struct Areas<'m, P: Platform, S, M> {
    memory: &'m MovableMemory<P, S, M>,
    areas: Vec<Active<P>>,
    homes: Homes,
}

impl<'m, P, S, M> Areas<'m, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// The memory that the areas are part of.
    pub fn memory(&self) -> &'m MovableMemory<P, S, M> {
        self.memory
    }

    /// All areas.
    pub fn ids(&self) -> impl Iterator<Item = AreaId> + use<P, S, M> {
        (0..self.areas.len() as u16).map(AreaId)
    }

    /// The first area for a purpose.
    pub fn find(&self, purpose: Purpose) -> Option<AreaId> {
        let index = self.areas.iter().position(|area| area.purpose == purpose);
        index.map(|index| AreaId(index as u16))
    }

    /// The area that a frame lies in. At most ten looks, whatever the machine.
    pub fn area_of(&self, frame: Pfn) -> Option<AreaId> {
        self.homes.find(frame)
    }

    /// What an area is for.
    pub fn purpose(&self, area: AreaId) -> Option<Purpose> {
        self.areas.get(area.index()).map(|area| area.purpose)
    }

    /// The node on which an area lies.
    pub fn node(&self, area: AreaId) -> Option<NodeId> {
        self.areas.get(area.index()).map(|area| area.node)
    }

    /// The frames of an area, ascending.
    pub fn ranges(&self, area: AreaId) -> &[PfnRange] {
        self.areas
            .get(area.index())
            .map_or(&[], |area| &area.ranges)
    }

    /// How much of an area is claimed.
    pub fn usage(&self, area: AreaId) -> AreaUse {
        let area = self.areas.get(area.index());
        area.map_or_else(AreaUse::default, |area| area.books.usage())
    }

    /// What came of the claims of an area.
    pub fn statistics(&self, area: AreaId) -> AreaStatistics {
        let area = self.areas.get(area.index());
        area.map_or_else(AreaStatistics::default, |area| area.counters.read())
    }

    /// Claims frames that nobody uses. Never sleeps, allocates no memory, asks nobody, and may be
    /// called in hard interrupts.
    ///
    /// Takes the area's lock for the search and the page allocator's for each page block of the
    /// window. Only where that window is lent in part, the page blocks of the area are looked
    /// through for one that is not.
    ///
    /// # Errors
    /// [`AreaClaimError`]; nothing has changed then.
    pub fn claim_free(&self, area: AreaId, claim: &AreaClaim) -> Result<Frames, AreaClaimError> {
        let request = Request::new(self, area, claim)?;
        let found = request.claim_first();
        let found = match found {
            Ok(None) => request.claim_idle(),
            Ok(Some(frames)) => Ok(frames),
            Err(reason) => Err(reason),
        };
        request.done(found)
    }

    /// Claims frames, and has what is in their way moved: of all windows that can be cleared the
    /// one from which the fewest frames move. May sleep.
    ///
    /// It fails only where each window has something in it that does not move within the limits,
    /// or there is no room for what has to.
    ///
    /// # Errors
    /// [`AreaClaimError`], which names what is in the way.
    pub fn claim(
        &self,
        area: AreaId,
        claim: &AreaClaim,
        limits: &ClaimLimits,
    ) -> Result<Frames, AreaClaimError> {
        let request = Request::new(self, area, claim)?;
        request.done(request.claim(limits))
    }

    /// Gives claimed frames back to their area, which is found from the frames. Never sleeps.
    ///
    /// # Errors
    /// [`AreaReleaseError`] with the frames; nothing has changed then.
    pub fn release(&self, frames: Frames) -> Result<(), AreaReleaseError> {
        let range = frames.range();
        let home = self.area_of(range.start());
        let Some(area) = home.and_then(|home| self.areas.get(home.index())) else {
            return Err(AreaReleaseError::NotHere(frames));
        };
        // The page allocator first: what the books call free may be claimed at once.
        let freed = self.memory.allocator().free_booked(frames);
        freed.map_err(AreaReleaseError::Free)?;
        let released = area.books.release(range);
        debug_assert!(released.is_ok(), "the books lost frames {range}");
        area.counters.released(range.len());
        Ok(())
    }
}

impl<P: Platform, S, M> fmt::Debug for Areas<'_, P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for area in &self.areas {
            list.entry(&format_args!("{}: {:?}", area.purpose, area.books));
        }
        list.finish()
    }
}
