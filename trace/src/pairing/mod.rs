//! From events to operations: which bounce attempt became which mapping, and which unmap ended it.
//!
//! # What the events do not say
//!
//! * `swiotlb_bounced` is recorded *before* the slot search, so failures and retries are in it too.
//!   It names neither the slot nor the direction, and nothing records a slot's release.
//! * `dma_map_page` and `dma_map_sg` are recorded *after* the mapping; a page that failed shows an
//!   all-ones address, a scatterlist that failed shows nothing at all.
//! * `dma_unmap_page` is recorded *after* the unmap, `dma_unmap_sg` *before* it. So the address of
//!   an ended mapping can be in another CPU's map event before its own unmap event.
//! * `dma_unmap_sg` has physical addresses only.
//!
//! # Rules
//!
//! 1. A *stream* is a task (by thread id; an idle task by its CPU) or one interrupt level of one
//!    CPU. Mapping is sequential within a stream. Attempts are joined to map events of their stream,
//!    never across.
//! 2. A page's map event takes the latest waiting attempt of its stream with the same device,
//!    address and size (with a bus offset: device and size). A scatterlist's takes, from the end
//!    backwards, the attempts of its entries in order; entries without one were not bounced.
//! 3. Attempts of the stream older than those taken came to nothing: they failed silently, or were
//!    undone when a later entry of their scatterlist failed. They are parted into tries:
//!    beginnings of lists that succeeded before or soon after (a failed list is tried again), else
//!    up to where an address repeats. Each try becomes one [`Fail`] after its last attempt. In a trace without any
//!    map event (Linux 6.1) they are [`Fate::Unknown`] instead.
//! 4. An unmap ends the oldest mapping with the same device, DMA address, size and direction: a
//!    multiset, whatever the CPU or task. A scatterlist's ends the oldest with the same device and
//!    list (its first 128 entries, which is where a map event stops). An unmap of nothing is kept
//!    for [`PairOptions::skew_ns`], in case two CPUs' records are in the wrong order; then it is
//!    [`OpKind::UnmapUnseen`].
//! 5. Bounce slots, and IOVA granules of one device, have one user at a time. A map event whose
//!    address is still held proves that the holder's unmap came earlier than this mapping's attempt:
//!    the unmap is moved there when its event comes ([`UnmapEvidence::Moved`]), or is supplied when
//!    none comes within the window ([`UnmapEvidence::Reuse`]). Direct mappings may overlap.
//! 6. An attempt stands at its event, a map at its event, a page's unmap at its event, a
//!    scatterlist's unmap right after its event. [`Op::span`] says how far the operation may really
//!    lie from there, and [`Op::order`] whether another stream's operation lies within that.
//! 7. Frees and allocations of coherent memory are not paired; they do not bounce.
//!
//! Memory: operations wait until nothing can move before them, at most
//! [`PairOptions::window_events`] events, and live mappings are remembered.

mod attempts;
mod buffer;
mod clock;
mod live;
mod mapping;
mod maps;
mod op;
mod ops;
mod pairer;
#[cfg(test)]
mod tests;
mod unmaps;

pub use mapping::{Mapping, MappingEnd, Mappings};
pub use op::{
    Attempt, AttemptId, Fail, Failure, Fate, Map, MappingId, Op, OpKind, Order, Part, SgId, Span,
    Unmap, UnmapEvidence, UnmapUnseen,
};
pub use ops::Ops;
pub use pairer::{PairOptions, Pairer};
