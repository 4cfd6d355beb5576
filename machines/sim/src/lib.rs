//! A deterministic machine to run the DMA stack on.
#![forbid(unsafe_code)]

mod bus;
mod cache;
mod config;
mod cpu;
mod device;
mod device_config;
mod engine;
mod inject;
mod log;
mod machine;
mod memory;
mod rng;
mod sharing;
mod spans;
mod transfer;
mod violation;

pub use bus::{BUS_OFFSET, BusWindow, DmaFault};
pub use config::{MachineConfig, MachineError, PrivateAccess};
pub use cpu::MachineCpu;
pub use device::{DeviceId, SimDevice};
pub use device_config::{BeyondWires, DeviceConfig};
pub use inject::{FaultPlan, Fired, Step, for_each_failure};
pub use log::{Counts, DeviceAccess, Event};
pub use machine::Machine;
pub use memory::{Given, MachineMemory, MemoryKind};
pub use rng::Rng;
pub use transfer::{Access, Transfer};
pub use violation::{Violation, Violations};
