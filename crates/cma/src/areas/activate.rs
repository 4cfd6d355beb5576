//! From reserved frames to active areas.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::AtomicBool;

use dmakit_addr::{Pfn, PfnRange};
use dmakit_phys::{Frame, Migrate, MigrateType, MovableMemory, PAGEBLOCK_ORDER, PageAllocator};
use dmakit_platform::Platform;

use super::{Active, AreaId, Areas, Homes};
use crate::early::Inactive;
use crate::statistics::AreaCounters;
use crate::{Area, AreaError, InactiveAreas, Purpose};

/// Why an area did not become active.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActivateReason {
    /// These frames were not set aside in the map that the page allocator was made of.
    NotSetAside(PfnRange),
    /// Its ranges make no area.
    Ranges(AreaError),
    /// There are as many areas as there can be.
    TooMany,
}

impl fmt::Display for ActivateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSetAside(range) => write!(f, "frames {range} were not set aside"),
            Self::Ranges(error) => error.fmt(f),
            Self::TooMany => write!(f, "there are {} areas already", Homes::AREAS_MAX),
        }
    }
}

/// An area that did not become active. Its frames stay set aside: they serve nobody, and what was
/// claimed early stays valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActivateError {
    /// What it was for.
    pub purpose: Purpose,
    /// What is wrong.
    pub reason: ActivateReason,
}

impl fmt::Display for ActivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.purpose, self.reason)
    }
}

impl core::error::Error for ActivateError {}

impl InactiveAreas {
    /// How many early claims are out. Each comes back as one segment:
    /// [`AttachedRam::with_out`](dmakit_phys::AttachedRam::with_out) is told so.
    pub fn claims(&self) -> usize {
        self.areas.iter().map(|area| area.claims.len()).sum()
    }

    /// Lends the idle frames of all areas to movable memory: the set of areas, and those that
    /// stayed behind. Takes a step for each frame. Allocates.
    pub fn activate<P, S, M>(
        self,
        memory: &MovableMemory<P, S, M>,
    ) -> (Areas<'_, P, S, M>, Vec<ActivateError>)
    where
        P: Platform,
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        M: Migrate,
    {
        let mut areas = Areas {
            memory,
            areas: Vec::with_capacity(self.areas.len()),
            homes: Homes::default(),
        };
        let mut failed = Vec::new();
        for inactive in self.areas {
            let purpose = inactive.reserved.purpose();
            let added = areas.add(inactive);
            failed.extend(added.err().map(|reason| ActivateError { purpose, reason }));
        }
        (areas, failed)
    }
}

impl<P, S, M> Areas<'_, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    fn add(&mut self, inactive: Inactive) -> Result<(), ActivateReason> {
        let Inactive { reserved, claims } = inactive;
        if self.areas.len() == Homes::AREAS_MAX {
            return Err(ActivateReason::TooMany);
        }
        let allocator = self.memory.allocator();
        let mut ranges = reserved.ranges().iter();
        if let Some(range) = ranges.find(|range| !is_set_aside(allocator, range)) {
            return Err(ActivateReason::NotSetAside(*range));
        }
        let books = Area::new(reserved.ranges(), reserved.unit_order());
        let books = books.map_err(ActivateReason::Ranges)?;
        for claim in claims {
            // Frames that were set aside are free until now, and nobody else has the books. The
            // token stays with the segment, whose return makes it anew.
            let taken = self.memory.claim_free(claim);
            taken.iter().for_each(|frames| allocator.book(frames));
            let entered = books.claim_at(claim);
            debug_assert!(taken.is_some() && entered, "{claim} was claimed early");
        }
        for block in reserved.ranges().iter().flat_map(page_blocks) {
            let lent = allocator.set_migrate_type(block, MigrateType::Contiguous);
            debug_assert!(lent, "{block} is a page block");
        }
        let id = AreaId(self.areas.len() as u16);
        self.homes.add(reserved.ranges(), id);
        self.areas.push(Active {
            purpose: reserved.purpose(),
            node: reserved.node(),
            unit_order: reserved.unit_order(),
            ranges: reserved.ranges().to_vec(),
            books,
            lent: AtomicBool::new(false),
            counters: AreaCounters::default(),
        });
        Ok(())
    }
}

fn is_set_aside<P: Platform, S: AsRef<[Frame]> + AsMut<[Frame]>>(
    allocator: &PageAllocator<P, S>,
    range: &PfnRange,
) -> bool {
    page_blocks(range).all(|block| {
        let [first, last] = [Some(block.start()), block.last()]
            .map(|frame| frame.and_then(|frame| allocator.migrate_type(frame)));
        first == Some(MigrateType::Isolated) && last == first
    })
}

fn page_blocks(range: &PfnRange) -> impl Iterator<Item = PfnRange> + use<> {
    let step = 1_u64 << PAGEBLOCK_ORDER;
    let (start, end) = (range.start().raw(), range.end().raw());
    let starts = (start..end).step_by(step as usize);
    starts.filter_map(move |at| PfnRange::new(Pfn::new(at), step.min(end - at)).ok())
}
