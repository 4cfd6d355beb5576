//! RAM and a platform for processes on a hosted system: simulators, device models, tests, tools.

mod context;
#[cfg(loom)]
mod loom_lock;
mod machine;
mod numbers;
mod ram;
mod store;

pub use context::{
    AtomicScope, CheckedIrqLock, CheckedSleepLock, ContextViolation, ThreadContext, ViolationSink,
};
#[cfg(loom)]
pub use loom_lock::LoomLock;
pub use machine::{HostPlatform, ThreadCpu};
pub use ram::HostRam;
pub use store::SegmentStore;
