//! A simulated machine with nodes.

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES, PfnRange, PhysAddr, PhysRange};
use dmakit_phys::{MemoryKind, MemoryMap, Region};
use dmakit_sim::{Machine, MachineConfig};

use crate::scenario::page::Page;

/// Where the RAM of node 0 begins: what lies below 4 GiB of it is for devices of few address bits.
const LOW: u64 = 0x4000_0000;
const LOW_MAX: u64 = (1 << 32) - LOW;
/// Each node has so many addresses for itself.
const STRIDE: u64 = 1 << 34;

/// The highest byte that devices of 32 address bits reach, and the limit of a zone of its own.
pub fn low_limit() -> DmaMask {
    DmaMask::up_to((1 << 32) - 1)
}

/// The machine that a page describes.
pub fn machine(page: &Page, seed: u64) -> anyhow::Result<Machine> {
    let mut config = MachineConfig::new(seed);
    for (index, &bytes) in page.nodes.iter().enumerate() {
        config = config.node(&ram(index as u64, bytes)?);
    }
    let nodes = || (0..page.nodes.len() as u16).map(NodeId::new);
    for (from, row) in nodes().zip(&page.distances) {
        for (to, &distance) in nodes().zip(row) {
            config = config.distance(from, to, distance);
        }
    }
    Ok(config.build()?)
}

/// Where the RAM of a node lies: half of node 0's below 4 GiB, the rest above.
fn ram(node: u64, bytes: u64) -> anyhow::Result<Vec<PhysRange>> {
    let high = (node + 1) * STRIDE;
    let low = match node {
        0 => (bytes / 2 / PAGE_BYTES * PAGE_BYTES).min(LOW_MAX),
        _ => 0,
    };
    let parts = [(LOW, low), (high, bytes - low)];
    let parts = parts.into_iter().filter(|(_, len)| *len > 0);
    let ranges = parts.map(|(start, len)| PhysRange::new(PhysAddr::new(start), len));
    Ok(ranges.collect::<Result<_, _>>()?)
}

/// The memory map of a machine; `kept`, the end of a range of RAM, is somebody else's.
pub fn map(machine: &Machine, kept: Option<PhysRange>) -> anyhow::Result<MemoryMap> {
    let whole = machine.memory_map()?;
    let Some(kept) = kept.map(|kept| kept.frames()) else {
        return Ok(whole);
    };
    let mut map = MemoryMap::new(machine.nodes() as u16);
    for region in whole.regions() {
        let has_it = region.range.contains_range(&kept);
        let low = PfnRange::between(region.range.start(), kept.start());
        let range = low.filter(|_| has_it).unwrap_or(region.range);
        map.add(Region { range, ..*region })?;
        if has_it {
            map.add(Region {
                range: kept,
                node: region.node,
                kind: MemoryKind::Reserved,
            })?;
        }
    }
    let nodes = || (0..machine.nodes() as u16).map(NodeId::new);
    for (from, to) in nodes().flat_map(|from| nodes().map(move |to| (from, to))) {
        map.set_distance(from, to, machine.distance(from, to))?;
    }
    Ok(map)
}
