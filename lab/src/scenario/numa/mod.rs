//! Scenarios on simulated machines with several nodes.

mod board;
pub mod carving;
mod params;
pub mod per_node;
mod system;
