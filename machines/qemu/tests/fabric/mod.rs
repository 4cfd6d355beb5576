//! Two devices at a host bridge, one of which lends memory to the other.

use dmakit_dma::{
    Forwards, PeerImporter, PeerPaths, Place, PlaceId, ProviderId, Redirect, TakeBack, Topology,
};

/// Where the device is that lends.
pub const PROVIDER: PlaceId = PlaceId(1);
/// Where the device is that borrows.
const CLIENT: PlaceId = PlaceId(2);

/// QEMU's host bridge forwards what its devices send to one another.
const PLACES: [Place; 3] = [
    Place::HostBridge {
        forwards: Forwards::Below,
    },
    function(0),
    function(0),
];

const fn function(above: u32) -> Place {
    Place::Function {
        above: PlaceId(above),
        redirect: Redirect::Off,
    }
}

/// The ways of the device that borrows.
pub fn paths() -> PeerPaths<'static> {
    PeerPaths::new(Topology::new(&PLACES).unwrap(), CLIENT)
}

/// Ends its mappings by itself.
pub struct Client;

impl PeerImporter for Client {
    fn revoked(&self, _: ProviderId, _: &TakeBack<'_>) {}
}
