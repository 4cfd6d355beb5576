//! How Linux serves DMA, modelled and checked against real kernels: bounce memory, and addresses
//! behind an IOMMU.
//!
//! The software IO TLB of Linux 6.1 and 6.12, from its boot parameters down to the slot that a
//! mapping gets, re-derived from its documentation and observed behaviour. It exists to advise
//! people who run Linux and to be compared with; nothing else in this project is built on it.
//!
//! It works on a [`Demand`]: what a recording shows was asked of the pool, without the addresses
//! that the kernel chose. Those are kept apart in [`RecordedAddresses`], for comparison only.
//!
//! Behind an IOMMU it works on [`Calls`]: what drivers asked of the mapping API. [`Domain`] takes
//! addresses, fills tables and invalidates as Linux does, and [`agree_on_translation`] compares that
//! with the recorded `iommu` events.
#![forbid(unsafe_code)]

mod agreement;
mod boot;
mod calls;
pub mod cma;
mod demand;
mod engine;
mod iommu;
mod recorded;
mod replay;
mod swiotlb;

pub use agreement::{
    Agreement, Beginning, Miss, agree, driver_min_align_mask, learn_beginning,
    learn_min_align_masks,
};
pub use boot::{
    Architecture, CommandLine, CommandLineError, DMA_PARAMETERS, ForceWord, Machine, Parameter,
    Reason, Setup, SwiotlbParams, SwiotlbParamsError, Unbounced, nearest_parameter, setup,
};
pub use calls::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, CallsIngest, DeviceCalls, Flow, Piece,
    RecordedOp, RecordedOpKind, RecordedTranslation,
};
pub use demand::{
    Context, Demand, Device, Event, EventKind, Ingest, Known, Mapping, Op, OpKind, Phase, Recorded,
    RecordedAddresses, SgEntry, Switch, TraceIngest, Unpaired,
};
pub use engine::Engine;
pub use iommu::{
    AddressAgreement, Difference, DifferenceReason, Domain, DomainConfig, Invalidation, Layout,
    NoAddresses, SegmentLimits, Timer, Translated, TranslationAgreement, TranslationCosts,
    TranslationSetup, agree_on_translation, lay_out,
};
pub use recorded::RecordedMachine;
pub use replay::{
    Bounce, BounceMemory, DeviceReport, Order, PhaseReport, Placed, ReplayConfig, ReplayReport,
    Sample, SizeAnswer, SizeError, SizePoint, effective_slots, minimal_slots, replay,
    replay_bounded, replay_on,
};
pub use swiotlb::{
    Counters, DEFAULT_SLOTS, DeviceLimits, HALVING_STOPS_AT_SLOTS, MAPPING_BYTES_MAX, MapFailure,
    PoolId, Request, SEGMENT_SLOTS, SLOT_BYTES, Slots, Swiotlb, SwiotlbConfig,
};
