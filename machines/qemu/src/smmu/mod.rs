//! The stack on a machine with an SMMUv3: the driver, and for each device a domain of its own.

mod attachment;
mod error;
mod release;
mod stack;
mod walk;

pub use attachment::{AttachConfig, Attachment, Counters, Mode, QemuDevice, SmmuDomain};
pub use error::StackError;
pub use release::Part;
pub use stack::{SmmuDriver, SmmuStack};
pub use walk::WalkStep;
