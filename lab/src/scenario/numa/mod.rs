//! Scenarios on simulated machines with several nodes.

mod board;
pub mod carving;
mod params;
