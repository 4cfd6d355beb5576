//! RAM and a platform for processes on a hosted system: simulators, device models, tests, tools.

mod machine;
mod ram;

pub use machine::{HostPlatform, ThreadCpu};
pub use ram::HostRam;
