//! The DMA memory stack behind the `DmaOp` of [`dma_api`] 0.10.
//!
//! [`DeviceOp`] is one device's way to memory, so a driver's `DeviceDma` is made of it and of
//! [`DeviceOp::info`], which says the same of the device as the stack knows.
//!
//! * Both kinds of allocation are coherent memory: what a device that goes past the CPU's caches
//!   gets has to be memory without caches, as [`CoherentSource::Uncached`] promises.
//! * `unmap_streaming` is not told the direction, which is kept from `map_streaming` on. It hands
//!   memory back at once, so a translated device's domain is strict or lazy, or the unmap waits for
//!   the sync. Invalidations completed later would need drivers that give their buffers up for as
//!   long.
//! * A failed mapping is an error that drivers see: no room is [`DmaError::NoMemory`], out of reach is
//!   [`DmaError::DmaMaskNotMatch`].
//!
//! [`CoherentSource::Uncached`]: dmakit_dma::CoherentSource::Uncached
//! [`DmaError::NoMemory`]: dma_api::DmaError::NoMemory
//! [`DmaError::DmaMaskNotMatch`]: dma_api::DmaError::DmaMaskNotMatch
#![no_std]
#![allow(unsafe_code)]

mod op;

pub use op::{DeviceOp, ProgramMemory};
