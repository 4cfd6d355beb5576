//! The tables of scenarios on machines with several nodes.

use serde::Deserialize;

use super::bounds::{MIB, Size, in_range, multiple};

/// The memory of a machine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryTable {
    pub(super) nodes: Vec<Size>,
    pub(super) distances: Option<Vec<Vec<u8>>>,
}

/// Nodes of a simulated machine, at most.
const NODES_MAX: u64 = 16;
const DISTANCE_LOCAL: u8 = 10;

impl MemoryTable {
    /// For a machine of QEMU's, whose nodes all have memory.
    pub(super) fn check_virt(&self) -> anyhow::Result<()> {
        for size in &self.nodes {
            in_range("memory.nodes", size.0, 64 * MIB, 8192 * MIB)?;
            multiple("memory.nodes", size.0, 2 * MIB)?;
        }
        in_range("memory.nodes", self.nodes.len() as u64, 1, 8)?;
        match self.distances {
            None => Ok(()),
            Some(_) => anyhow::bail!("memory.distances says nothing about this scenario"),
        }
    }

    /// For a simulated machine.
    pub(super) fn check_sim(&self) -> anyhow::Result<()> {
        let count = self.nodes.len();
        in_range("memory.nodes", count as u64, 1, NODES_MAX)?;
        for size in &self.nodes {
            in_range("memory.nodes", size.0, 0, 8192 * MIB)?;
            multiple("memory.nodes", size.0, 2 * MIB)?;
        }
        let first = self.nodes.first().map_or(0, |size| size.0);
        in_range("memory.nodes", first, 64 * MIB, 8192 * MIB)?;
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
        for size in &self.early {
            in_range("carving.early", size.0, 2 * MIB, 1024 * MIB)?;
            multiple("carving.early", size.0, 2 * MIB)?;
        }
        in_range("carving.early", self.early.len() as u64, 1, 16)
    }
}
