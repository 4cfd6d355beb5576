//! Why a device does not reach another's memory.

use core::fmt;
use core::time::Duration;

use super::{PeerMemory, PlaceId, ProviderId};
use crate::{BounceCause, DeviceId, MapError};

/// Why no way leads from one device to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// There is no function there.
    NoFunction {
        /// The place.
        place: PlaceId,
    },
    /// The way leads through a host bridge of which it is not known that it forwards.
    HostBridge {
        /// The bridge.
        bridge: PlaceId,
        /// What sends requests up to it, where a port below would not.
        redirected: Option<PlaceId>,
    },
    /// The way leads through two host bridges, of which it is not known that they forward to each
    /// other.
    HostBridges {
        /// The provider's.
        provider: PlaceId,
        /// The client's.
        client: PlaceId,
        /// The one of the two of which it is not known.
        unknown: PlaceId,
    },
}

impl PeerRefusal {
    /// A number for it, the same in every version: 1 to 3.
    pub const fn number(&self) -> u32 {
        match self {
            Self::NoFunction { .. } => 1,
            Self::HostBridge { .. } => 2,
            Self::HostBridges { .. } => 3,
        }
    }
}

impl fmt::Display for PeerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFunction { place } => write!(f, "no function is at {place}"),
            Self::HostBridge { bridge, redirected } => {
                write!(f, "the host bridge at {bridge} is not known to forward")?;
                match redirected {
                    Some(port) => write!(f, ", and {port} sends requests up to it"),
                    None => Ok(()),
                }
            }
            Self::HostBridges {
                provider,
                client,
                unknown,
            } => write!(
                f,
                "between the host bridges at {client} and {provider}, that at {unknown} is not known to forward"
            ),
        }
    }
}

impl core::error::Error for PeerRefusal {}

/// Why peer memory was not lent, mapped or taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// No way leads there.
    Refused(PeerRefusal),
    /// The window is wanted back.
    Revoked {
        /// Whose it is.
        provider: ProviderId,
    },
    /// It is another provider's.
    Foreign {
        /// Whose it is.
        owner: ProviderId,
        /// To whom it was given.
        provider: ProviderId,
    },
    /// It does not lie in the window.
    Outside {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
        /// How many bytes the window has.
        window: u64,
    },
    /// There is no room for one more importer.
    Importers {
        /// How many there can be.
        max: usize,
    },
    /// An importer has parts still, or as many as can be counted.
    HasParts {
        /// Which.
        device: DeviceId,
        /// How many.
        parts: u32,
    },
    /// Everything of the client bounces, and peer memory never does.
    WouldBounce(BounceCause),
    /// A request with addresses of a domain cannot hold memory that is reached by its bus address:
    /// map that with [`map_peer`](crate::Device::map_peer).
    OnBus {
        /// Where it is.
        provider: PlaceId,
    },
    /// A request of a device that goes past the CPU's caches, which was not reserved with
    /// `SKIP_CPU_SYNC`: ending it would maintain caches for what is not memory.
    Caches,
    /// The client cannot reach it.
    Map(MapError),
    /// The request does not take it.
    Link(crate::LinkError),
}

impl From<PeerRefusal> for PeerError {
    fn from(refusal: PeerRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<MapError> for PeerError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<crate::LinkError> for PeerError {
    fn from(error: crate::LinkError) -> Self {
        Self::Link(error)
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Revoked { provider } => write!(f, "{provider} wants its window back"),
            Self::Foreign { owner, provider } => {
                write!(f, "it belongs to {owner} and was given to {provider}")
            }
            Self::Outside {
                offset,
                len,
                window,
            } => write!(f, "{len} bytes at {offset} of a window of {window}"),
            Self::Importers { max } => write!(f, "there are {max} importers already"),
            Self::HasParts { device, parts } => write!(f, "{device} has {parts} parts"),
            Self::WouldBounce(cause) => write!(f, "peer memory never bounces: {cause}"),
            Self::OnBus { provider } => {
                write!(f, "{provider} is reached by bus address, past the domain")
            }
            Self::Caches => f.write_str("the request maintains caches, and peer memory has none"),
            Self::Map(error) => error.fmt(f),
            Self::Link(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PeerError {}

/// Peer memory that was not mapped, given back as it was.
#[derive(Debug)]
pub struct PeerFailure {
    /// Why.
    pub error: PeerError,
    /// The memory.
    pub memory: PeerMemory,
}

impl fmt::Display for PeerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for PeerFailure {}

/// An importer that has parts of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// For which device.
    pub device: DeviceId,
    /// How many.
    pub parts: u32,
}

/// A window that cannot be released, and who holds on to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held<const N: usize> {
    /// Whose window.
    pub provider: ProviderId,
    /// How long was waited.
    pub waited: Duration,
    /// Who has parts.
    pub holders: [Option<Holder>; N],
}

impl<const N: usize> fmt::Display for Held<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {:?}, {} is held", self.waited, self.provider)?;
        for Holder { device, parts } in self.holders.iter().flatten() {
            write!(f, ", by {device}: {parts} parts")?;
        }
        Ok(())
    }
}

impl<const N: usize> core::error::Error for Held<N> {}
