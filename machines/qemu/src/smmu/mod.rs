//! The stack on a machine with an SMMUv3: the driver, and for each device a domain of its own.

mod error;
mod port;
mod scattered;
mod stack;
mod walk;

pub use error::StackError;
pub use port::{Counters, Mode, Port, PortConfig, PortDevice, PortDomain};
pub use scattered::Scattered;
pub use stack::{SmmuDriver, SmmuStack};
pub use walk::WalkStep;
