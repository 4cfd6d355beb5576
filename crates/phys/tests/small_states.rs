//! Every state of a small memory: a claim fails only where it has to.
//!
//! Memory is a few cells of 128 frames, each one allocation or free. All states of an area of five
//! cells are built, with room for none, one or two cells beside it, and windows of each size are
//! claimed: what should come of it is written down in a few lines.

#[allow(dead_code)]
mod movers;

use std::sync::{Arc, Weak};
use std::time::Duration;

use dmakit_phys::{
    Account, ClaimLimits, FrameRequest, Frames, LeaseHolder, LeaseTerms, MigrateType,
    MigrationCause, MoverId, Obstacle, Pin, PinId, PinOwner, WindowIn, WindowRequest,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build, frames};

const CELL: u64 = 128;
const CELLS: usize = 5;
const BESIDE: u64 = 1 << 12;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Free,
    Movable,
    /// Its holder lets go when asked.
    Leased,
    /// Its holder does not, and nobody can revoke it.
    Kept,
    Pinned,
    Unmovable,
}

const STATES: [Cell; 6] = [
    Cell::Free,
    Cell::Movable,
    Cell::Leased,
    Cell::Kept,
    Cell::Pinned,
    Cell::Unmovable,
];

struct Holder(Option<Weak<Memory>>);

impl LeaseHolder for Holder {
    fn recall(&self, lease: PinId, _until: Instant) {
        if let Some(memory) = self.0.as_ref().and_then(Weak::upgrade) {
            memory.end_lease(lease).unwrap();
        }
    }
}

struct World {
    owners: Owners,
    memory: Arc<Memory>,
    taken: Vec<Frames>,
    pins: Vec<Pin>,
}

fn limits() -> ClaimLimits {
    ClaimLimits {
        deadline: Instant::from_nanos(1 << 40),
        tries: 2,
    }
}

impl World {
    fn new(cells: &[Cell], room: u64, memory: WindowIn) -> Self {
        let owners = Owners::new();
        let beside = (BESIDE, 2 * CELL, 1);
        let built = build(&[(0, CELLS as u64 * CELL, 0), beside], owners.clone());
        if memory == WindowIn::Areas {
            let area = frames(0, 512);
            assert!(
                built
                    .allocator()
                    .set_migrate_type(area, MigrateType::Contiguous)
            );
        }
        let mut world = Self {
            owners,
            memory: Arc::new(built),
            taken: Vec::new(),
            pins: Vec::new(),
        };
        world.fill(cells, room);
        world
    }

    fn fill(&mut self, cells: &[Cell], room: u64) {
        let request = FrameRequest::movable(CELL, MoverId::new(0));
        let mut inside: Vec<Option<Frames>> = (0..CELLS).map(|_| None).collect();
        let mut beside = Vec::new();
        while let Ok(frames) = self.memory.allocator().allocate(&request) {
            let index = frames.range().start().raw() / CELL;
            match inside.get_mut(index as usize) {
                Some(place) => *place = Some(frames),
                None => beside.push(frames),
            }
        }
        for frames in beside.drain(..room as usize) {
            self.memory.allocator().free(frames).unwrap();
        }
        self.taken.append(&mut beside);
        let account = Arc::new(Account::new(u64::MAX));
        let owner = self.memory.add_pin_owner(account).unwrap();
        // What is free is freed last, so that claims of unmovable cells take their own frames.
        for wanted in [false, true] {
            for (state, frames) in cells.iter().zip(&mut inside) {
                if (*state == Cell::Free) == wanted {
                    self.make(owner, *state, frames.take().unwrap());
                }
            }
        }
    }

    fn make(&mut self, owner: PinOwner, state: Cell, frames: Frames) {
        let range = frames.range();
        if matches!(state, Cell::Free | Cell::Unmovable) {
            self.memory.allocator().free(frames).unwrap();
        } else {
            self.owners.keep(frames);
        }
        let held = [range];
        match state {
            Cell::Free | Cell::Movable => {}
            Cell::Unmovable => self
                .taken
                .push(self.memory.claim(range, &limits()).unwrap()),
            Cell::Pinned => {
                let pin = self.memory.pin_short_term(owner, &held, Instant::default());
                self.pins.push(pin.unwrap());
            }
            Cell::Leased | Cell::Kept => {
                let memory = (state == Cell::Leased).then(|| Arc::downgrade(&self.memory));
                let terms = LeaseTerms {
                    holder: Arc::new(Holder(memory)),
                    hold_max: Duration::from_micros(10),
                    revoker: None,
                };
                self.pins
                    .push(self.memory.lease(owner, &held, terms).unwrap());
            }
        }
    }

    fn lists(&self) -> Vec<u64> {
        use MigrateType::{Contiguous, Isolated, Movable, Unmovable};
        let types = [Unmovable, Movable, Contiguous, Isolated];
        let orders = |of| (0..=10).map(move |order| (order, of));
        let all = types.into_iter().flat_map(orders);
        all.map(|(order, of)| self.memory.allocator().free_blocks(order, of))
            .collect()
    }

    fn finish(self, memory: WindowIn) {
        for pin in self.pins {
            // Leases were ended by claims, some of them.
            let _ = self.memory.unpin(pin);
        }
        self.owners.check_all();
        self.owners.free_all(&self.memory);
        for frames in self.taken {
            self.memory.allocator().free(frames).unwrap();
        }
        let counted = |order, of| self.memory.allocator().free_blocks(order, of);
        let area = counted(9, MigrateType::Contiguous);
        assert_eq!(area, u64::from(memory == WindowIn::Areas));
        assert_eq!(counted(9, MigrateType::Movable), 1 - area);
    }
}

fn free_cells(cells: &[Cell]) -> u64 {
    cells.iter().filter(|cell| **cell == Cell::Free).count() as u64
}

/// Whether a claim of `count` cells has to succeed: some aligned window can be cleared, and there
/// are as many free cells outside of it as have to leave.
fn has_to_succeed(cells: &[Cell], count: usize, room: u64, memory: WindowIn) -> bool {
    // Only the first page block is an area, the rest of memory is none.
    let (low, high) = match memory {
        WindowIn::Areas => (0, 4),
        WindowIn::OtherMemory => (0, CELLS),
    };
    let align = if count == 4 { 4 } else { 1 };
    let free = free_cells(cells) + room;
    (low..high).step_by(align).any(|start| {
        let Some(window) = cells[..high].get(start..start + count) else {
            return false;
        };
        let clear = |cell: &Cell| matches!(cell, Cell::Free | Cell::Movable | Cell::Leased);
        window.iter().all(clear) && free >= count as u64
    })
}

fn check(cells: &[Cell], count: usize, room: u64, memory: WindowIn) {
    let mut world = World::new(cells, room, memory);
    let request = WindowRequest {
        within: &[frames(0, CELLS as u64 * CELL)],
        frames: count as u64 * CELL,
        align_order: if count == 4 { 9 } else { 7 },
        excluded: &[],
        memory,
    };
    let lists = world.lists();
    let expected = has_to_succeed(cells, count, room, memory);
    let what = (cells, count, room, memory);
    match world.memory.claim_window(&request, &limits()) {
        Ok(frames) => {
            assert!(expected, "{what:?} gave {frames:?}");
            world.taken.push(frames);
        }
        Err(error) => {
            assert!(!expected, "{what:?}: {error}");
            if world.memory.migrations(MigrationCause::Claim).moved == 0 {
                assert_eq!(world.lists(), lists, "{what:?}: {error}");
            }
            assert!(!error.blocking.is_empty(), "{what:?}: {error}");
            for blocking in &error.blocking {
                let state = cells.get((blocking.frames.start().raw() / CELL) as usize);
                let named = blocking.holder.is_some();
                match blocking.why {
                    Obstacle::Pinned => assert_eq!((state, named), (Some(&Cell::Pinned), true)),
                    Obstacle::Leased => assert_eq!((state, named), (Some(&Cell::Kept), true)),
                    Obstacle::Unmovable => assert_eq!(state, Some(&Cell::Unmovable)),
                    Obstacle::OtherMemory => assert_eq!(memory, WindowIn::Areas),
                    Obstacle::NoRoom => assert!(free_cells(cells) + room < count as u64),
                    why => panic!("{what:?}: {why:?}"),
                }
            }
        }
    }
    assert_eq!(world.memory.allocator().first_miscounted(), None);
    world.finish(memory);
}

#[test]
fn a_claim_fails_only_where_something_is_named_that_is_in_the_way() {
    let states = STATES.len();
    for number in 0..states.pow(CELLS as u32) {
        let digit = |index: usize| STATES[number / states.pow(index as u32) % states];
        let cells: Vec<Cell> = (0..CELLS).map(digit).collect();
        // Each state of the cells meets each size of window, room and kind of memory in turn.
        for count in 1..=4 {
            let room = (number / states + count) as u64 % 3;
            let memory = [WindowIn::Areas, WindowIn::OtherMemory][(number + count) % 2];
            check(&cells, count, room, memory);
        }
    }
}
