//! QEMU's device models, driven from this process: the referee.
//!
//! QEMU runs with its CPUs powered off. Its RAM is memory shared with this process, so the stack's
//! windows are the guest's memory; registers are reached over the qtest socket; DMA, translation,
//! faults and interrupts are what the models do. Nobody here wrote those models.
//!
//! A [`Machine`] is started from a [`Config`]. It gives RAM as owning segments, one for each NUMA
//! node, register regions as [`QemuMmio`], and the functions of its [`PciBus`]. The child ends when
//! the machine is dropped, or when this process dies; its log is part of every error.
//!
//! [`smmu`] puts the stack on a machine with an SMMUv3; [`devices`] has drivers of two devices that
//! use it as any driver would, with an IOMMU or without.
//!
//! What it cannot show, because the models do not: missing barriers, missing cache maintenance,
//! missing command syncs, wrong memory attributes.
//!
//! Layer L4, std.
#![deny(unsafe_op_in_unsafe_fn)]

mod child;
mod config;
pub mod devices;
mod error;
mod machine;
mod pci;
pub mod pieces;
mod qtest;
mod ram;
pub mod smmu;
mod version;

pub use config::{Board, Clock, Config};
pub use error::QemuError;
pub use machine::{Machine, QemuMmio};
pub use pci::{Bar, Function, FunctionId, PciBus};
pub use version::Version;
