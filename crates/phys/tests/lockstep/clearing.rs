//! The naive model of clearing: every frame of every window is looked at.

use dmakit_addr::PfnRange;
use dmakit_phys::{MemoryMap, MigrateType, WindowIn, WindowRequest};

/// What keeps an allocation where it is, the strongest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holding {
    Nobody,
    /// Leases that end when they are recalled.
    Leased,
    /// Leases that nobody ends.
    Stubborn,
    Pinned,
}

#[derive(Clone, Copy)]
struct Cell {
    node: usize,
    of: MigrateType,
    allocation: Option<usize>,
}

pub struct View {
    first: u64,
    cells: Vec<Option<Cell>>,
    allocations: Vec<(PfnRange, Holding)>,
}

impl View {
    /// All frames free, each of the type that `type_of` says.
    pub fn new(map: &MemoryMap, type_of: impl Fn(u64) -> MigrateType) -> Self {
        let regions = map.regions();
        let first = regions[0].range.start().raw();
        let end = regions[regions.len() - 1].range.end().raw();
        let mut cells = vec![None; (end - first) as usize];
        for region in regions {
            for frame in region.range.start().raw()..region.range.end().raw() {
                cells[(frame - first) as usize] = Some(Cell {
                    node: region.node.index(),
                    of: type_of(frame),
                    allocation: None,
                });
            }
        }
        Self {
            first,
            cells,
            allocations: Vec::new(),
        }
    }

    pub fn add(&mut self, range: PfnRange, holding: Holding) {
        let index = self.allocations.len();
        self.allocations.push((range, holding));
        for frame in range.start().raw()..range.end().raw() {
            let cell = self.cells[(frame - self.first) as usize].as_mut().unwrap();
            assert_eq!(cell.allocation, None, "frame {frame:#x} has two owners");
            cell.allocation = Some(index);
        }
    }

    pub fn free(&self) -> u64 {
        let cells = self.cells.iter().flatten();
        cells.filter(|cell| cell.allocation.is_none()).count() as u64
    }

    /// What the cheapest window costs: frames that move, and those of them that are leased.
    /// Windows with what is held stronger than `most` will not do.
    pub fn cheapest(&self, request: &WindowRequest<'_>, most: Holding) -> Option<(u64, u64)> {
        let mut best = None;
        for within in request.within {
            let align = 1 << request.align_order;
            let mut start = within.start().raw().next_multiple_of(align);
            while start + request.frames <= within.end().raw() {
                let cost = self.cost(start, request, most);
                best = [best, cost].into_iter().flatten().min();
                start += align;
            }
        }
        best
    }

    fn cost(&self, start: u64, request: &WindowRequest<'_>, most: Holding) -> Option<(u64, u64)> {
        let area = request.memory == WindowIn::Areas;
        let (mut moves, mut leased) = (0, 0);
        let (mut node, mut last) = (None, None);
        for frame in start..start + request.frames {
            let cell = self.cells[(frame - self.first) as usize]?;
            let here = *node.get_or_insert(cell.node);
            if here != cell.node || (cell.of == MigrateType::Contiguous) != area {
                return None;
            }
            let Some(index) = cell.allocation.filter(|index| last != Some(*index)) else {
                continue;
            };
            last = Some(index);
            let (range, holding) = self.allocations[index];
            if holding > most {
                return None;
            }
            moves += range.len();
            if holding > Holding::Nobody {
                leased += range.len();
            }
        }
        Some((moves, leased))
    }
}
