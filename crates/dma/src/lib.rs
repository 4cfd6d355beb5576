//! The DMA mapping API that drivers call.
//!
//! A [`Device`] is what a driver holds: it lends buffers to the device and takes them back, and
//! gives memory that both use at once. Whether the device reaches memory itself or works on a
//! bounced copy is its [`Path`], and no driver's concern. What a token proves:
//!
//! * [`Mapping`]: the device owns the memory; the CPU has no way to its bytes.
//! * [`CpuMapping`], [`CpuPart`]: the CPU owns it, and reads or writes only where the direction
//!   gives that a meaning.
//! * [`Debt`]: it is unmapped, and no [`Proof`] has shown yet that the device cannot reach it.
//! * [`Coherent`]: both use it; values are copied out once, and never referred to.
//!
//! Tokens can be sent, never cloned. Forgetting one leaks its memory, which the device's counters
//! and a [`Ledger`] show. Nothing here programs devices or runs by itself. Layer L3; no
//! allocation but by who makes a device, a ledger or a batch.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod batch;
mod block_layout;
mod block_pool;
mod block_request;
mod borrowed;
mod bounce;
mod bus;
mod cache;
mod check;
mod chunk;
mod coherent;
mod coherent_alloc;
mod debt;
mod device;
mod error;
mod finding;
mod fragments;
mod info;
mod ledger;
mod map;
mod mapping;
mod memory;
mod noncontiguous;
mod page_chunk;
mod page_pool;
mod paging;
mod part;
mod peer;
#[cfg(feature = "phys")]
mod pinned;
mod pool_error;
mod raw;
mod raw_error;
mod scatter;
mod segments;
mod shared;
mod stats;
mod sync;
mod tables;
mod tracer;
mod translated;
mod two_step;
mod unmap;

pub use batch::BatchFailure;
pub use block_layout::{BlockLayout, LayoutError};
pub use block_pool::{DmaPool, PoolChunk};
pub use bus::{BusMap, BusMapError, BusRange};
pub use check::{Checker, Event, Kind, Unchecked};
pub use coherent::{Coherent, CoherentSource, CoherentView, DeviceShared, Field, Shared};
pub use coherent_alloc::{CoherentError, NotHere};
pub use debt::{Debt, RedeemError, RedeemFailure, UnmapFailure};
pub use device::{BounceWhen, Device, LeftBehind, Path};
pub use dmakit_iommu::{
    Batch, BatchConfig, DomainId, Epoch, NoTranslation, Proof, StrictDomain, Switched, SyncError,
    Translate, WithholdError,
};
pub use dmakit_swiotlb::{DeviceId as PoolId, MapError as BounceError};
pub use error::{BounceCause, DomainError, MapError, MapFailure, Refused, TokenError};
pub use finding::{Fault, FaultCounts, Finding, Party};
pub use info::{Coherence, DeviceId, DeviceInfo, MaskKind, SegmentLimits, Trust};
pub use ledger::Ledger;
pub use mapping::{CpuMapping, CpuPart, Mapping};
pub use memory::{DmaMemory, ScatterList};
pub use noncontiguous::NoncontiguousError;
pub use page_chunk::PageChunk;
pub use page_pool::{CoherentPool, CoherentPoolConfig, Maintained};
pub use paging::{Expected, PageSlot, PagedWindow, PagingError, Withdrawn};
pub use peer::{
    Forwards, Held, Holder, Import, PeerError, PeerFailure, PeerImporter, PeerList, PeerMapping,
    PeerMemory, PeerPath, PeerPaths, PeerProvider, PeerRefusal, PeerRoute, PeerWindow, Place,
    PlaceId, ProviderId, Redirect, TakeBack, Topology, TopologyError,
};
#[cfg(feature = "phys")]
pub use pinned::{NotPinned, PinnedMemory};
pub use pool_error::{PoolBusy, PoolError, PoolStats};
pub use raw_error::RawError;
pub use segments::DmaSegment;
pub use shared::{NoCommonMemory, Placement, SharedConstraints};
pub use stats::{DeviceStats, Failures};
pub use tables::DeviceTables;
pub use tracer::Tracer;
pub use two_step::{LinkError, Linker, Moving, PageWindow, Request, Sealed, StaysPut, Unmoved};
