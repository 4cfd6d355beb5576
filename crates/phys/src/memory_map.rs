//! Where memory is.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{Address, NodeId, PfnRange};

use crate::page_allocator::PAGEBLOCK_ORDER;

/// What a region may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// RAM that the page allocator hands out.
    Usable,
    /// RAM or firmware ranges that somebody else holds.
    Reserved,
    /// RAM set aside for contiguous areas, whole page blocks. The page allocator knows its frames
    /// and hands none out until the area is given to it.
    Contiguous,
    /// Memory on a device's bus: it has frames, but is not RAM.
    Device,
}

impl MemoryKind {
    /// Whether the page allocator has its frames.
    pub(crate) fn is_allocatable(self) -> bool {
        matches!(self, Self::Usable | Self::Contiguous)
    }
}

/// A run of frames of one node and kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The frames.
    pub range: PfnRange,
    /// The node they are closest to.
    pub node: NodeId,
    /// What they are for.
    pub kind: MemoryKind,
}

/// Why a region or a distance cannot be as told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// It is empty, or ends above the 64-bit byte space.
    Range(PfnRange),
    /// It shares frames with one that is there already.
    Overlap {
        /// The new region.
        new: PfnRange,
        /// The one that is there.
        old: PfnRange,
    },
    /// It is to be contiguous memory and is not made of whole page blocks.
    Blocks(PfnRange),
    /// Not all of it is usable memory of one node.
    NotUsable(PfnRange),
    /// There is no such node.
    Node {
        /// Which.
        node: NodeId,
        /// How many there are.
        nodes: usize,
    },
    /// A distance below 10, which is what a node has to itself, or not 10 to itself.
    Distance {
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// How far.
        distance: u8,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => write!(f, "frames {range} are no region"),
            Self::Overlap { new, old } => write!(f, "frames {new} overlap frames {old}"),
            Self::Blocks(range) => write!(f, "frames {range} are not whole page blocks"),
            Self::NotUsable(range) => {
                write!(f, "frames {range} are not all usable memory of one node")
            }
            Self::Node { node, nodes } => write!(f, "{node} is not one of {nodes} nodes"),
            Self::Distance { from, to, distance } => {
                write!(f, "{distance} is no distance from {from} to {to}")
            }
        }
    }
}

impl core::error::Error for MapError {}

const LOCAL: u8 = 10;
const REMOTE: u8 = 20;

/// The memory of a machine: regions, holes between them, and how far the nodes are apart.
///
/// Distances are those of firmware tables: 10 from a node to itself, 20 where nothing was said. A
/// node may have no memory. A plain value; building it allocates.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    nodes: usize,
    /// In ascending order, disjoint.
    regions: Vec<Region>,
    /// Row by row.
    distances: Vec<u8>,
}

impl MemoryMap {
    /// A machine of `nodes` nodes without memory.
    pub fn new(nodes: u16) -> Self {
        let nodes = usize::from(nodes);
        let mut distances = vec![REMOTE; nodes * nodes];
        distances
            .iter_mut()
            .step_by(nodes + 1)
            .for_each(|own| *own = LOCAL);
        Self {
            nodes,
            regions: Vec::new(),
            distances,
        }
    }

    /// Adds a region, in any order.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn add(&mut self, region: Region) -> Result<(), MapError> {
        self.check(region.node)?;
        if region.range.is_empty() || region.range.bytes().is_none() {
            return Err(MapError::Range(region.range));
        }
        if region.kind == MemoryKind::Contiguous {
            check_blocks(region.range)?;
        }
        let after = self
            .regions
            .partition_point(|old| old.range.start() < region.range.start());
        let mut neighbours = self.regions[after.saturating_sub(1)..].iter().take(2);
        if let Some(old) = neighbours.find(|old| old.range.overlaps(&region.range)) {
            return Err(MapError::Overlap {
                new: region.range,
                old: old.range,
            });
        }
        self.regions.insert(after, region);
        Ok(())
    }

    /// Takes frames out of use that somebody else holds, such as a kernel's image or what firmware
    /// handed over: what of them is usable is [`MemoryKind::Reserved`] from now on, the rest stays
    /// what it is. Afterwards the usable regions are the RAM that the stack may be given.
    ///
    /// # Errors
    /// [`MapError::NotUsable`] where some are set aside for a contiguous area; nothing has changed
    /// then.
    pub fn exclude(&mut self, range: PfnRange) -> Result<(), MapError> {
        let mut regions = Vec::with_capacity(self.regions.len() + 2);
        for region in &self.regions {
            let held = region.range.intersection(&range);
            match region.kind {
                MemoryKind::Usable if !held.is_empty() => {}
                MemoryKind::Contiguous if !held.is_empty() => {
                    return Err(MapError::NotUsable(range));
                }
                _ => {
                    regions.push(*region);
                    continue;
                }
            }
            let part = |range, kind| Region {
                range,
                kind,
                ..*region
            };
            let below = PfnRange::between(region.range.start(), held.start());
            let above = PfnRange::between(held.end(), region.range.end());
            let rest = |rest: Option<PfnRange>| {
                let rest = rest.filter(|rest| !rest.is_empty());
                rest.map(|rest| part(rest, MemoryKind::Usable))
            };
            regions.extend(rest(below));
            regions.push(part(held, MemoryKind::Reserved));
            regions.extend(rest(above));
        }
        self.regions = regions;
        Ok(())
    }

    /// Sets usable memory of one node aside for a contiguous area, before the page allocator is made
    /// of the map: `range` is [`MemoryKind::Contiguous`] from now on.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn set_aside(&mut self, range: PfnRange) -> Result<(), MapError> {
        check_blocks(range)?;
        let first = self
            .regions
            .partition_point(|r| r.range.end() <= range.start());
        let past = self
            .regions
            .partition_point(|r| r.range.start() < range.end());
        let covering = &self.regions[first..past];
        let (Some(low), Some(high)) = (covering.first().copied(), covering.last().copied()) else {
            return Err(MapError::NotUsable(range));
        };
        let usable = |r: &Region| r.kind == MemoryKind::Usable && r.node == low.node;
        let gapless = covering
            .windows(2)
            .all(|two| two[0].range.end() == two[1].range.start());
        let whole = low.range.start() <= range.start() && high.range.end() >= range.end();
        if !(whole && gapless && covering.iter().all(usable)) {
            return Err(MapError::NotUsable(range));
        }
        let below = PfnRange::between(low.range.start(), range.start());
        let above = PfnRange::between(range.end(), high.range.end());
        let usable = |range| Region { range, ..low };
        let contiguous = Region {
            range,
            node: low.node,
            kind: MemoryKind::Contiguous,
        };
        let below = below.filter(|r| !r.is_empty()).map(usable);
        let above = above.filter(|r| !r.is_empty()).map(usable);
        let pieces = below.into_iter().chain([contiguous]).chain(above);
        self.regions.splice(first..past, pieces);
        Ok(())
    }

    /// Says how far `to` is from `from`; the way back is another distance.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed then.
    pub fn set_distance(&mut self, from: NodeId, to: NodeId, distance: u8) -> Result<(), MapError> {
        self.check(from)?;
        self.check(to)?;
        if distance < LOCAL || (from == to && distance != LOCAL) {
            return Err(MapError::Distance { from, to, distance });
        }
        self.distances[from.index() * self.nodes + to.index()] = distance;
        Ok(())
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// How far `to` is from `from`, or `None` where one does not exist.
    pub fn distance(&self, from: NodeId, to: NodeId) -> Option<u8> {
        let known = from.index() < self.nodes && to.index() < self.nodes;
        known.then(|| self.distances[from.index() * self.nodes + to.index()])
    }

    /// All nodes, nearest to `from` first, the lower number first where two are equally near.
    pub(crate) fn by_distance(&self, from: usize) -> Vec<u16> {
        let mut order: Vec<u16> = (0..self.nodes as u16).collect();
        order.sort_by_key(|to| self.distances[from * self.nodes + usize::from(*to)]);
        order
    }

    fn check(&self, node: NodeId) -> Result<(), MapError> {
        let nodes = self.nodes;
        let known = node.index() < nodes;
        known.then_some(()).ok_or(MapError::Node { node, nodes })
    }
}

fn check_blocks(range: PfnRange) -> Result<(), MapError> {
    let block = 1 << PAGEBLOCK_ORDER;
    let whole = range.start().is_aligned(block) && range.len() % block == 0;
    if whole && !range.is_empty() {
        Ok(())
    } else {
        Err(MapError::Blocks(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmakit_addr::Pfn;

    fn region(start: u64, len: u64, node: u16) -> Region {
        Region {
            range: PfnRange::new(Pfn::new(start), len).unwrap(),
            node: NodeId::new(node),
            kind: MemoryKind::Usable,
        }
    }

    #[test]
    fn regions_come_in_any_order_but_never_overlap() {
        let mut map = MemoryMap::new(2);
        map.add(region(100, 50, 1)).unwrap();
        map.add(region(0, 50, 0)).unwrap();
        map.add(region(50, 50, 0)).unwrap();
        for (start, len) in [(149, 1), (99, 2), (0, 200), (10, 1)] {
            let refused = map.add(region(start, len, 0));
            assert!(matches!(refused, Err(MapError::Overlap { .. })), "{start}");
        }
        assert!(matches!(
            map.add(region(500, 1, 2)),
            Err(MapError::Node { .. })
        ));
        assert!(matches!(
            map.add(region(u64::MAX - 1, 1, 0)),
            Err(MapError::Range(_))
        ));
        let starts: Vec<u64> = map
            .regions()
            .iter()
            .map(|r| r.range.start().raw())
            .collect();
        assert_eq!(starts, [0, 50, 100]);
    }

    #[test]
    fn what_somebody_holds_is_reserved_and_only_that() {
        let mut map = MemoryMap::new(2);
        map.add(region(0x000, 0x400, 0)).unwrap();
        map.add(region(0x400, 0x400, 1)).unwrap();
        let range = |start, len| PfnRange::new(Pfn::new(start), len).unwrap();
        // In the middle, over two nodes and a hole, twice, and nowhere.
        for (start, len) in [(0x10, 1), (0x3ff, 2), (0x7f0, 0x100), (0x10, 1), (0x900, 1)] {
            map.exclude(range(start, len)).unwrap();
        }
        let kinds: Vec<(u64, u64, MemoryKind, usize)> = map
            .regions()
            .iter()
            .map(|r| (r.range.start().raw(), r.range.len(), r.kind, r.node.index()))
            .collect();
        let (usable, reserved) = (MemoryKind::Usable, MemoryKind::Reserved);
        assert_eq!(
            kinds,
            [
                (0x000, 0x10, usable, 0),
                (0x010, 1, reserved, 0),
                (0x011, 0x3ee, usable, 0),
                (0x3ff, 1, reserved, 0),
                (0x400, 1, reserved, 1),
                (0x401, 0x3ef, usable, 1),
                (0x7f0, 0x10, reserved, 1),
            ]
        );
        map.add(region(0x800, 0x200, 1)).unwrap();
        map.set_aside(range(0x800, 0x200)).unwrap();
        let set_aside = range(0x9ff, 1);
        let refused = map.exclude(set_aside);
        assert_eq!(refused, Err(MapError::NotUsable(set_aside)));
    }

    #[test]
    fn what_is_set_aside_leaves_the_rest_of_its_regions() {
        let mut map = MemoryMap::new(2);
        map.add(region(0x200, 0x400, 0)).unwrap();
        map.add(region(0x600, 0x600, 0)).unwrap();
        map.add(region(0xc00, 0x400, 1)).unwrap();
        let range = |start, len| PfnRange::new(Pfn::new(start), len).unwrap();
        for (start, len) in [(0xa00, 0x400), (0, 0x400), (0x400, 0x2000)] {
            let refused = map.set_aside(range(start, len));
            assert_eq!(refused, Err(MapError::NotUsable(range(start, len))));
        }
        let skewed = range(0x500, 0x200);
        assert_eq!(map.set_aside(skewed), Err(MapError::Blocks(skewed)));
        map.set_aside(range(0x400, 0x400)).unwrap();
        let twice = map.set_aside(range(0x600, 0x200));
        assert!(matches!(twice, Err(MapError::NotUsable(_))));
        let kinds: Vec<(u64, u64, MemoryKind)> = map
            .regions()
            .iter()
            .map(|r| (r.range.start().raw(), r.range.len(), r.kind))
            .collect();
        let usable = MemoryKind::Usable;
        assert_eq!(
            kinds,
            [
                (0x200, 0x200, usable),
                (0x400, 0x400, MemoryKind::Contiguous),
                (0x800, 0x400, usable),
                (0xc00, 0x400, usable)
            ]
        );
    }

    #[test]
    fn nearer_nodes_come_first_and_ties_go_to_the_lower_number() {
        let mut map = MemoryMap::new(4);
        let node = NodeId::new;
        map.set_distance(node(2), node(3), 12).unwrap();
        map.set_distance(node(2), node(0), 30).unwrap();
        assert_eq!(map.by_distance(2), [2, 3, 1, 0]);
        assert_eq!(map.by_distance(1), [1, 0, 2, 3]);
        assert!(map.set_distance(node(1), node(1), 11).is_err());
        assert!(map.set_distance(node(1), node(2), 9).is_err());
    }
}
