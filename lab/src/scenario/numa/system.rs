//! A machine that has booted: areas set aside, a page allocator over the rest, programs.

use std::sync::Arc;

use dmakit_addr::{NodeId, PAGE_BYTES, PfnRange};
use dmakit_cma::{AreaId, AreaParams, Areas, Outcome, Purpose, Reserved, reserve};
use dmakit_phys::{DeviceMappings, Frame, MovableMemory, PageAllocator};
use dmakit_platform::Segment;
use dmakit_sim::{Machine, Mover, NoDevices, Programs};

use super::board;
use crate::scenario::page::{Page, Size};

pub type Movable<D> = MovableMemory<Machine, Vec<Frame>, Mover<D>>;

/// Segments that may be out at once.
pub const SEGMENTS: usize = 4096;

/// The parts, before the areas are active.
pub struct System<D> {
    pub machine: Machine,
    pub memory: Arc<Movable<D>>,
    pub ram: Vec<Segment>,
    pub reserved: Vec<Reserved>,
}

/// The area that `cma=` asks for.
pub fn default_area<D: DeviceMappings + Sync>(
    areas: &Areas<'_, Machine, Vec<Frame>, Mover<D>>,
) -> anyhow::Result<AreaId> {
    let area = areas.find(Purpose::Default);
    area.ok_or_else(|| anyhow::anyhow!("params: there is no area of cma="))
}

/// A claim that an area of these ranges can serve when nobody else has any of it.
pub fn fits(what: &str, claim: Size, ranges: &[PfnRange]) -> anyhow::Result<()> {
    let longest = ranges.iter().map(|range| range.len() * PAGE_BYTES).max();
    let longest = Size(longest.unwrap_or(0));
    match claim.0 <= longest.0 {
        true => Ok(()),
        false => anyhow::bail!("{what} is {claim}, more than the area has: {longest}"),
    }
}

impl System<NoDevices> {
    /// Boots the machine of a page. No device reaches the pages of programs.
    pub fn boot(page: &Page, params: &AreaParams, seed: u64) -> anyhow::Result<Self> {
        Self::boot_with_tables(page, params, seed, 0, |_, _| Ok(NoDevices))
    }
}

impl<D: DeviceMappings + Sync> System<D> {
    /// Boots the machine of a page, with so many bytes of node 0 kept for an IOMMU's queues and
    /// tables. Devices reach the pages of programs as `devices` says.
    pub fn boot_with_tables(
        page: &Page,
        params: &AreaParams,
        seed: u64,
        table_bytes: u64,
        devices: impl FnOnce(&Machine, Segment) -> anyhow::Result<D>,
    ) -> anyhow::Result<Self> {
        let machine = board::machine(page, seed)?;
        let nodes = (0..machine.nodes() as u16).map(NodeId::new);
        let mut ram: Vec<Segment> = nodes.flat_map(|node| machine.take_ram(node)).collect();
        // The end of node 0's lowest RAM: below 4 GiB.
        let first = ram.swap_remove(0);
        let keep = first.len().saturating_sub(table_bytes);
        let (rest, tables) = first
            .split_at(keep)
            .map_err(|_| anyhow::anyhow!("too little memory on node 0"))?;
        ram.push(rest);
        let kept = (!tables.is_empty()).then(|| tables.range());
        let mut map = board::map(&machine, kept)?;
        let limits = [board::low_limit()];
        let requests = params.requests(&map, board::low_limit());
        let mut reserved = Vec::new();
        for one in reserve(&mut map, &limits, requests) {
            match one.outcome {
                Outcome::Reserved(area) => reserved.push(area),
                Outcome::Failed(reason) if !page.does_without(reason) => {
                    anyhow::bail!("params: {one}")
                }
                _ => {}
            }
        }
        type Allocator = PageAllocator<Machine, Vec<Frame>>;
        let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
        let allocator = Allocator::new(&map, &limits, table)?;
        let programs = Programs::new(&machine, seed);
        let devices = devices(&machine, tables)?;
        let mover = Mover::with_devices(&machine, &programs, devices);
        let memory = MovableMemory::new(machine.clone(), allocator, mover);
        Ok(Self {
            memory: Arc::new(memory),
            machine,
            ram,
            reserved,
        })
    }
}
