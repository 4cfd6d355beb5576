//! The tables of scenarios with a cache, a disk, or a device of few address bits.

use dmakit_qemu::devices::nvme;
use serde::Deserialize;

use super::bounds::{MIB, ROUNDS_MAX, Size, in_range, ordered, size_in_range, size_multiple};

/// A block of the disk; larger ones are whole multiples.
const BLOCK: u64 = 512;
/// Commands that the disk's driver has in flight.
const DEPTH_MAX: u64 = nvme::DEPTH_MAX as u64;
/// Bytes of one PRP list's reach.
const TRANSFER_MAX: u64 = 2 * MIB;

/// Transfers of a device beside the CPU's caches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheTable {
    pub rounds: u64,
    /// The largest transfer.
    pub bytes: Size,
    /// Bytes of a cache line.
    pub line: u64,
}

/// Transfers of a disk.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTable {
    pub size: Size,
    pub pattern: Pattern,
    /// Transfers of a mixed load.
    pub rounds: Option<u64>,
    /// The smallest and the largest transfer.
    pub sizes: [Size; 2],
    /// Commands in flight, at most.
    pub depth: u64,
    /// How each buffer is mapped.
    pub map: Option<MapWord>,
}

/// How a driver maps a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapWord {
    /// By one call, which takes the list of its pieces.
    OneStep,
    /// Addresses are reserved, and each piece is linked.
    #[default]
    TwoStep,
}

/// What a disk is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// All of it, from end to end.
    Read,
    /// Reads and writes at random.
    Mixed,
}

/// Transfers of a device with few address bits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EduTable {
    pub bits: u32,
    pub rounds: u64,
}

impl CacheTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        in_range("cache.rounds", self.rounds, 1, ROUNDS_MAX)?;
        size_in_range("cache.bytes", self.bytes, 64, MIB)?;
        in_range("cache.line", self.line, 8, 4096)?;
        match self.line.is_power_of_two() {
            true => Ok(()),
            false => anyhow::bail!("cache.line is {}, expected a power of two", self.line),
        }
    }
}

impl DiskTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ordered("disk.sizes", self.sizes)?;
        for size in self.sizes {
            size_in_range("disk.sizes", size, BLOCK, TRANSFER_MAX)?;
            size_multiple("disk.sizes", size, BLOCK)?;
        }
        let largest = self.sizes[1].0;
        in_range("disk.depth", self.depth, 1, DEPTH_MAX)?;
        size_in_range("disk.size", self.size, self.depth * largest, 1024 * MIB)?;
        size_multiple("disk.size", self.size, largest)?;
        match (self.pattern, self.rounds) {
            (Pattern::Mixed, Some(rounds)) => in_range("disk.rounds", rounds, 1, ROUNDS_MAX),
            (Pattern::Mixed, None) => anyhow::bail!("a mixed load needs disk.rounds"),
            (Pattern::Read, None) => Ok(()),
            (Pattern::Read, Some(_)) => {
                anyhow::bail!("disk.rounds says nothing about a disk that is read from end to end")
            }
        }
    }
}

impl EduTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        in_range("edu.bits", self.bits.into(), 20, 64)?;
        in_range("edu.rounds", self.rounds, 1, ROUNDS_MAX)
    }
}
