//! Contiguous areas.
//!
//! An [`Area`] is a reserved run of frames (or several) from which large contiguous pieces are
//! claimed and to which they return. This crate keeps the books: which frames are claimed, and
//! where the next claim fits, found in a bounded number of steps whatever the size and the fill of
//! the area, and known just as fast to fit nowhere. [`ClaimMap`] is that search as a plain value.
//!
//! Alignment counts from frame 0, not from the base of the area, so that what is aligned here is
//! aligned for hardware.
//!
//! Layer L1. No memory is touched and nothing sleeps; a claim takes the lock of one area.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod areas;
mod bit_tree;
mod block;
mod claim_map;
mod coherent;
mod early;
mod filing;
mod param;
mod plan;
mod pool;
mod reserve;
mod run_tree;
mod sizing;
mod statistics;

pub use area::{Area, AreaError, AreaUse, ReleaseError};
pub use areas::{
    ActivateError, ActivateReason, AreaClaim, AreaClaimError, AreaId, AreaReleaseError, Areas,
    NoClaim,
};
pub use claim_map::{ClaimMap, NoWindow, NotClaimed, Scans};
pub use coherent::{CoherentMemory, DeviceArea, Waiting};
pub use early::{EarlyAreas, EarlyError, EarlyReason, InactiveAreas};
pub use param::{
    CmaParam, CmaPernumaParam, HugetlbCmaParam, NumaCmaParam, ParamError, ParamErrorKind, Parameter,
};
pub use plan::{AreaParams, AreaRequest, GiganticTurn, PerNode, Place, Purpose};
pub use pool::{AreaPool, AreaPoolConfig, PoolUpkeep};
pub use reserve::{Outcome, Reservation, ReserveReason, Reserved, reserve};
pub use sizing::{DefaultSize, SizeChoice};
pub use statistics::{AreaStatistics, CoherentStatistics, Skip, Step, StepStatistics};
