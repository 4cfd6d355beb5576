//! How far nodes are apart, and what that costs.

use std::fmt;
use std::time::Duration;

use dmakit_addr::{NodeId, Pfn, PhysAddr};
use dmakit_phys::{MapError, MemoryKind, MemoryMap, Region};

use crate::Machine;

/// What takes time that goes with the distance between two nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cost {
    /// A `CMD_SYNC` on an empty command queue, from its place in the queue to its completion, by the
    /// distance from the SMMU to the queue's memory.
    Sync,
    /// Copying a frame, by the distance from where it was to where it goes.
    CopyFrame,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sync => "CMD_SYNC on an empty queue",
            Self::CopyFrame => "copy of a 4 KiB frame",
        })
    }
}

/// How a figure is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Somebody measured it elsewhere and said so in public.
    Published,
    /// Measured by this project.
    Measured,
    /// Neither: it follows from other figures by a rule of this table's own.
    Assumed,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Published => "published",
            Self::Measured => "measured",
            Self::Assumed => "assumed",
        })
    }
}

/// One latency, and why it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Of what.
    pub cost: Cost,
    /// Between nodes this far apart: 10 is the same node.
    pub distance: u8,
    /// Nanoseconds.
    pub ns: u64,
    /// How it is known.
    pub source: Source,
    /// Who said so, or how it was arrived at.
    pub origin: &'static str,
}

/// What distance costs, in virtual time.
///
/// Between two distances that it knows, and beyond the last, it goes on in a straight line, and such
/// a figure is [`Assumed`](Source::Assumed).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LatencyTable {
    /// By cost, then by distance.
    rows: Vec<Figure>,
}

/// The distance of a node to itself, as firmware tables have it.
pub(crate) const LOCAL: u8 = 10;
/// The distance between nodes of which nothing was said.
pub(crate) const REMOTE: u8 = 20;

const ON_THE_LINE: &str = "on the line through the figures nearest to it";

impl Default for LatencyTable {
    fn default() -> Self {
        let song = "B. Song, \"make dma_alloc_coherent NUMA-aware by per-NUMA CMA\", 2020: an \
                    Arm server, queue on the SMMU's own node";
        let song_remote = "ibidem: more than this, SMMU on node 2 and queue on node 0; that they \
                           are 20 apart is assumed";
        let copy = "glibc's memcpy through 64 MiB, one node of an AMD EPYC (Zen 4) at 3.6 GHz";
        let copy_remote = "the local copy, times 550/240";
        let row = |cost, distance, ns, source, origin| Figure {
            cost,
            distance,
            ns,
            source,
            origin,
        };
        Self {
            rows: vec![
                row(Cost::Sync, LOCAL, 240, Source::Published, song),
                row(Cost::Sync, REMOTE, 550, Source::Published, song_remote),
                row(Cost::CopyFrame, LOCAL, 321, Source::Measured, copy),
                row(Cost::CopyFrame, REMOTE, 736, Source::Assumed, copy_remote),
            ],
        }
    }
}

impl LatencyTable {
    /// Adds a figure, or puts it in the place of the one for the same cost and distance.
    #[must_use]
    pub fn with(mut self, figure: Figure) -> Self {
        let key = |row: &Figure| (row.cost, row.distance);
        match self.rows.binary_search_by_key(&key(&figure), key) {
            Ok(index) => self.rows[index] = figure,
            Err(index) => self.rows.insert(index, figure),
        }
        self
    }

    /// The figure for a distance; 0 ns where the table knows nothing of the cost.
    pub fn figure(&self, cost: Cost, distance: u8) -> Figure {
        let rows: Vec<&Figure> = self.rows.iter().filter(|row| row.cost == cost).collect();
        let after = rows.partition_point(|row| row.distance < distance);
        if let Some(known) = rows.get(after).filter(|row| row.distance == distance) {
            return **known;
        }
        let first = after.saturating_sub(1).min(rows.len().saturating_sub(2));
        let ns = match rows.get(first..first + 2) {
            Some([low, high]) => on_line(low, high, distance),
            _ => rows.first().map_or(0, |only| only.ns),
        };
        Figure {
            cost,
            distance,
            ns,
            source: Source::Assumed,
            origin: ON_THE_LINE,
        }
    }

    /// Every figure that it was given, by cost, then by distance.
    pub fn figures(&self) -> &[Figure] {
        &self.rows
    }
}

fn on_line(low: &Figure, high: &Figure, distance: u8) -> u64 {
    let [from, to, at] = [low.distance, high.distance, distance].map(i128::from);
    let [start, end] = [low.ns, high.ns].map(i128::from);
    let ns = start + (end - start) * (at - from) / (to - from);
    u64::try_from(ns).unwrap_or(0)
}

/// How far each node is from each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distances {
    /// Those that were said; the others are [`LOCAL`] and [`REMOTE`].
    said: Vec<(NodeId, NodeId, u8)>,
}

impl Distances {
    pub(crate) fn set(&mut self, from: NodeId, to: NodeId, distance: u8) {
        self.said.push((from, to, distance));
    }

    pub(crate) fn get(&self, from: NodeId, to: NodeId) -> u8 {
        if from == to {
            return LOCAL;
        }
        let mut latest = self.said.iter().rev();
        let said = latest.find(|(a, b, _)| (*a, *b) == (from, to));
        said.map_or(REMOTE, |(_, _, distance)| *distance)
    }

    pub(crate) fn said(&self) -> &[(NodeId, NodeId, u8)] {
        &self.said
    }
}

impl Machine {
    /// How many nodes there are, with and without RAM.
    pub fn nodes(&self) -> usize {
        self.config().nodes.len()
    }

    /// The node whose RAM holds the byte at `at`.
    pub fn node_of(&self, at: PhysAddr) -> Option<NodeId> {
        self.config().node_of(at)
    }

    /// How far `to` is from `from`, as firmware tables say it: 10 is the same node.
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        self.config().distances.get(from, to)
    }

    /// Its nodes, RAM and distances, as firmware would describe them.
    ///
    /// # Errors
    /// [`MapError`], where a range of RAM ends above what a frame number can say.
    pub fn memory_map(&self) -> Result<MemoryMap, MapError> {
        let mut map = MemoryMap::new(self.nodes() as u16);
        for (node, range) in self.ram() {
            map.add(Region {
                range: range.frames(),
                node,
                kind: MemoryKind::Usable,
            })?;
        }
        for &(from, to, distance) in self.config().distances.said() {
            map.set_distance(from, to, distance)?;
        }
        Ok(map)
    }

    /// What distance costs.
    pub fn latencies(&self) -> &LatencyTable {
        &self.config().latencies
    }

    /// Moves the clock by what it costs to go from one frame to another.
    pub(crate) fn spend(&self, cost: Cost, from: Pfn, to: Pfn) {
        let [from, to] = [from, to].map(|frame| frame.phys().and_then(|at| self.node_of(at)));
        if let Some((from, to)) = from.zip(to) {
            let figure = self.latencies().figure(cost, self.distance(from, to));
            self.advance(Duration::from_nanos(figure.ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_stands_and_the_rest_is_on_a_line_and_says_so() {
        let table = LatencyTable::default();
        let of = |distance| table.figure(Cost::Sync, distance);
        assert_eq!((of(10).ns, of(10).source), (240, Source::Published));
        assert_eq!((of(20).ns, of(20).source), (550, Source::Published));
        assert_eq!((of(15).ns, of(15).source), (395, Source::Assumed));
        assert_eq!((of(30).ns, of(30).source), (860, Source::Assumed));
    }

    #[test]
    fn a_figure_of_ones_own_takes_the_place_of_another() {
        let own = Figure {
            cost: Cost::Sync,
            distance: 20,
            ns: 400,
            source: Source::Measured,
            origin: "here",
        };
        let table = LatencyTable::default().with(own);
        assert_eq!(table.figure(Cost::Sync, 20), own);
        assert_eq!(table.figure(Cost::Sync, 15).ns, 320);
        assert_eq!(
            table.figures().len(),
            LatencyTable::default().figures().len()
        );
    }
}
