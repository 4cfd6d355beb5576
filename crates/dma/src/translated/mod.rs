//! Mappings through a domain.
//!
//! The device sees one range of addresses, whatever the memory.

mod edges;
mod end;
mod original;
mod raw;
mod survey;

use dmakit_addr::{
    Address, Attributes, Direction, DirectionType, DmaRange, Granule, IovaRange, PhysAddr,
    PhysRange,
};
use dmakit_io_pgtable::{Access, Memory, Permissions};
use dmakit_iommu::LinkCursor;
use dmakit_platform::{CopySource, Platform};

use original::Runs;
pub(crate) use original::{OneRun, Original};

use crate::check::Checker;
use crate::fragments::{Piece, each_piece, pieces};
use crate::mapping::{Record, Route, Slots};
use crate::part::Touched;
use crate::{Device, DomainError, MapError, MaskKind, StrictDomain, Translate, cache};

/// A mapping that was just made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translated {
    pub(crate) range: IovaRange,
    pub(crate) slots: Slots,
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// What the device may do with memory that is mapped this way.
    #[inline]
    pub(crate) fn permissions(&self, direction: Direction, attributes: Attributes) -> Permissions {
        let access = match direction {
            Direction::ToDevice => Access::Read,
            Direction::FromDevice => Access::Write,
            Direction::Bidirectional => Access::ReadWrite,
        };
        let memory = if attributes.contains(Attributes::MMIO) {
            Memory::Device
        } else if self.info.is_coherent() {
            Memory::Cached
        } else {
            Memory::Uncached
        };
        Permissions {
            access,
            memory,
            privileged: attributes.contains(Attributes::PRIVILEGED),
            ..Permissions::READ_WRITE
        }
    }

    /// Maps `runs`, whose bytes are `source`, and shows each stretch of device addresses to `place`.
    ///
    /// # Errors
    /// [`MapError`]: nothing is mapped then.
    #[inline]
    pub(crate) fn translate<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        runs: impl Iterator<Item = PhysRange> + Clone,
        source: &S,
        attributes: Attributes,
        mut place: impl FnMut(DmaRange),
    ) -> Result<Translated, MapError> {
        let granule = domain.granule();
        let survey = self.survey(runs.clone(), granule, D::DIRECTION);
        let range = {
            let limit = self.info.reach(MaskKind::Streaming);
            let cpu = self.platform.enter_cpu();
            let range = domain.reserve(&cpu, survey.span, 1, limit);
            range.map_err(|error| MapError::Domain(DomainError::Space(error)))?
        };
        let permissions = self.permissions(D::DIRECTION, attributes);
        let mut done = 0;
        match survey.seamless(range, granule) {
            Some(whole) => place(whole),
            None => {
                let places = pieces(runs.clone(), granule);
                let places = places.filter_map(|piece| piece.dma(range, granule));
                places.for_each(&mut place);
            }
        }
        let slots = match survey.cause {
            None => Slots::None,
            Some(_) => Slots::Edges,
        };
        let linked = match survey.cause {
            None => self.link_whole(
                domain,
                range,
                runs.clone(),
                permissions,
                D::DIRECTION,
                attributes,
                &mut done,
            ),
            Some(cause) => self.link_guarded::<D, S>(
                domain,
                range,
                parts(runs.clone(), Slots::Edges, granule),
                source,
                permissions,
                attributes,
                cause,
                &mut done,
            ),
        };
        let announced = linked.and_then(|()| {
            domain
                .announce(range)
                .map_err(|error| MapError::Domain(DomainError::Hardware(error)))
        });
        match announced {
            Ok(()) => {
                if slots != Slots::None {
                    self.counters.bounced();
                }
                Ok(Translated { range, slots })
            }
            Err(error) => {
                self.undo::<D>(domain, Translated { range, slots }, runs, done);
                Err(error)
            }
        }
    }

    /// Fills the table for runs that the device may see with all their granules.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn link_whole(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
        direction: Direction,
        attributes: Attributes,
        done: &mut u64,
    ) -> Result<(), MapError> {
        let granule = domain.granule();
        let cleans = !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC);
        let mut cursor = domain.cursor(permissions);
        each_piece(runs, granule, |piece| {
            if cleans {
                cache::before_device(&self.platform, piece.run, direction);
            }
            let (phys, span) = (
                piece.run.start().align_down(granule.bytes()),
                piece.span(granule),
            );
            // A part of what was counted to be as long as the range.
            let part = range.slice(piece.base, span).ok_or(MapError::Empty)?;
            let is_linked = span == granule.bytes() && cursor.map_granule(part.start(), phys);
            if !is_linked {
                let linked = cursor.map(part, phys);
                linked.map_err(|error| MapError::Domain(DomainError::Table(error.failure)))?;
            }
            *done = piece.base + span;
            Ok(())
        })
    }

    /// Links one piece, whose bytes are `source`, to addresses that are reserved; says whether part of
    /// it lies in slots.
    ///
    /// # Errors
    /// [`MapError`]: nothing of it is linked then.
    #[inline]
    pub(crate) fn link_piece<D: DirectionType, S: CopySource + ?Sized>(
        &self,
        domain: &T::Domain,
        range: IovaRange,
        piece: Piece,
        source: &S,
        attributes: Attributes,
    ) -> Result<bool, MapError> {
        let granule = domain.granule();
        let guard = self.guard(D::DIRECTION);
        let permissions = self.permissions(D::DIRECTION, attributes);
        let mut fragments = piece.fragments(granule);
        let cause = match guard.is_needed() {
            true => fragments.find_map(|part| guard.cause(&part, granule)),
            false => None,
        };
        let Some(cause) = cause else {
            let cleans =
                !self.info.is_coherent() && !attributes.contains(Attributes::SKIP_CPU_SYNC);
            if cleans {
                cache::before_device(&self.platform, piece.run, D::DIRECTION);
            }
            let phys = piece.run.start().align_down(granule.bytes());
            link(domain, range, &piece, phys, permissions)?;
            return Ok(false);
        };
        let mut done = piece.base;
        let parts = piece.fragments(granule);
        let linked = self.link_guarded::<D, S>(
            domain,
            range,
            parts,
            source,
            permissions,
            attributes,
            cause,
            &mut done,
        );
        if linked.is_err() {
            self.unlink_fragments::<D>(domain, range, piece, done);
        }
        linked.map(|()| true)
    }
    /// Ends a mapping that nobody was told of, of which the first `done` bytes are linked.
    #[cold]
    pub(crate) fn undo<D: DirectionType>(
        &self,
        domain: &T::Domain,
        translated: Translated,
        runs: impl Iterator<Item = PhysRange> + Clone,
        done: u64,
    ) {
        let Translated { range, slots } = translated;
        let undone = match (slots, range.slice(0, done)) {
            (Slots::None, Some(part)) if done > 0 => domain.undo(part).is_ok(),
            (Slots::None, _) => true,
            _ => self.take_apart::<D, _>(domain, translated, &mut Runs(runs), done, None, false),
        };
        if undone {
            domain.release(&self.platform.enter_cpu(), range);
        } else {
            self.counters.lost();
        }
    }

    /// The parts of a mapping that `len` bytes from `offset` touch, which bytes of each these are,
    /// and where the slots begin in which it lies, if it does.
    pub(crate) fn touched(
        &self,
        domain: &'m T::Domain,
        translated: Translated,
        runs: impl Iterator<Item = PhysRange> + Clone,
        offset: u64,
        len: u64,
    ) -> impl Iterator<Item = Touched> {
        let slots = translated.slots;
        parts(runs, slots, domain.granule()).filter_map(move |part| {
            let start = offset.max(part.at);
            let end = (offset + len).min(part.at + part.run.len());
            let inside = end.checked_sub(start).filter(|&len| len > 0)?;
            Some(Touched {
                at: part.at,
                offset: start - part.at,
                len: inside,
                slots: match slots {
                    Slots::None => None,
                    _ => self.slots_start(domain, translated, &part),
                },
                run: part.run,
            })
        })
    }
}

/// The parts of a mapping, cut where slots may begin or end.
fn parts(
    runs: impl Iterator<Item = PhysRange> + Clone,
    slots: Slots,
    granule: Granule,
) -> impl Iterator<Item = Piece> + Clone {
    pieces(runs, granule).flat_map(move |piece| {
        let (whole, cut) = match slots {
            Slots::Edges => (None, Some(piece.fragments(granule))),
            Slots::None | Slots::All => (Some(piece), None),
        };
        whole.into_iter().chain(cut.into_iter().flatten())
    })
}

/// Fills the table for a part.
#[inline]
fn link<T: StrictDomain>(
    domain: &T,
    range: IovaRange,
    part: &Piece,
    phys: PhysAddr,
    permissions: Permissions,
) -> Result<(), MapError> {
    let place = range.slice(part.base, part.span(domain.granule()));
    // A part of what was counted to be as long as the range.
    let place = place.ok_or(MapError::Empty)?;
    domain
        .link(place, phys, permissions)
        .map_err(|error| MapError::Domain(DomainError::Table(error.failure)))
}

/// Where a mapping's record says that it lies.
impl<D> Record<D> {
    pub(crate) fn translated(&self) -> Option<Translated> {
        match self.route {
            Route::Translated { range, slots } => Some(Translated { range, slots }),
            Route::Direct | Route::Bounced(_) => None,
        }
    }
}
