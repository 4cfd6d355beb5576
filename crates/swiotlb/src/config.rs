//! How a set of pools is made.

use core::fmt;
use core::time::Duration;

use dmakit_addr::{DmaMask, NodeId};
use dmakit_platform::{ConversionError, NoMemory};

/// Whether an untrusted host must be given access to the pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// Devices reach all memory.
    Private,
    /// The machine is a confidential guest: pools are shared with the host, and zeroed after that
    /// and after they are taken back.
    Shared,
}

/// The shape of a [`BouncePool`](crate::BouncePool).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BounceConfig {
    /// Bytes of a slot: a power of two from 512 to 64 KiB.
    pub slot_bytes: u32,
    /// Areas of the first pool, at most 64; as a rule one for each CPU.
    pub areas: u32,
    /// How many devices can be attached at once.
    pub devices: u16,
    /// Whether every mapping bounces, for the layer above to ask.
    pub forced: bool,
    /// Whether pools are shared with a host.
    pub sharing: Sharing,
    /// Slots by which each area's count runs ahead of its use; see
    /// [`Statistics::used_high`](crate::Statistics::used_high). 0 counts exactly and makes every
    /// mapping write a counter that all CPUs share.
    pub credit_batch: u32,
}

impl Default for BounceConfig {
    fn default() -> Self {
        Self {
            slot_bytes: 2048,
            areas: 1,
            devices: 16,
            forced: false,
            sharing: Sharing::Private,
            credit_batch: 32,
        }
    }
}

/// How pools grow and shrink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrowthConfig {
    /// Bytes of a grown pool where nothing larger is asked for and memory can be had.
    pub step: u64,
    /// The least that a grown pool has, and its alignment; a power of two, at least a page.
    pub granule: u64,
    /// All pools together never have more bytes, the reserve included.
    pub bytes_max: u64,
    /// Bytes of the reserve that serves requests while growth is under way. A request of `n` bytes
    /// surely finds room in an idle reserve of `n` and its alignment.
    pub reserve: u64,
    /// Growth is asked for when fewer bytes than this are free, so that it is there before a
    /// request fails; with 0 only when one has failed.
    pub headroom: u64,
    /// How long use must have been low before memory goes back.
    pub shrink_after: Duration,
    /// Where grown pools should lie.
    pub node: Option<NodeId>,
    /// The highest address of grown pools.
    pub limit: DmaMask,
}

impl Default for GrowthConfig {
    fn default() -> Self {
        Self {
            step: 4 << 20,
            granule: 1 << 20,
            bytes_max: 1 << 30,
            reserve: 1 << 20,
            headroom: 512 << 10,
            shrink_after: Duration::from_secs(10),
            node: None,
            limit: DmaMask::ALL,
        }
    }
}

/// Why a set of pools could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// Not a power of two from 512 to 64 KiB.
    SlotBytes(u32),
    /// The segment does not start at a page and a slot, or holds no slot.
    Segment {
        /// Its first address.
        start: u64,
        /// Its bytes.
        len: u64,
    },
    /// More slots than 64 areas can hold.
    TooManySlots(u64),
    /// The granule is not a power of two, is under a page or a slot, or is above the step.
    Granule(u64),
    /// No memory for the reserve.
    Reserve(NoMemory),
    /// The host could not be given access; the memory is lost.
    Sharing(ConversionError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlotBytes(bytes) => write!(f, "slots of {bytes} bytes"),
            Self::Segment { start, len } => {
                write!(
                    f,
                    "a pool of {len} bytes at {start:#x}: not whole pages and slots"
                )
            }
            Self::TooManySlots(slots) => write!(f, "a pool of {slots} slots"),
            Self::Granule(bytes) => write!(f, "a growth granule of {bytes} bytes"),
            Self::Reserve(error) => write!(f, "the reserve: {error}"),
            Self::Sharing(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ConfigError {}
