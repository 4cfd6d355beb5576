//! The DMA memory stack behind the `Hal` of [`virtio_drivers`] 0.13.
//!
//! `Hal` has no `self`, so each function (a PCI function, say) gets a type of its own: implement
//! [`Function`] for it, and [`DeviceHal`] of that type is the driver's `Hal`. The driver is used as
//! it was published.
//!
//! * `share` cannot fail. It waits while a pool is full, for [`Function::PATIENCE`] at the most, and
//!   then gives [`Function::REFUGE`]: an address that leads nowhere, so that the device faults
//!   instead of using somebody's memory. What was given so is known again by its address. A device
//!   may go on after such a fault and report success, so a fault means: reset it, drop the driver,
//!   end what it had lent with [`UntypedDevice::unmap_all`], and begin again. Without an IOMMU nothing
//!   faults visibly: [`Function::refused`] is told, and means the same.
//! * `unshare` hands memory back at once, so a translated device's domain is strict or lazy, or its
//!   unmap waits for the sync. Invalidations that are collected and completed later would need a
//!   driver that gives its buffers up for as long.
//! * A device behind an IOMMU offers feature bit 33, `VIRTIO_F_ACCESS_PLATFORM`, and refuses a driver
//!   that does not take it; the published driver never does. [`AccessPlatform`] wraps its transport
//!   and takes the bit where it is offered.
//!
//! [`UntypedDevice::unmap_all`]: dmakit_untyped::UntypedDevice::unmap_all
#![no_std]
#![allow(unsafe_code)]

mod hal;
mod transport;

pub use hal::{DeviceHal, Function};
pub use transport::AccessPlatform;
