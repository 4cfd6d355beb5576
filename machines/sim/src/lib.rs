//! A deterministic machine to run the DMA stack on: RAM, caches, CPUs, devices and failures.
//!
//! Physical addresses lie far from host pointers and from bus addresses; caches move lines when it
//! hurts; transfers land in pieces, late and out of order; any named step can fail. What chance
//! decides follows from one seed. Broken rules ([`Violation`]) are collected for
//! [`Machine::check`]. [`Machine`] says what cannot be shown here.
//!
//! ```
//! use dmakit_addr::{Direction, DmaAddr, DmaMask};
//! use dmakit_platform::{Platform, SegmentRequest};
//! use dmakit_sim::{BUS_OFFSET, DeviceConfig, MachineConfig, MachineMemory};
//!
//! let machine = MachineConfig::new(42).non_coherent().build()?;
//! let memory = MachineMemory::new(&machine);
//! let device = machine.add_device(DeviceConfig::new());
//! let request = SegmentRequest { len: 4096, align: 4096, node: None, limit: DmaMask::ALL };
//! let buffer = memory.allocate(&request)?;
//! buffer.window().fill(0x5a);
//! // Without this line the device reads what an earlier owner left: try it.
//! machine.clean(buffer.range());
//! device.grant(buffer.range(), Direction::ToDevice);
//! let mut sent = [0; 4096];
//! device.read(DmaAddr::new(buffer.range().start().raw() + BUS_OFFSET), &mut sent)?;
//! assert_eq!(sent, [0x5a; 4096]);
//! device.revoke(buffer.range(), Direction::ToDevice);
//! memory.free(buffer);
//! machine.check()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bus;
mod cache;
mod config;
mod contents;
mod cpu;
mod device;
mod device_config;
mod engine;
mod inject;
mod its;
mod log;
mod machine;
mod memory;
mod numa;
mod program;
mod rng;
mod sharing;
mod smmu;
mod spans;
mod transfer;
mod violation;

pub use bus::{BUS_OFFSET, BusWindow, DmaFault};
pub use config::{MachineConfig, MachineError, PrivateAccess};
pub use cpu::MachineCpu;
pub use device::{DeviceId, SimDevice};
pub use device_config::{BeyondWires, DeviceConfig};
pub use inject::{FaultPlan, Fired, Step, for_each_failure};
pub use its::{ItsConfig, OnCommandError, PageSizes, Shareable, SimIts, SimRedistributor};
pub use log::{Counts, DeviceAccess, Event};
pub use machine::Machine;
pub use memory::{Given, MachineMemory, MemoryKind};
pub use numa::{Cost, Figure, LatencyTable, Source};
pub use program::{
    Damage, GateCounts, LineLoan, Mover, NoDevices, PageId, Pressure, PressureConfig, Programs,
    Uses,
};
pub use rng::Rng;
pub use smmu::{SimSmmu, SmmuConfig, SmmuId, SyncWaits};
pub use transfer::{Access, Transfer};
pub use violation::{Violation, Violations};
