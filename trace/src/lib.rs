//! Readers for what Linux records about DMA: traces as typed events, and events as operations.
//!
//! [`Trace`] reads tracefs' `trace` and `trace_pipe`, `trace-cmd report`, `trace.dat` (versions 6
//! and 7) and `perf script`, plain or in gzip or zstd, all recognised by content, as an iterator of
//! [`Event`]s. [`Trace::ops`] pairs them into [`Op`]s: which bounce attempt became which mapping and
//! which unmap ended it, in the order of the operations rather than of their records ([`pairing`]
//! has the rules). [`Fidelity`] counts what was lost, cut, malformed or unmatched on the way.
//! [`Sidecar`] is what the kernel itself said, in a file beside the trace.
//!
//! Damaged input gives an error with a position, never a panic; memory does not grow with a text's
//! length. Needs `std`, reads files, prints nothing.
//!
//! ```
//! use dmakit_trace::{OpKind, Options, Trace};
//!
//! let text = b"\
//! fio-7 [000] ..... 1.000001: swiotlb_bounced: dev_name: 0000:00:01.0 dma_mask=ffffffff dev_addr=1036b78c0 size=1522 NORMAL
//! fio-7 [000] ..... 1.000002: dma_map_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=7b926000 size=1522 phys_addr=1036b78c0 attrs=
//! <idle>-0 [001] ..s1. 1.000009: dma_unmap_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=7b926000 size=1522 attrs=
//! ";
//! let mut ops = Trace::from_bytes(text.to_vec(), Options::default())?.ops();
//! let (mut bounced_bytes, mut live) = (0, 0);
//! for op in &mut ops {
//!     match op?.kind {
//!         OpKind::Map(map) => {
//!             live += 1;
//!             bounced_bytes += map.attempt.map_or(0, |_| map.size);
//!         }
//!         OpKind::Unmap(_) => live -= 1,
//!         _ => {}
//!     }
//! }
//! assert_eq!((bounced_bytes, live), (1522, 0));
//! assert_eq!(ops.fidelity().unmaps_unmatched, 0);
//! # Ok::<(), dmakit_trace::TraceError>(())
//! ```
#![forbid(unsafe_code)]

mod body;
mod dat;
mod error;
mod event;
mod fidelity;
mod input;
pub mod log;
mod name;
mod options;
pub mod pairing;
mod reader;
mod record;
pub mod sidecar;
mod text;
mod two_step;

pub use body::{
    AllocCall, Allocation, Body, Bounced, Cma, FlushEvent, IommuEvent, MapCall, MapPage, MapSg,
    MapSgError, Marker, Probe, Shown, Sync, SyncFor, SyncSg, UnmapPage, UnmapSg, Value,
};
pub use error::{Malformed, Position, TraceError};
pub use event::{Context, Event, Level, Task};
pub use fidelity::Fidelity;
pub use input::Compression;
pub use name::Name;
pub use options::{Format, Options};
pub use pairing::{Mapping, Mappings, Op, OpKind, Ops, Pairer};
pub use reader::Trace;
pub use sidecar::{Sidecar, SidecarError};
pub use two_step::{Stage, Step};
