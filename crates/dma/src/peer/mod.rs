//! Peer to peer: a device that reaches another device's memory.
//!
//! | who | does what |
//! |---|---|
//! | the embedder | describes the buses once: [`Topology`], facts of [`Place`]s |
//! | the driver that has memory | gives a [`PeerWindow`] to a [`PeerProvider`], and takes it back by [`revoke`](PeerProvider::revoke) and [`release`](PeerProvider::release) |
//! | the driver that wants it | [imports](PeerProvider::import) it, and asks for [`PeerMemory`] of it, a part at a time |
//! | the wanting device | maps that: [`map_peer`](crate::Device::map_peer), or [`link_peer`](crate::Device::link_peer) in two steps |
//!
//! Which way the bytes go is decided by the topology for each provider and client, and refused where
//! that is not known: firmware and switches tell untruths. [`PeerPaths`] remembers it for a request.
//! Peer memory never bounces, and no cache is maintained for it. It has no page descriptors: windows
//! are ranges of bus addresses, whatever lies behind them.
//!
//! Taking a window back goes in this order: new parts are refused, importers are told, each unmaps
//! and syncs, which is when its [`PeerMemory`] comes home; only then is the window its owner's again.
//! A device behind an IOMMU that goes on writing then faults. One that reaches the window by its bus
//! address, or that no IOMMU stands before, cannot be stopped by anybody but its driver: such a
//! mapping ends when the driver says that its device is done.

mod error;
mod importers;
mod map;
mod memory;
mod paths;
mod provider;
mod topology;

pub use error::{Held, Holder, PeerError, PeerFailure, PeerRefusal};
pub use importers::{Import, PeerImporter, TakeBack};
pub use map::PeerMapping;
pub use memory::{PeerList, PeerMemory};
pub use paths::PeerPaths;
pub use provider::{PeerProvider, PeerWindow, ProviderId};
pub use topology::{
    Forwards, PeerPath, PeerRoute, Place, PlaceId, Redirect, Topology, TopologyError,
};
