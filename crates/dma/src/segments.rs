//! Physical runs made into what a device is told.

use dmakit_addr::{Address, AlignMask, DmaAddr, DmaRange};

use crate::{MapError, SegmentLimits};

/// One address and length to write into a device's descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct DmaSegment {
    /// Where it starts for the device.
    pub addr: DmaAddr,
    /// How many bytes it has.
    pub len: u64,
}

impl From<DmaRange> for DmaSegment {
    fn from(range: DmaRange) -> Self {
        Self {
            addr: range.start(),
            len: range.len(),
        }
    }
}

/// Runs that must follow one another for the device, to be one segment.
#[derive(Default)]
pub(crate) struct OneSegment {
    joined: Option<DmaRange>,
    is_scattered: bool,
}

impl OneSegment {
    /// Appends a run.
    #[inline]
    pub(crate) fn push(&mut self, run: DmaRange) {
        let both = match self.joined {
            None => Some(run),
            Some(first) if first.end() == run.start() => {
                DmaRange::between(first.start(), run.end())
            }
            Some(_) => None,
        };
        self.is_scattered |= both.is_none();
        self.joined = both.or(self.joined);
    }

    /// Where the segment starts.
    ///
    /// # Errors
    /// [`MapError`] where it is none, or none that the device takes.
    #[inline]
    pub(crate) fn finish(self, limits: SegmentLimits) -> Result<DmaAddr, MapError> {
        let first = self.joined.ok_or(MapError::Empty)?;
        if self.is_scattered {
            return Err(MapError::Scattered { first });
        }
        if !limits.allows(first) {
            return Err(MapError::Limits {
                segment: first,
                limits,
            });
        }
        Ok(first.start())
    }
}

/// Joins runs that follow one another for the device, cuts them by its limits, and writes what
/// comes out as long as there is room. It goes on counting where there is none, so that a refusal
/// can say how much room would do.
pub(crate) struct SegmentWriter<'s> {
    slots: &'s mut [DmaSegment],
    limits: SegmentLimits,
    min_align: AlignMask,
    /// How many there may be.
    room: usize,
    count: usize,
    open: Option<DmaRange>,
}

impl<'s> SegmentWriter<'s> {
    pub(crate) fn new(
        slots: &'s mut [DmaSegment],
        limits: SegmentLimits,
        min_align: AlignMask,
    ) -> Self {
        Self {
            room: slots.len().min(limits.max_count),
            slots,
            limits,
            min_align,
            count: 0,
            open: None,
        }
    }

    /// One that only counts.
    pub(crate) fn counting(limits: SegmentLimits, min_align: AlignMask) -> Self {
        Self {
            room: limits.max_count,
            ..Self::new(&mut [], limits, min_align)
        }
    }

    /// Forgets all that was appended.
    pub(crate) fn restart(&mut self) {
        (self.count, self.open) = (0, None);
    }

    /// Appends a run.
    #[inline]
    pub(crate) fn push(&mut self, run: DmaRange) {
        if run.is_empty() {
            return;
        }
        let joined = self
            .open
            .filter(|open| open.end() == run.start())
            .and_then(|open| DmaRange::between(open.start(), run.end()));
        if joined.is_none() {
            self.close();
        }
        self.open = joined.or(Some(run));
    }

    /// How many segments there are.
    ///
    /// # Errors
    /// [`MapError::TooManySegments`] where they are more than there was room for, or than the
    /// device takes.
    pub(crate) fn finish(mut self) -> Result<u32, MapError> {
        self.close();
        counted(self.count, self.room)
    }

    fn close(&mut self) {
        let mut rest = self.open.take();
        let take = |rest| cut(rest, self.limits, self.min_align);
        while let Some((piece, after)) = rest.and_then(|rest| rest.split_at(take(rest))) {
            if let Some(slot) = self.slots.get_mut(self.count) {
                *slot = piece.into();
            }
            self.count += 1;
            rest = Some(after).filter(|after| !after.is_empty());
        }
    }
}

/// A number of segments.
///
/// # Errors
/// [`MapError::TooManySegments`] where there is no room for so many.
pub(crate) fn counted(needed: usize, room: usize) -> Result<u32, MapError> {
    let count = u32::try_from(needed).ok().filter(|_| needed <= room);
    count.ok_or(MapError::TooManySegments { needed, room })
}

/// Writes segments as long as there is room; how many there are.
///
/// # Errors
/// As [`SegmentWriter::finish`].
pub(crate) fn write_all(
    all: impl Iterator<Item = DmaSegment>,
    limits: SegmentLimits,
    slots: &mut [DmaSegment],
) -> Result<u32, MapError> {
    let room = slots.len().min(limits.max_count);
    let mut count = 0;
    for segment in all {
        if let Some(slot) = slots.get_mut(count) {
            *slot = segment;
        }
        count += 1;
    }
    counted(count, room)
}

/// How much of `rest` one segment takes.
fn cut(rest: DmaRange, limits: SegmentLimits, min_align: AlignMask) -> u64 {
    let boundary = limits.boundary;
    let to_boundary = (boundary.raw() - boundary.low_bits(rest.start())).saturating_add(1);
    let most = rest.len().min(limits.max_bytes).min(to_boundary);
    if most == rest.len() || min_align == AlignMask::NONE {
        return most;
    }
    // A device that minds low address bits minds them in the next segment's address too.
    let end = rest.start().raw().saturating_add(most);
    let aligned = DmaAddr::new(end & !min_align.raw());
    aligned
        .offset_from(rest.start())
        .filter(|&len| len > 0)
        .unwrap_or(most)
}

/// Runs joined and cut, one segment after the other.
pub(crate) struct Cut<I> {
    runs: I,
    limits: SegmentLimits,
    min_align: AlignMask,
    open: Option<DmaRange>,
    next: Option<DmaRange>,
}

impl<I: Iterator<Item = DmaRange>> Cut<I> {
    pub(crate) fn new(runs: I, limits: SegmentLimits, min_align: AlignMask) -> Self {
        Self {
            runs,
            limits,
            min_align,
            open: None,
            next: None,
        }
    }

    /// Joins to what is open all that follows it.
    fn join(&mut self) -> Option<DmaRange> {
        let mut open = self.open.take().or_else(|| self.next.take());
        while self.next.is_none() {
            let Some(run) = self.runs.next() else { break };
            if run.is_empty() {
                continue;
            }
            open = match open {
                None => Some(run),
                Some(before) if before.end() == run.start() => {
                    DmaRange::between(before.start(), run.end())
                }
                Some(before) => {
                    self.next = Some(run);
                    Some(before)
                }
            };
        }
        open
    }
}

impl<I: Iterator<Item = DmaRange>> Iterator for Cut<I> {
    type Item = DmaSegment;

    fn next(&mut self) -> Option<DmaSegment> {
        let open = self.join()?;
        let (piece, after) = open.split_at(cut(open, self.limits, self.min_align))?;
        self.open = Some(after).filter(|after| !after.is_empty());
        Some(piece.into())
    }
}

/// Stretches taken apart into the pieces that the caller made them of, and these cut.
pub(crate) struct Apart<I, L> {
    stretches: I,
    /// How long the pieces are, as many bytes together as the stretches.
    lens: L,
    limits: SegmentLimits,
    min_align: AlignMask,
    open: Option<DmaRange>,
    /// Bytes of the open stretch that are of the same piece.
    left: u64,
}

impl<I: Iterator<Item = DmaRange>, L: Iterator<Item = u64>> Apart<I, L> {
    pub(crate) fn new(stretches: I, lens: L, limits: SegmentLimits, min_align: AlignMask) -> Self {
        Self {
            stretches,
            lens,
            limits,
            min_align,
            open: None,
            left: 0,
        }
    }
}

impl<I: Iterator<Item = DmaRange>, L: Iterator<Item = u64>> Iterator for Apart<I, L> {
    type Item = DmaSegment;

    fn next(&mut self) -> Option<DmaSegment> {
        let open = self.open.take();
        let open = open.or_else(|| self.stretches.find(|stretch| !stretch.is_empty()))?;
        if self.left == 0 {
            self.left = self.lens.find(|&len| len > 0)?;
        }
        let (piece, _) = open.split_at(self.left.min(open.len()))?;
        let taken = cut(piece, self.limits, self.min_align);
        let (segment, after) = open.split_at(taken)?;
        self.open = Some(after).filter(|after| !after.is_empty());
        self.left -= taken;
        Some(segment.into())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use dmakit_addr::BoundaryMask;
    use std::vec::Vec;

    fn range(start: u64, len: u64) -> DmaRange {
        DmaRange::new(DmaAddr::new(start), len).unwrap()
    }

    fn cut_all(runs: &[(u64, u64)], limits: SegmentLimits, align: AlignMask) -> Vec<(u64, u64)> {
        let mut slots = [DmaSegment::default(); 16];
        let mut writer = SegmentWriter::new(&mut slots, limits, align);
        for &(start, len) in runs {
            writer.push(range(start, len));
        }
        let count = writer.finish().unwrap() as usize;
        let one_by_one = Cut::new(runs.iter().map(|&(at, len)| range(at, len)), limits, align);
        assert!(
            one_by_one.eq(slots[..count].iter().copied()),
            "both ways cut alike"
        );
        slots[..count]
            .iter()
            .map(|s| (s.addr.raw(), s.len))
            .collect()
    }

    #[test]
    fn neighbours_join_and_strangers_do_not() {
        let runs = [(0x1000, 0x1000), (0x2000, 0x10), (0x2010, 0), (0x2020, 4)];
        let joined = cut_all(&runs, SegmentLimits::NONE, AlignMask::NONE);
        assert_eq!(joined, [(0x1000, 0x1010), (0x2020, 4)]);
    }

    #[test]
    fn no_segment_is_too_long_or_crosses_the_boundary() {
        let limits = SegmentLimits {
            max_bytes: 0x3000,
            boundary: BoundaryMask::of_size(0x1_0000).unwrap(),
            ..SegmentLimits::NONE
        };
        let pieces = cut_all(&[(0xe000, 0x6000)], limits, AlignMask::NONE);
        assert_eq!(
            pieces,
            [(0xe000, 0x2000), (0x1_0000, 0x3000), (0x1_3000, 0x1000)]
        );
    }

    #[test]
    fn a_cut_leaves_the_next_segment_aligned_where_the_device_minds() {
        let limits = SegmentLimits {
            max_bytes: 0x2000,
            ..SegmentLimits::NONE
        };
        let page = AlignMask::of_size(0x1000).unwrap();
        let pieces = cut_all(&[(0x1e00, 0x2400)], limits, page);
        assert_eq!(pieces, [(0x1e00, 0x1200), (0x3000, 0x1200)]);
        let short = SegmentLimits {
            max_bytes: 0x100,
            ..SegmentLimits::NONE
        };
        assert_eq!(
            cut_all(&[(0x1010, 0x180)], short, page).len(),
            2,
            "no way to align"
        );
    }

    #[test]
    fn pieces_apart_keep_their_ends_and_are_cut_all_the_same() {
        let stretches = [
            range(0x1000, 0x3000),
            range(0x8000, 0),
            range(0x9000, 0x800),
        ];
        let limits = SegmentLimits {
            max_bytes: 0x1000,
            ..SegmentLimits::NONE
        };
        let lens = [0x800, 0, 0x1800, 0x1000, 0x800];
        let apart = Apart::new(
            stretches.into_iter(),
            lens.into_iter(),
            limits,
            AlignMask::NONE,
        );
        let apart: Vec<_> = apart.map(|s| (s.addr.raw(), s.len)).collect();
        let expected = [
            (0x1000, 0x800),
            (0x1800, 0x1000),
            (0x2800, 0x800),
            (0x3000, 0x1000),
            (0x9000, 0x800),
        ];
        assert_eq!(apart, expected);
    }

    #[test]
    fn a_list_too_long_is_counted_to_its_end() {
        let mut slots = [DmaSegment::default(); 1];
        let mut writer = SegmentWriter::new(&mut slots, SegmentLimits::NONE, AlignMask::NONE);
        for i in 0..5 {
            writer.push(range(i * 0x1000, 8));
        }
        let refused = writer.finish().unwrap_err();
        assert_eq!(refused, MapError::TooManySegments { needed: 5, room: 1 });
    }
}
