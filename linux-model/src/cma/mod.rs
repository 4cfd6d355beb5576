//! Contiguous areas of Linux: reservation, order of areas, search, and what a recording shows.
//!
//! A claim takes the lowest free run of an area that is long enough and aligned, moves out what
//! borrowed it, and looks at the next aligned place where that was busy. [`Area`] is the search,
//! [`Demand`] what a recording asked, [`agree`] holds the one against the other, with the kernel's
//! answers withheld.
//!
//! From 6.1 to 6.12 the search did not change; newer kernels cut an area into several ranges, which
//! is not modelled.

mod agreement;
mod area;
mod bitmap;
mod demand;
mod ingest;
mod log;
mod order;
mod params;
mod place;
mod referee;
mod replay;
mod reports;
#[cfg(test)]
mod tests;
mod unseen;

pub use agreement::{Agreement, Bitmaps, Disagreement, Reason};
pub use area::{ALIGN_ORDER_MAX, Area, Wish};
pub use demand::{
    Call, Client, Demand, Holding, Op, OpKind, Outcome, Owner, Phase, Recorded, Unpaired,
};
pub use ingest::Ingest;
pub use log::{FailureReport, Log, Reserved};
pub use order::{AreaKind, Requester};
pub use params::{DefaultArea, DefaultSize, Params, ParamsError, Planned};
pub use place::{Place, PlaceSource, node_of, places};
pub use referee::agree;
pub use replay::{
    AreaReport, ClientReport, Counts, Failed, LinuxAreas, Memory, Replay, Report, Sample, replay,
};

/// Pages of a pageblock, the least that areas are made of: 2 MiB of 4 KiB pages.
pub const BLOCK_PAGES: u64 = 512;
