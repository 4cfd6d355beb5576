//! A buffer in a device's hands, lent in one step or in two.

use std::fmt;

use dmakit_addr::{Attributes, DirectionType};
use dmakit_dma::{
    Batch, BatchFailure, Debt, DmaMemory, DmaSegment, LinkError, MapError, Mapping, Sealed,
    SyncError, Translate,
};
use dmakit_platform::Platform;

use super::DmaDevice;
use crate::pieces::Pieces;

/// How a buffer is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steps {
    /// All of it by one call, which takes the list.
    One,
    /// Addresses are reserved, and each piece is linked to them.
    Two,
}

/// A buffer that the device may use. Dropping it leaks the buffer.
pub enum Lent<D: DirectionType> {
    /// In one step.
    Mapping(Mapping<D, Pieces>),
    /// In two: what the driver keeps beside its own list is 16 bytes, and where the device has no
    /// IOMMU a segment for each piece.
    Request {
        /// The addresses.
        request: Sealed<D>,
        /// The buffer, which is the driver's to keep where it is.
        pieces: Pieces,
        /// Where the device finds each piece, where it does not see them as one.
        segments: Vec<DmaSegment>,
    },
}

impl<D: DirectionType> Lent<D> {
    /// Lends a buffer.
    ///
    /// # Errors
    /// Why not, and the buffer; without it where hardware did not say that it has forgotten what was
    /// linked already: that memory is lost.
    pub fn new<P: Platform, T: Translate>(
        device: &DmaDevice<'_, P, T>,
        steps: Steps,
        pieces: Pieces,
    ) -> Result<Self, (LinkError, Option<Pieces>)> {
        match steps {
            Steps::One => match device.map_request(pieces, Attributes::NONE) {
                Ok(mapping) => Ok(Self::Mapping(mapping)),
                Err(failure) => Err((failure.error.into(), Some(failure.memory))),
            },
            Steps::Two => Self::in_two_steps(device, pieces),
        }
    }

    fn in_two_steps<P: Platform, T: Translate>(
        device: &DmaDevice<'_, P, T>,
        pieces: Pieces,
    ) -> Result<Self, (LinkError, Option<Pieces>)> {
        let len = pieces.runs().map(|run| run.len()).sum();
        let Some(first) = pieces.runs().next() else {
            return Err((MapError::Empty.into(), Some(pieces)));
        };
        let reserved = device.reserve::<D>(first.start(), len, 1, Attributes::NONE);
        let mut request = match reserved {
            Ok(request) => request,
            Err(error) => return Err((error, Some(pieces))),
        };
        let mut segments = Vec::new();
        let mut linked = Ok(());
        for buffer in pieces.buffers() {
            // Each is a segment of its own, and so one run.
            for run in buffer.runs() {
                linked = device
                    .link(&mut request, run, buffer)
                    .map(|segment| segments.push(segment));
            }
            if linked.is_err() {
                break;
            }
        }
        let (error, request) = match linked {
            Ok(()) => match device.seal(request) {
                Ok(request) => {
                    if request.segment().is_some() {
                        segments.clear();
                    }
                    return Ok(Self::Request {
                        request,
                        pieces,
                        segments,
                    });
                }
                Err(unmoved) => (unmoved.error, unmoved.state),
            },
            Err(error) => (error, request),
        };
        let cancelled = device.cancel(request, pieces, segments.iter().copied());
        let pieces = cancelled
            .ok()
            .and_then(|debt| device.redeem(debt, &device.sync().ok()?).ok());
        Err((error, pieces))
    }

    /// What to tell the device, in order.
    pub fn segments<P: Platform, T: Translate>(
        &self,
        device: &DmaDevice<'_, P, T>,
    ) -> Vec<DmaSegment> {
        match self {
            Self::Mapping(mapping) => device.segments(mapping).collect(),
            Self::Request {
                request, segments, ..
            } => match request.segment() {
                Some(whole) => vec![whole],
                None => segments.clone(),
            },
        }
    }

    /// Whether the device works on a copy, or on copies of edges.
    pub fn is_bounced(&self) -> bool {
        match self {
            Self::Mapping(mapping) => mapping.is_bounced(),
            Self::Request { request, .. } => request.is_bounced(),
        }
    }

    /// Ends it: the device is done. Many of these are worth one sync.
    ///
    /// # Errors
    /// The same, where it is another device's.
    pub fn take<P: Platform, T: Translate>(
        self,
        device: &DmaDevice<'_, P, T>,
    ) -> Result<Debt<Pieces>, Self> {
        match self {
            Self::Mapping(mapping) => device
                .unmap(mapping)
                .map_err(|refused| Self::Mapping(refused.token)),
            Self::Request {
                request,
                pieces,
                segments,
            } => {
                let ended = device.destroy(request, pieces, segments.iter().copied());
                ended.map_err(|unmoved| {
                    let (request, pieces) = unmoved.state;
                    Self::Request {
                        request,
                        pieces,
                        segments,
                    }
                })
            }
        }
    }

    /// Ends it; the buffer waits in `batch` and goes to `give` after the sync of all that is in there.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn take_batched<P: Platform, T: Translate>(
        self,
        device: &DmaDevice<'_, P, T>,
        batch: &mut Batch<Pieces>,
        give: impl FnMut(Pieces),
    ) -> Result<(), NotTaken<D>> {
        match self {
            Self::Mapping(mapping) => {
                device
                    .unmap_batched(batch, mapping, give)
                    .map_err(|failure| match failure {
                        BatchFailure::Refused(refused) => {
                            NotTaken::Kept(Self::Mapping(refused.token))
                        }
                        BatchFailure::Full { mapping, .. } => {
                            NotTaken::Kept(Self::Mapping(mapping))
                        }
                        BatchFailure::Waits(error) => NotTaken::Waits(error),
                        BatchFailure::Lost | BatchFailure::Alone(_) => NotTaken::Lost,
                    })
            }
            Self::Request {
                request,
                pieces,
                segments,
            } => {
                let told = segments.iter().copied();
                match device.destroy_batched(batch, request, pieces, told, give) {
                    Ok(waits) => waits.map_err(NotTaken::Waits),
                    Err(unmoved) => {
                        let (request, pieces) = unmoved.state;
                        Err(NotTaken::Kept(Self::Request {
                            request,
                            pieces,
                            segments,
                        }))
                    }
                }
            }
        }
    }
}

/// A buffer that did not go into a batch as it should.
pub enum NotTaken<D: DirectionType> {
    /// Nothing was done: it is another device's, or the batch is full and cannot be closed.
    Kept(Lent<D>),
    /// It waits with the others: the batch was to be closed and could not.
    Waits(SyncError),
    /// Nobody gets it: hardware would not forget it.
    Lost,
}

impl<D: DirectionType> fmt::Display for NotTaken<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(_) => f.write_str("nothing was unmapped"),
            Self::Waits(error) => error.fmt(f),
            Self::Lost => f.write_str("the buffer is lost"),
        }
    }
}

impl<D: DirectionType> fmt::Debug for NotTaken<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotTaken({self})")
    }
}

impl<D: DirectionType> std::error::Error for NotTaken<D> {}
