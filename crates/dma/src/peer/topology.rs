//! What stands between two devices.

use core::fmt;

use super::PeerRefusal;

/// A place, by its number in the list that a [`Topology`] is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PlaceId(pub u32);

impl fmt::Display for PlaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "place {}", self.0)
    }
}

/// Whether a host bridge passes requests from one device on to another. Nothing that can be asked
/// says so: it is known of some, and of no other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Forwards {
    /// Not known, or known not to.
    #[default]
    Unknown,
    /// Between devices that are both below it.
    Below,
    /// Between devices below it, and with any other host bridge of which the same is known.
    Everywhere,
}

/// Whether a port or function sends requests between peers up to the host bridge (ACS: request
/// redirect, completion redirect or egress control).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Redirect {
    /// Not known; taken as if it does.
    #[default]
    Unknown,
    /// It does.
    On,
    /// It does not.
    Off,
}

/// One place of a topology. What a place is below stands before it in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Where a bus meets the processors and the IOMMU.
    HostBridge {
        /// Whether it passes requests on.
        forwards: Forwards,
    },
    /// A bridge: a root port, or one of a switch's ports.
    Port {
        /// What it is below: a host bridge or another port.
        above: PlaceId,
        /// Whether it sends peer requests up.
        redirect: Redirect,
    },
    /// A function of a device: what reads and writes, and has windows.
    Function {
        /// What it is below.
        above: PlaceId,
        /// Whether it sends peer requests of its own device's functions up.
        redirect: Redirect,
    },
}

impl Place {
    fn above(&self) -> Option<PlaceId> {
        match *self {
            Self::HostBridge { .. } => None,
            Self::Port { above, .. } | Self::Function { above, .. } => Some(above),
        }
    }

    fn redirects(&self) -> bool {
        match *self {
            Self::HostBridge { .. } => false,
            Self::Port { redirect, .. } | Self::Function { redirect, .. } => {
                redirect != Redirect::Off
            }
        }
    }
}

/// A list of places that is no tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopologyError {
    /// The place.
    pub place: PlaceId,
    /// What it is said to be below: no bridge that stands before it.
    pub above: PlaceId,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, above } = self;
        write!(f, "{place} is below {above}, which is no bridge before it")
    }
}

impl core::error::Error for TopologyError {}

/// Which way requests of one device to another go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerRoute {
    /// Not above the last port that both are below: the client uses the address that the window has
    /// on the bus, and no IOMMU sees it.
    Bus,
    /// Through the host bridge: by way of the client's domain, or, where it has none, to the
    /// window's physical address.
    HostBridge,
}

/// A way that was found: from one client to one provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerPath {
    provider: PlaceId,
    client: PlaceId,
    route: PeerRoute,
    hops: u32,
}

impl PeerPath {
    /// Where the memory is.
    pub fn provider(&self) -> PlaceId {
        self.provider
    }

    /// Who reaches it.
    pub fn client(&self) -> PlaceId {
        self.client
    }

    /// Which way.
    pub fn route(&self) -> PeerRoute {
        self.route
    }

    /// How many links requests pass, each way up and down counted; 0 for a device's own memory.
    pub fn hops(&self) -> u32 {
        self.hops
    }
}

/// Host bridges, ports and functions: a plain value of facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topology<'m> {
    places: &'m [Place],
}

/// One end of a way, on its walk up.
struct Walker {
    at: PlaceId,
    hops: u32,
    redirected: Option<PlaceId>,
}

impl<'m> Topology<'m> {
    /// The topology of a list of places. O(places), once.
    ///
    /// # Errors
    /// [`TopologyError`], where a place is not below a bridge that stands before it.
    pub fn new(places: &'m [Place]) -> Result<Self, TopologyError> {
        for (number, place) in places.iter().enumerate() {
            let Some(above) = place.above() else {
                continue;
            };
            let bridge = places[..number].get(above.0 as usize);
            if !matches!(bridge, Some(Place::HostBridge { .. } | Place::Port { .. })) {
                let place = PlaceId(number as u32);
                return Err(TopologyError { place, above });
            }
        }
        Ok(Self { places })
    }

    fn place(&self, id: PlaceId) -> Option<&Place> {
        self.places.get(id.0 as usize)
    }

    fn function(&self, at: PlaceId) -> Result<Walker, PeerRefusal> {
        match self.place(at) {
            Some(Place::Function { .. }) => Ok(Walker {
                at,
                hops: 0,
                redirected: None,
            }),
            _ => Err(PeerRefusal::NoFunction { place: at }),
        }
    }

    /// Goes one link up; false at a host bridge.
    fn climb(&self, walker: &mut Walker) -> bool {
        let Some((place, above)) = self
            .place(walker.at)
            .and_then(|place| Some((place, place.above()?)))
        else {
            return false;
        };
        if place.redirects() {
            walker.redirected = walker.redirected.or(Some(walker.at));
        }
        walker.at = above;
        walker.hops += 1;
        true
    }

    fn forwards(&self, bridge: PlaceId) -> Forwards {
        match self.place(bridge) {
            Some(Place::HostBridge { forwards }) => *forwards,
            _ => Forwards::Unknown,
        }
    }

    /// Which way `client` reaches the windows of `provider`. O(depth).
    ///
    /// Below a common port, with nothing on the way that sends peer requests up, by bus address; else
    /// through the host bridges, if it is known that they forward. A function reaches its own windows
    /// by bus address.
    ///
    /// # Errors
    /// [`PeerRefusal`], with what stands in the way.
    pub fn path(&self, provider: PlaceId, client: PlaceId) -> Result<PeerPath, PeerRefusal> {
        let mut ends = [self.function(provider)?, self.function(client)?];
        let found = |route, hops| PeerPath {
            provider,
            client,
            route,
            hops,
        };
        if provider == client {
            return Ok(found(PeerRoute::Bus, 0));
        }
        // What a place is below has a lower number: the higher of two is not above the other.
        while ends[0].at != ends[1].at {
            let higher = usize::from(ends[1].at > ends[0].at);
            if !self.climb(&mut ends[higher]) && !self.climb(&mut ends[1 - higher]) {
                break;
            }
        }
        let [mut to, mut from] = ends;
        let meeting = self.place(to.at).filter(|_| to.at == from.at);
        let mut redirected = None;
        if let Some(port @ Place::Port { .. }) = meeting {
            // A port where both ways meet counts too, as it does for the incumbent.
            let here = port.redirects().then_some(to.at);
            redirected = from.redirected.or(to.redirected).or(here);
            if redirected.is_none() {
                return Ok(found(PeerRoute::Bus, to.hops + from.hops));
            }
        }
        while self.climb(&mut to) {}
        while self.climb(&mut from) {}
        let bridges = [to.at, from.at];
        let needs = match bridges[0] == bridges[1] {
            true => Forwards::Below,
            false => Forwards::Everywhere,
        };
        match bridges
            .iter()
            .find(|bridge| self.forwards(**bridge) < needs)
        {
            None => Ok(found(PeerRoute::HostBridge, to.hops + from.hops)),
            Some(&bridge) if needs == Forwards::Below => {
                Err(PeerRefusal::HostBridge { bridge, redirected })
            }
            Some(&bridge) => Err(PeerRefusal::HostBridges {
                provider: bridges[0],
                client: bridges[1],
                unknown: bridge,
            }),
        }
    }

    /// The provider that all `clients` reach over the fewest links together, with their number; the
    /// first of equals. `None` where no provider is reached by all.
    pub fn nearest(
        &self,
        providers: impl IntoIterator<Item = PlaceId>,
        clients: &[PlaceId],
    ) -> Option<(PlaceId, u32)> {
        let hops = |provider| {
            let one = |client: &PlaceId| self.path(provider, *client).map(|path| path.hops());
            clients.iter().map(one).sum::<Result<u32, _>>().ok()
        };
        let reached = providers
            .into_iter()
            .filter_map(|provider| Some((provider, hops(provider)?)));
        reached.min_by_key(|(_, hops)| *hops)
    }
}
