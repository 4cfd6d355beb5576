//! How memory lies in the device addresses of a translated mapping.
//!
//! Runs follow one another, each from the granule that holds its first byte to the one that holds
//! its last. So a run that ends with its granule and one that begins with its own are one stretch
//! for the device. Where everything lies follows from the runs alone: nothing of it is recorded.

use dmakit_addr::{DmaAddr, DmaRange, Granule, IovaRange, PhysRange};

/// Runs, those that follow one another in memory joined, empty ones left out.
#[derive(Clone)]
pub(crate) struct Joined<I> {
    runs: I,
    next: Option<PhysRange>,
}

impl<I: Iterator<Item = PhysRange>> Joined<I> {
    #[inline]
    pub(crate) fn new(runs: I) -> Self {
        Self { runs, next: None }
    }
}

impl<I: Iterator<Item = PhysRange>> Iterator for Joined<I> {
    type Item = PhysRange;

    #[inline]
    fn next(&mut self) -> Option<PhysRange> {
        let mut open = self.next.take();
        for run in self.runs.by_ref() {
            if run.is_empty() {
                continue;
            }
            open = match open {
                None => Some(run),
                Some(before) if before.end() == run.start() => {
                    PhysRange::between(before.start(), run.end())
                }
                Some(before) => {
                    self.next = Some(run);
                    return Some(before);
                }
            };
        }
        open
    }
}

/// A run in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) run: PhysRange,
    /// Where its first byte is in the memory that is mapped.
    pub(crate) at: u64,
    /// Where its first granule is in the mapping's addresses.
    pub(crate) base: u64,
}

impl Piece {
    /// Bytes of the granules that it touches.
    #[inline]
    pub(crate) fn span(&self, granule: Granule) -> u64 {
        let offset = self.run.start().raw() & granule.mask();
        (offset + self.run.len() + granule.mask()) & !granule.mask()
    }

    /// Where the device sees its bytes, in a mapping at `range`.
    #[inline]
    pub(crate) fn dma(&self, range: IovaRange, granule: Granule) -> Option<DmaRange> {
        let offset = self.run.start().raw() & granule.mask();
        let start = range.start().raw().checked_add(self.base + offset)?;
        DmaRange::new(DmaAddr::new(start), self.run.len()).ok()
    }

    /// It in parts: what shares its first granule with others, whole granules, what shares the last.
    pub(crate) fn fragments(self, granule: Granule) -> impl Iterator<Item = Self> + Clone {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let this = rest.take()?;
            let len = match this.is_ragged(granule) {
                false => this.run.len() & !granule.mask(),
                true => {
                    let offset = this.run.start().raw() & granule.mask();
                    this.run.len().min(granule.bytes() - offset)
                }
            };
            let (run, after) = this.run.split_at(len)?;
            let part = Self { run, ..this };
            rest = (!after.is_empty()).then(|| Self {
                run: after,
                at: this.at + len,
                base: this.base + part.span(granule),
            });
            Some(part)
        })
    }

    /// Whether its first granule is not all its own.
    #[inline]
    pub(crate) fn is_ragged(&self, granule: Granule) -> bool {
        self.run.start().raw() & granule.mask() != 0 || self.run.len() < granule.bytes()
    }
}

/// The places of joined runs.
#[inline]
pub(crate) fn pieces(
    runs: impl Iterator<Item = PhysRange> + Clone,
    granule: Granule,
) -> impl Iterator<Item = Piece> + Clone {
    let (mut at, mut base) = (0, 0);
    Joined::new(runs).map(move |run| {
        let piece = Piece { run, at, base };
        at += run.len();
        base += piece.span(granule);
        piece
    })
}

/// Shows the places of joined runs to `visit` until it fails: as [`pieces`], for those who want all of
/// them and pay for each.
///
/// # Errors
/// Those of `visit`.
#[inline(always)]
pub(crate) fn each_piece<E>(
    mut runs: impl Iterator<Item = PhysRange>,
    granule: Granule,
    mut visit: impl FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let Some(first) = runs.find(|run| !run.is_empty()) else {
        return Ok(());
    };
    let (mut run, mut at, mut base) = (first, 0, 0);
    // One place that takes a run, and one that shows a piece: both become part of the loop.
    loop {
        let next = runs.next();
        let (start, len) = next.map_or((0, 0), |next| (next.start().raw(), next.len()));
        let is_next = start == run.end().raw();
        if len == 0 && next.is_some() || len > 0 && is_next {
            let joined = PhysRange::new(run.start(), run.len() + len);
            run = joined.unwrap_or(run);
            continue;
        }
        let piece = Piece { run, at, base };
        visit(piece)?;
        let Some(next) = next else {
            return Ok(());
        };
        at += run.len();
        base += piece.span(granule);
        run = next;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use dmakit_addr::PhysAddr;
    use std::vec::Vec;

    fn run(start: u64, len: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), len).unwrap()
    }

    #[test]
    fn neighbours_in_memory_are_one_run() {
        let runs = [
            run(0x1000, 0x800),
            run(0x1800, 0),
            run(0x1800, 0x800),
            run(0x3000, 1),
            run(0x2000, 0x1000),
        ];
        let joined: Vec<_> = Joined::new(runs.into_iter()).collect();
        assert_eq!(
            joined,
            [run(0x1000, 0x1000), run(0x3000, 1), run(0x2000, 0x1000)]
        );
        assert_eq!(Joined::new([run(1, 0)].into_iter()).next(), None);
    }

    #[test]
    fn each_run_begins_in_a_granule_of_its_own() {
        let runs = [run(0x1800, 0x900), run(0x9000, 0x1000), run(0x5ff0, 0x10)];
        let places: Vec<_> = pieces(runs.into_iter(), Granule::K4)
            .map(|piece| (piece.at, piece.base, piece.span(Granule::K4)))
            .collect();
        assert_eq!(
            places,
            [
                (0, 0, 0x2000),
                (0x900, 0x2000, 0x1000),
                (0x1900, 0x3000, 0x1000)
            ]
        );
    }

    #[test]
    fn those_who_are_shown_all_places_see_the_same_ones() {
        let lists = [
            std::vec![],
            std::vec![run(0, 0x1000), run(0x1000, 0x10), run(0x9000, 0)],
            std::vec![
                run(0x1800, 0x900),
                run(0x9000, 0),
                run(0x2100, 0x700),
                run(0x800, 0x10)
            ],
            std::vec![
                run(0, 0),
                run(0x3000, 1),
                run(0x3001, 0xfff),
                run(0x3000, 0x1000)
            ],
        ];
        for list in lists {
            let mut shown = Vec::new();
            let all = each_piece(list.iter().copied(), Granule::K4, |piece| {
                shown.push(piece);
                Ok::<_, ()>(())
            });
            assert_eq!(all, Ok(()));
            let places: Vec<_> = pieces(list.into_iter(), Granule::K4).collect();
            assert_eq!(shown, places);
        }
        let mut left = 2;
        let list = [
            run(0x1000, 1),
            run(0x3000, 1),
            run(0x5000, 1),
            run(0x7000, 1),
        ];
        let stopped = each_piece(list.into_iter(), Granule::K4, |piece| {
            left -= 1;
            if left == 0 { Err(piece.run) } else { Ok(()) }
        });
        assert_eq!(
            (stopped, left),
            (Err(run(0x3000, 1)), 0),
            "nothing after the failure"
        );
    }

    #[test]
    fn ragged_edges_are_cut_off_whole_granules() {
        let cut = |start, len| {
            let piece = Piece {
                run: run(start, len),
                at: 7,
                base: 0x1_0000,
            };
            let parts = piece.fragments(Granule::K4);
            let part = |part: Piece| {
                let offset = part.run.start().raw() - start;
                assert_eq!(part.at, 7 + offset);
                (
                    offset,
                    part.run.len(),
                    part.base - 0x1_0000,
                    part.is_ragged(Granule::K4),
                )
            };
            parts.map(part).collect::<Vec<_>>()
        };
        assert_eq!(cut(0x1000, 0x2000), [(0, 0x2000, 0, false)]);
        assert_eq!(cut(0x1100, 0x200), [(0, 0x200, 0, true)]);
        assert_eq!(
            cut(0x1f00, 0x1200),
            [
                (0, 0x100, 0, true),
                (0x100, 0x1000, 0x1000, false),
                (0x1100, 0x100, 0x2000, true)
            ]
        );
        assert_eq!(
            cut(0x1f00, 0x200),
            [(0, 0x100, 0, true), (0x100, 0x100, 0x1000, true)]
        );
        assert_eq!(
            cut(0x1000, 0x1001),
            [(0, 0x1000, 0, false), (0x1000, 1, 0x1000, true)]
        );
    }
}
