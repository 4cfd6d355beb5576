//! The words of DMA memory: address spaces, ranges, granules, masks, directions, attributes.
//!
//! A machine has three address spaces that must never mix: what the CPU puts on its bus
//! ([`PhysAddr`]), what stands in a device's descriptor ([`DmaAddr`]) and what an IOMMU domain
//! translates ([`Iova`]). Each is a type of its own; going from one to another is always a call
//! that names the machine, the device or the domain that makes the step legal. There is no `+` on
//! addresses: arithmetic is checked or says in its name what it does instead.
//!
//! Layer L0. No dependencies, no allocation, no state.
#![no_std]
#![forbid(unsafe_code)]

mod attributes;
mod direction;
mod granule;
mod mask;
mod node;
mod range;
mod space;

pub use attributes::{AttributeNames, Attributes};
pub use direction::{
    Bidirectional, Direction, DirectionType, FromDevice, ReadableByCpu, ToDevice, WritableByCpu,
};
pub use granule::Granule;
pub use mask::{AlignMask, BoundaryMask, DmaMask};
pub use node::NodeId;
pub use range::{DmaRange, IovaRange, PfnRange, PhysRange, Range, RangeError};
pub use space::{Address, DmaAddr, Iova, PAGE_BYTES, PAGE_SHIFT, Pfn, PhysAddr};
