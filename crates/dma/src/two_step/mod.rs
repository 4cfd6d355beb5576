//! Mapping in steps: reserve addresses, link memory to them, make it known, unlink, give back.
//!
//! | call | [`Request`]: one stretch, filled from its start | [`PageWindow`]: pages in any order |
//! |---|---|---|
//! | addresses | [`reserve`](crate::Device::reserve) | [`open_window`](crate::Device::open_window) |
//! | memory | [`link`](crate::Device::link), [`linker`](crate::Device::linker) | [`link_page`](crate::Device::link_page) |
//! | the device may use it | [`seal`](crate::Device::seal) makes a [`Sealed`] | [`announce_pages`](crate::Device::announce_pages) |
//! | it may no longer | [`unlink`](crate::Device::unlink), [`unlink_tail`](crate::Device::unlink_tail) | [`unlink_pages`](crate::Device::unlink_pages) |
//! | all goes back | [`destroy`](crate::Device::destroy), [`cancel`](crate::Device::cancel) | [`close_window`](crate::Device::close_window) |
//!
//! What a caller keeps for each is 16 bytes, whatever the number of segments, and no reference: calls
//! take the device, and refuse a state of another domain. No list of segments is needed, and nothing
//! is allocated. A state that is forgotten leaks its addresses, which the device's counters and a
//! [`Ledger`](crate::Ledger) show.
//!
//! Without an IOMMU the same calls work: there are no addresses of one's own then, each link says
//! where the device finds that memory or its copy, and [`Sealed::segment`] is `None`.
//!
//! A large region is a request too. Aligned to its power of two, in memory that is, it has few and
//! large leaves, and the device is told of one address and one length:
//!
//! ```
//! use dmakit_addr::{Attributes, Bidirectional, PhysRange};
//! use dmakit_dma::{Device, LinkError, Sealed, Translate, Unchecked};
//! use dmakit_platform::{CopySource, Platform};
//! use dmakit_swiotlb::NoGrowth;
//!
//! /// Registers `region`, whose bytes are `source`: 100 MB as 16 bytes.
//! fn register<P: Platform, T: Translate, S: CopySource>(
//!     device: &Device<'_, P, NoGrowth, Unchecked, T>,
//!     region: PhysRange,
//!     source: &S,
//! ) -> Result<Sealed<Bidirectional>, LinkError> {
//!     let align = region.len().next_power_of_two();
//!     let mut request = device.reserve(region.start(), region.len(), align, Attributes::NONE)?;
//!     let linked = device.link(&mut request, region, source).map(drop);
//!     // A real driver cancels the request where one of these fails.
//!     linked.and_then(|()| device.seal(request).map_err(|unmoved| unmoved.error))
//! }
//! ```
//!
//! On top stand [`PagedWindow`](crate::PagedWindow), for devices that fault, and
//! [`link_memory`](crate::Device::link_memory), for whatever a mapping can own.
//!
//! The memory itself is the caller's, who keeps it where it is until its [`Debt`](crate::Debt) is
//! paid: as for [raw](crate::Device::map_raw) mappings, no type proves that here.
//! [`map_request`](crate::Device::map_request) stands on top, owns the memory, and does.

mod destroy;
mod error;
mod link;
mod link_memory;
mod link_peer;
mod moving;
mod request;
mod state;
mod take_back;
mod unlink;
mod window;

pub use error::{LinkError, Unmoved};
pub use link::Linker;
pub use moving::{Moving, StaysPut};
pub use request::{Request, Sealed};
pub(crate) use state::Owner;
pub use window::PageWindow;
