//! What enters and leaves the tables for a buffer.

use crate::calls::{Buffer, Piece};
use crate::iommu::layout::{SegmentLimits, lay_out};

/// What enters the tables for a buffer.
pub(super) struct Runs {
    pub starts: Vec<u64>,
    /// Where lengths are hidden: whether it may be part of the run before it, as its memory begins at a
    /// granule.
    pub may_join: Vec<bool>,
    /// Empty where only the sum is known.
    pub lengths: Vec<u64>,
    pub bytes: u64,
}

impl Runs {
    /// In order, as far as the calls show them.
    pub fn of(buffer: &Buffer, granule: u64) -> Self {
        let round = |phys: u64| phys - phys % granule;
        let pieces = &buffer.pieces;
        // With as many granules as entries, each entry has one; with more, it is not known which.
        let known: Option<Vec<(u64, u64)>> = pieces.iter().map(|p| p.phys.zip(p.bytes)).collect();
        let is_minimal = buffer.bytes == pieces.len() as u64 * granule;
        let known = known.or_else(|| {
            let entry = |piece: &Piece| Some((piece.phys?, granule));
            is_minimal.then(|| pieces.iter().map(entry).collect())?
        });
        match known {
            Some(entries) => {
                let layout = lay_out(&entries, granule, &SegmentLimits::default());
                Self {
                    starts: layout.runs.iter().map(|(phys, _)| *phys).collect(),
                    may_join: Vec::new(),
                    lengths: layout.runs.iter().map(|(_, bytes)| *bytes).collect(),
                    bytes: layout.bytes,
                }
            }
            None => Self {
                starts: pieces.iter().filter_map(|p| p.phys.map(round)).collect(),
                may_join: pieces
                    .iter()
                    .filter_map(|p| Some(round(p.phys?) == p.phys?))
                    .collect(),
                lengths: Vec::new(),
                bytes: total(buffer, granule),
            },
        }
    }
}

/// Bytes of the range that a buffer takes: each piece rounded out to granules. Where their lengths are
/// hidden, each segment: inside of one, pieces meet at granules.
pub(super) fn total(buffer: &Buffer, granule: u64) -> u64 {
    let taken = |phys: Option<u64>, bytes: u64| {
        (phys.unwrap_or(0) % granule + bytes).next_multiple_of(granule)
    };
    let known: Option<u64> = buffer
        .pieces
        .iter()
        .map(|piece| Some(taken(piece.phys, piece.bytes?)))
        .sum();
    known.unwrap_or_else(|| {
        let merged = buffer.merged.iter();
        merged
            .map(|(start, bytes)| taken(Some(*start), *bytes))
            .sum()
    })
}
