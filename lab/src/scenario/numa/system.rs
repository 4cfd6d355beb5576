//! A machine that has booted: areas set aside, a page allocator over the rest, programs.

use std::sync::Arc;

use dmakit_addr::NodeId;
use dmakit_cma::{AreaParams, Outcome, Reserved, reserve};
use dmakit_phys::{Frame, MovableMemory, PageAllocator};
use dmakit_platform::Segment;
use dmakit_sim::{Machine, Mover, Programs};

use super::board;
use crate::scenario::page::Page;

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

impl<D> System<D> {
    /// Boots the machine of a page. Devices reach the pages of programs as `devices` says.
    pub fn boot(
        page: &Page,
        params: &AreaParams,
        seed: u64,
        devices: impl FnOnce(&Machine, &Programs) -> D,
    ) -> anyhow::Result<Self>
    where
        D: dmakit_phys::DeviceMappings + Sync,
    {
        let machine = board::machine(page, seed)?;
        let mut map = board::map(&machine)?;
        let limits = [board::low_limit()];
        let requests = params.requests(&map, board::low_limit());
        let carved = reserve(&mut map, &limits, requests).into_iter();
        let reserved = carved.filter_map(|one| match one.outcome {
            Outcome::Reserved(reserved) => Some(reserved),
            _ => None,
        });
        let reserved = reserved.collect();
        type Allocator = PageAllocator<Machine, Vec<Frame>>;
        let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
        let allocator = Allocator::new(&map, &limits, table)?;
        let programs = Programs::new(&machine, seed);
        let devices = devices(&machine, &programs);
        let mover = Mover::with_devices(&machine, &programs, devices);
        let nodes = (0..machine.nodes() as u16).map(NodeId::new);
        let ram = nodes.flat_map(|node| machine.take_ram(node)).collect();
        let memory = MovableMemory::new(machine.clone(), allocator, mover);
        Ok(Self {
            memory: Arc::new(memory),
            machine,
            ram,
            reserved,
        })
    }
}
