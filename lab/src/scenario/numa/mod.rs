//! Scenarios on simulated machines with several nodes.

mod board;
pub mod carving;
mod claims;
#[cfg(test)]
mod controls;
mod judge;
mod lend;
pub mod per_node;
pub mod pins;
pub mod pressure;
mod shared;
mod system;
mod windows;
