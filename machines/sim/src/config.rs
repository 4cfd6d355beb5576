//! What a machine is made of.

use std::fmt;
use std::io;

use dmakit_addr::{Address, NodeId, PAGE_BYTES, PhysAddr, PhysRange};

use crate::LatencyTable;
use crate::numa::{Distances, LOCAL};

/// What a device finds in memory of a confidential guest that was not shared with the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrivateAccess {
    /// Nothing: the access faults.
    Fault,
    /// Ciphertext: it reads garbage, and what it writes is garbage to the CPU.
    Garbage,
}

/// The description of a [`Machine`](crate::Machine).
///
/// Unless told otherwise it has four CPUs, two NUMA nodes of RAM with holes between, one part of
/// it below 4 GiB, 64-byte cache lines, coherent devices and no untrusted host.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    pub(crate) seed: u64,
    pub(crate) nodes: Vec<Vec<PhysRange>>,
    pub(crate) cpus: u32,
    pub(crate) line_bytes: u64,
    pub(crate) coherent: bool,
    pub(crate) private: Option<PrivateAccess>,
    pub(crate) record: bool,
    pub(crate) distances: Distances,
    pub(crate) latencies: LatencyTable,
}

/// RAM of a machine that was given none: start, MiB, node. Far from where a process of a 64-bit
/// host has its pointers, from the bus addresses of [`DeviceConfig`](crate::DeviceConfig), and with
/// holes between.
const DEFAULT_RAM: [(u64, u64, usize); 3] = [
    (0x6000_0000, 64, 0),
    (0x9_4000_0000, 64, 0),
    (0x33_8000_0000, 64, 1),
];

impl MachineConfig {
    /// A machine of which everything that chance decides is decided by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: Vec::new(),
            cpus: 4,
            line_bytes: 64,
            coherent: true,
            private: None,
            record: false,
            distances: Distances::default(),
            latencies: LatencyTable::default(),
        }
    }

    /// One more NUMA node, with RAM at `ranges`, whole frames; without any it has no memory. The
    /// first call replaces the default
    /// layout. RAM costs the process memory only where it is touched.
    #[must_use]
    pub fn node(mut self, ranges: &[PhysRange]) -> Self {
        self.nodes.push(ranges.to_vec());
        self
    }

    /// Says how far `to` is from `from`, and the way back: 10 is the same node, more is farther. Of
    /// nodes of which nothing is said it is 20.
    #[must_use]
    pub fn distance(mut self, from: NodeId, to: NodeId, distance: u8) -> Self {
        self.distances.set(from, to, distance);
        self.distances.set(to, from, distance);
        self
    }

    /// What distance costs; the default is [`LatencyTable::default`].
    #[must_use]
    pub fn latencies(mut self, latencies: LatencyTable) -> Self {
        self.latencies = latencies;
        self
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Devices do not see the CPU's caches, nor the CPU what they wrote, without maintenance. A
    /// device can still be made coherent by itself.
    #[must_use]
    pub fn non_coherent(mut self) -> Self {
        self.coherent = false;
        self
    }

    /// Bytes in a cache line, a power of two from 8 to a frame.
    #[must_use]
    pub fn line_bytes(mut self, bytes: u64) -> Self {
        self.line_bytes = bytes;
        self
    }

    /// A confidential guest: every frame is private until it is shared.
    #[must_use]
    pub fn encrypted(mut self, private: PrivateAccess) -> Self {
        self.private = Some(private);
        self
    }

    /// Keeps a log of every event, see [`Machine::log`](crate::Machine::log).
    #[must_use]
    pub fn record(mut self) -> Self {
        self.record = true;
        self
    }

    pub(crate) fn node_of(&self, at: PhysAddr) -> Option<NodeId> {
        let holds = |ranges: &Vec<PhysRange>| ranges.iter().any(|range| range.contains(at));
        let index = self.nodes.iter().position(holds)?;
        Some(NodeId::new(index as u16))
    }

    /// The nodes with the default layout filled in, once everything has been checked.
    pub(crate) fn checked(mut self) -> Result<Self, MachineError> {
        if self.cpus == 0 {
            return Err(MachineError::NoCpu);
        }
        let line = self.line_bytes;
        if !line.is_power_of_two() || !(8..=PAGE_BYTES).contains(&line) {
            return Err(MachineError::LineBytes(line));
        }
        if self.nodes.is_empty() {
            self.nodes = default_nodes()?;
        }
        for &(from, to, distance) in self.distances.said() {
            let known = from.index() < self.nodes.len() && to.index() < self.nodes.len();
            if !known || distance < LOCAL || (from == to && distance != LOCAL) {
                return Err(MachineError::Distance(from, to, distance));
            }
        }
        for range in self.nodes.iter().flatten() {
            if !range.start().is_aligned(PAGE_BYTES) || range.len() % PAGE_BYTES != 0 {
                return Err(MachineError::Unaligned(*range));
            }
        }
        Ok(self)
    }
}

fn default_nodes() -> Result<Vec<Vec<PhysRange>>, MachineError> {
    let mut nodes = vec![Vec::new(); 2];
    for (start, mib, node) in DEFAULT_RAM {
        let range = PhysRange::new(PhysAddr::new(start), mib << 20)
            .map_err(|error| MachineError::Ram(io::Error::other(error)))?;
        nodes[node].push(range);
    }
    Ok(nodes)
}

/// A machine that cannot be built.
#[derive(Debug)]
pub enum MachineError {
    /// No CPU.
    NoCpu,
    /// A cache line of this many bytes.
    LineBytes(u64),
    /// RAM that does not consist of whole frames.
    Unaligned(PhysRange),
    /// A distance below 10, from a node that there is not, or not 10 from a node to itself.
    Distance(NodeId, NodeId, u8),
    /// RAM that overlaps other RAM, or that this process cannot have.
    Ram(io::Error),
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCpu => f.write_str("a machine needs a CPU"),
            Self::LineBytes(bytes) => write!(
                f,
                "a cache line of {bytes} bytes is not a power of two from 8 to {PAGE_BYTES}"
            ),
            Self::Unaligned(range) => write!(f, "RAM at {range} is not made of whole frames"),
            Self::Distance(from, to, distance) => {
                write!(f, "{distance} is no distance from {from} to {to}")
            }
            Self::Ram(error) => write!(f, "RAM: {error}"),
        }
    }
}

impl std::error::Error for MachineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Ram(error) => Some(error),
            _ => None,
        }
    }
}
