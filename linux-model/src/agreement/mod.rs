//! Compares the slots that the model chose with the kernel's.

mod learn;
mod referee;

pub use learn::{Beginning, driver_min_align_mask, learn_beginning, learn_min_align_masks};
pub use referee::{Agreement, Miss, agree};
