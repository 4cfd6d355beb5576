//! Memory that is contiguous for the device only.

use alloc::vec::Vec;

use dmakit_addr::{Attributes, DirectionType, DmaMask, PAGE_BYTES};
use dmakit_platform::{CpuBuffer, NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::check::Checker;
use crate::{Device, MapError, Mapping, StrictDomain, Translate, UnmapFailure};

/// The largest piece that is asked for: larger ones are hard to have, and no device minds the seam.
const PIECE_MAX: u64 = 4 << 20;

/// Why there is no such memory. Nothing is held then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoncontiguousError {
    /// The source has none, or not enough.
    NoMemory(NoMemory),
    /// There is no room for a list of its pieces.
    NoList {
        /// How many pieces there were.
        pieces: usize,
    },
    /// It was not mapped.
    Map(MapError),
}

impl core::fmt::Display for NoncontiguousError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoMemory(error) => error.fmt(f),
            Self::NoList { pieces } => write!(f, "no memory for a list of {pieces} pieces"),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for NoncontiguousError {}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// At least `len` bytes from `source` in the largest pieces that it has, mapped as one segment:
    /// what is hard to have in one piece and need not be, behind an IOMMU. It is used as any mapping
    /// is, synced by halves of the CPU and the device. May sleep.
    ///
    /// # Errors
    /// [`NoncontiguousError`]; without translation, where the source gave more than one piece.
    #[track_caller]
    pub fn alloc_noncontiguous<D: DirectionType>(
        &self,
        source: &(dyn TableMemory + Sync),
        len: u64,
        attributes: Attributes,
    ) -> Result<Mapping<D>, NoncontiguousError> {
        let unit = self.translation().map_or(PAGE_BYTES, |domain| {
            domain.granule().bytes().max(PAGE_BYTES)
        });
        let len = len.max(1).next_multiple_of(unit);
        let pieces = self.take_pieces(source, len, unit)?;
        let buffer = CpuBuffer::from_segments(pieces, len).map_err(|pieces| {
            // They were taken until there were enough.
            free_all(source, pieces);
            NoncontiguousError::Map(MapError::Empty)
        })?;
        self.map::<D>(buffer, attributes).map_err(|failure| {
            give_back(source, failure.memory);
            NoncontiguousError::Map(failure.error)
        })
    }

    /// Ends such a mapping, and sends its memory home. May sleep.
    ///
    /// # Errors
    /// [`UnmapFailure`] with what was left.
    #[allow(clippy::result_large_err, reason = "it is what was left")]
    pub fn free_noncontiguous<D: DirectionType>(
        &self,
        source: &(dyn TableMemory + Sync),
        mapping: Mapping<D>,
    ) -> Result<(), UnmapFailure<D, CpuBuffer>> {
        give_back(source, self.unmap_and_sync(mapping)?);
        Ok(())
    }

    fn take_pieces(
        &self,
        source: &(dyn TableMemory + Sync),
        len: u64,
        unit: u64,
    ) -> Result<Vec<Segment>, NoncontiguousError> {
        let mut pieces = Vec::new();
        let (mut left, mut size) = (len, PIECE_MAX.max(unit));
        while left > 0 {
            while size > left.max(unit) {
                size /= 2;
            }
            let request = SegmentRequest {
                len: size,
                align: size,
                node: self.info.node,
                limit: DmaMask::ALL,
            };
            let error = match source.allocate_table(&request) {
                Ok(piece) if pieces.try_reserve(1).is_ok() => {
                    pieces.push(piece);
                    left -= size.min(left);
                    continue;
                }
                Ok(piece) => {
                    source.free_table(piece);
                    let pieces = pieces.len();
                    NoncontiguousError::NoList { pieces }
                }
                Err(_) if size > unit => {
                    size /= 2;
                    continue;
                }
                Err(error) => NoncontiguousError::NoMemory(error),
            };
            free_all(source, pieces);
            return Err(error);
        }
        Ok(pieces)
    }
}

fn give_back(source: &(dyn TableMemory + Sync), buffer: CpuBuffer) {
    // It was made of segments.
    if let Ok(pieces) = buffer.into_segments() {
        free_all(source, pieces);
    }
}

fn free_all(source: &(dyn TableMemory + Sync), pieces: Vec<Segment>) {
    pieces
        .into_iter()
        .for_each(|piece| source.free_table(piece));
}
