//! Drives the model with a recorded demand.

mod driver;
mod memory;
mod report;
mod size;

pub(crate) use driver::Driver;
pub use driver::{Bounce, Order, ReplayConfig, replay, replay_bounded, replay_on};
pub use memory::BounceMemory;
pub use report::{DeviceReport, PhaseReport, Placed, ReplayReport, Sample};
pub use size::{SizeAnswer, SizeError, SizePoint, effective_slots, minimal_slots};
