//! The DMA mapping API that drivers call.
#![no_std]
#![forbid(unsafe_code)]

mod block_pool;
mod borrowed;
mod bounce;
mod bus;
mod cache;
mod check;
mod coherent;
mod coherent_alloc;
mod debt;
mod device;
mod error;
mod info;
mod ledger;
mod mapping;
mod memory;
mod page_pool;
mod raw;
mod segments;
mod shared;
mod stats;
mod stream;
mod sync;

pub use block_pool::{
    BlockLayout, DmaPool, LayoutError, PoolBusy, PoolChunk, PoolError, PoolStats,
};
pub use bus::{BusMap, BusMapError, BusRange};
pub use check::{Checker, Event, Kind, Unchecked};
pub use coherent::{Coherent, CoherentSource, CoherentView, DeviceShared, Field, Shared};
pub use coherent_alloc::{CoherentError, NotHere};
pub use debt::{Debt, DomainId, Epoch, Proof, RedeemError, RedeemFailure, SyncError, UnmapFailure};
pub use device::{BounceWhen, Device, LeftBehind, Path};
pub use dmakit_swiotlb::{DeviceId as PoolId, MapError as BounceError};
pub use error::{BounceCause, MapError, MapFailure, Refused, TokenError};
pub use info::{Coherence, DeviceId, DeviceInfo, MaskKind, SegmentLimits, Trust};
pub use ledger::{Fault, FaultCounts, Finding, Ledger, Party};
pub use mapping::{CpuMapping, CpuPart, Mapping};
pub use memory::{DmaMemory, ScatterList};
pub use page_pool::{CoherentPool, CoherentPoolConfig, Maintained, PageChunk};
pub use raw::RawError;
pub use segments::DmaSegment;
pub use shared::{NoCommonMemory, Placement, SharedConstraints};
pub use stats::{DeviceStats, Failures};
