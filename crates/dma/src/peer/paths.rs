//! What one request has asked of the topology.

use super::{PeerPath, PeerRefusal, PlaceId, Topology};

/// Answers that are remembered: more providers than one request has, mostly.
const REMEMBERED: usize = 4;

/// The ways from one client, as one request needs them: the topology is asked once for each provider,
/// whatever the number of segments.
#[derive(Clone, Debug)]
pub struct PeerPaths<'m> {
    topology: Topology<'m>,
    client: PlaceId,
    known: [Option<(PlaceId, Result<PeerPath, PeerRefusal>)>; REMEMBERED],
    asked: u64,
}

impl<'m> PeerPaths<'m> {
    /// None asked for yet.
    pub fn new(topology: Topology<'m>, client: PlaceId) -> Self {
        Self {
            topology,
            client,
            known: [None; REMEMBERED],
            asked: 0,
        }
    }

    /// The way to `provider`. O(1), and O(depth) where it was not asked for, or four others were
    /// since.
    ///
    /// # Errors
    /// As [`Topology::path`].
    #[inline]
    pub fn to(&mut self, provider: PlaceId) -> Result<PeerPath, PeerRefusal> {
        let known = self.known.iter().flatten();
        if let Some((_, path)) = known.clone().find(|(place, _)| *place == provider) {
            return *path;
        }
        let path = self.topology.path(provider, self.client);
        self.known[self.asked as usize % REMEMBERED] = Some((provider, path));
        self.asked += 1;
        path
    }

    /// How often the topology was asked.
    pub fn asked(&self) -> u64 {
        self.asked
    }
}
