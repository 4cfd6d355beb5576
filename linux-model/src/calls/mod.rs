//! What drivers asked of the DMA mapping API, call by call.
//!
//! [`CallsIngest`] reads a trace's `dma` events, paired by [`dmakit_trace::Pairer`], into [`Calls`]:
//! buffers and the order in which they were mapped and unmapped. Nothing in it says what the kernel
//! answered; that is kept apart in [`RecordedTranslation`], for comparison only.
//!
//! Kernels before 6.12 have no `dma` events. Behind an IOMMU they still show the physical runs that
//! entered its tables and the ranges that left them: there a call is what one unmap ends
//! ([`CallSource::Translations`]).

mod ingest;
mod list;
mod load;
mod translations;

pub use ingest::CallsIngest;
pub use load::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, DeviceCalls, Flow, Piece, RecordedOp,
    RecordedOpKind, RecordedTranslation,
};
