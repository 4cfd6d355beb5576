//! Mapping through a domain, on an SMMU that does what the architecture allows when it hurts most.
#![allow(
    clippy::result_large_err,
    reason = "a refused token comes back in the error"
)]

mod failures;
mod firmware;
mod late;
mod lists;
mod lockstep;
mod moving;
mod mutants;
mod one_step;
mod paging;
mod peers;
mod pinned;
mod rig;
mod traced;
mod two_step;
mod unlink;
