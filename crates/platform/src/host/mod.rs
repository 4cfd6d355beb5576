//! RAM and a platform for processes on a hosted system: simulators, device models, tests, tools.

mod context;
mod machine;
mod numbers;
mod ram;
mod store;

pub use context::{
    AtomicScope, CheckedIrqLock, CheckedSleepLock, ContextViolation, ThreadContext, ViolationSink,
};
pub use machine::{HostPlatform, ThreadCpu};
pub use ram::HostRam;
pub use store::SegmentStore;
