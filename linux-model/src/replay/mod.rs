//! Drives the model with a recorded demand.

mod driver;
mod memory;
mod report;

pub(crate) use driver::Driver;
pub use driver::{Bounce, Order, ReplayConfig, replay, replay_on};
pub use memory::BounceMemory;
pub use report::{DeviceReport, PhaseReport, Placed, ReplayReport, Sample};
