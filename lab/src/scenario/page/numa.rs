//! The tables of scenarios on machines with several nodes.

use dmakit_cma::GiganticTurn;
use serde::{Deserialize, Serialize};

use super::bounds::{MIB, Size, in_range, length, ordered, size_in_range, size_multiple};

/// The memory of a machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryTable {
    pub(super) nodes: Vec<Size>,
    pub(super) distances: Option<Vec<Vec<u8>>>,
}

/// Nodes of a simulated machine, at most.
const NODES_MAX: usize = 16;
const DISTANCE_LOCAL: u8 = 10;

impl MemoryTable {
    /// For a machine of QEMU's, whose nodes all have memory.
    pub(super) fn check_virt(&self) -> anyhow::Result<()> {
        for &size in &self.nodes {
            size_in_range("memory.nodes", size, 64 * MIB, 8192 * MIB)?;
            size_multiple("memory.nodes", size, 2 * MIB)?;
        }
        length("memory.nodes", &self.nodes, 1, 8)?;
        match self.distances {
            None => Ok(()),
            Some(_) => anyhow::bail!("memory.distances says nothing about this scenario"),
        }
    }

    /// For a simulated machine.
    pub(super) fn check_sim(&self) -> anyhow::Result<()> {
        let count = self.nodes.len();
        length("memory.nodes", &self.nodes, 1, NODES_MAX)?;
        for &size in &self.nodes {
            size_in_range("memory.nodes", size, 0, 8192 * MIB)?;
            size_multiple("memory.nodes", size, 2 * MIB)?;
        }
        let first = self.nodes.first().copied().unwrap_or(Size(0));
        size_in_range("the first of memory.nodes", first, 64 * MIB, 8192 * MIB)?;
        let Some(rows) = &self.distances else {
            return Ok(());
        };
        if rows.len() != count || rows.iter().any(|row| row.len() != count) {
            anyhow::bail!("memory.distances is not {count} rows of {count}");
        }
        for (from, row) in rows.iter().enumerate() {
            for (to, &distance) in row.iter().enumerate() {
                let fits = match from == to {
                    true => distance == DISTANCE_LOCAL,
                    false => distance >= DISTANCE_LOCAL && rows[to][from] == distance,
                };
                if !fits {
                    anyhow::bail!(
                        "memory.distances has {distance} from node {from} to node {to}, expected \
                         10 on the diagonal, and the same number, 10 or more, both ways elsewhere"
                    );
                }
            }
        }
        Ok(())
    }
}

/// Whether gigantic pages or devices choose their memory first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GiganticWord {
    First,
    Last,
}

impl GiganticWord {
    /// The same, as the stack has it.
    pub(super) fn turn(self) -> GiganticTurn {
        match self {
            Self::First => GiganticTurn::First,
            Self::Last => GiganticTurn::Last,
        }
    }
}

/// What a boot is expected to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarvingTable {
    pub gigantic: GiganticWord,
    /// Claims that are made of each area before the page allocator is there.
    pub early: Vec<Size>,
    /// The areas that there are afterwards, in the order in which they chose.
    pub reserved: Vec<String>,
    /// The areas that found no room.
    pub failed: Vec<String>,
}

impl CarvingTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for &size in &self.early {
            size_in_range("carving.early", size, 2 * MIB, 1024 * MIB)?;
            size_multiple("carving.early", size, 2 * MIB)?;
        }
        length("carving.early", &self.early, 1, 16)
    }
}

/// What the device of each node takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoherentTable {
    /// Coherent blocks beside queues and tables.
    pub blocks: u64,
    /// The largest of them, and what is taken until there is no room.
    pub block: Size,
    /// Syncs that each SMMU executes.
    pub syncs: u64,
}

impl CoherentTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        in_range("coherent.blocks", self.blocks, 1, 64)?;
        size_in_range("coherent.block", self.block, 8192, 2 * MIB)?;
        if !self.block.0.is_power_of_two() {
            anyhow::bail!("coherent.block is {}, expected a power of two", self.block);
        }
        in_range("coherent.syncs", self.syncs, 1, 1_000_000)
    }
}

/// How a driver holds the pages that its device shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldWord {
    /// A pin without an end.
    Pin,
    /// A pin for one transfer that is not over.
    ShortPin,
    /// A pin that the memory system may call in.
    Lease,
    /// Not at all.
    Nothing,
}

impl HoldWord {
    /// The word in pages and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::ShortPin => "short-pin",
            Self::Lease => "lease",
            Self::Nothing => "nothing",
        }
    }
}

/// A device that shares pages in an area.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinsTable {
    /// Percent of the area that the device's pages have when they are to be held.
    pub percent: Vec<u64>,
    /// How they are held.
    pub by: Vec<HoldWord>,
    /// The size of the claims.
    pub claim: Size,
    /// Writes of the device that are on their way during each claim.
    pub writes: u64,
    /// Whether the driver lets its device rest before it gives a lease back.
    pub rests: bool,
}

impl PinsTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        length("pins.percent", &self.percent, 1, 16)?;
        for &percent in &self.percent {
            in_range("pins.percent", percent, 1, 100)?;
        }
        length("pins.by", &self.by, 1, 4)?;
        size_in_range("pins.claim", self.claim, 4096, 64 * MIB)?;
        size_multiple("pins.claim", self.claim, 4096)?;
        in_range("pins.writes", self.writes, 1, 64)
    }
}

/// Whether programs let claims move their pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateWord {
    Open,
    Closed,
}

/// Claims of an area that programs borrow.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PressureTable {
    /// Percent of the area that programs have when the claims begin.
    pub lent: Vec<u64>,
    /// Claims of each run, and the smallest and the largest.
    pub claims: u64,
    pub claim: [Size; 2],
    /// Things that others do between two claims.
    pub steps: u64,
    /// Of 256 migrations, how many meet a page in use for a moment.
    pub busy: u32,
    pub gate: GateWord,
}

impl PressureTable {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        length("pressure.lent", &self.lent, 1, 16)?;
        for &percent in &self.lent {
            in_range("pressure.lent", percent, 0, 100)?;
        }
        ordered("pressure.claim", self.claim)?;
        for claim in self.claim {
            size_in_range("pressure.claim", claim, 4096, 64 * MIB)?;
        }
        in_range("pressure.claims", self.claims, 1, 100_000)?;
        in_range("pressure.steps", self.steps, 0, 1000)?;
        in_range("pressure.busy", self.busy.into(), 0, 256)
    }
}
