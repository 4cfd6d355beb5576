//! Every state of a small area: a claim succeeds exactly where it can, and moves no more than it
//! must.

mod support;

use std::sync::Arc;
use std::time::Duration;

use dmakit_addr::PfnRange;
use dmakit_cma::{AreaRequest, NoClaim, Place, Purpose};
use dmakit_phys::{
    Account, Blocking, Frames, LeaseHolder, LeaseTerms, Obstacle, Pin, PinId, Refusal,
};
use dmakit_platform::Instant;
use support::{Memory, PATIENT, TestAreas, activate, claim, frames, map, memory, reserved};

/// An area of one page block in four cells, and a page block beside it.
const CELLS: usize = 4;
const CELL: u64 = 512 / CELLS as u64;
const AREA: u64 = 0x1200;
const BESIDE: u64 = 0x1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Free,
    Movable,
    /// Movable, but the mover says no.
    Refusing,
    /// Held for one transfer.
    Pinned,
    /// Held by somebody who lets go when asked.
    Leased,
    Claimed,
}

const KINDS: [Cell; 6] = [
    Cell::Free,
    Cell::Movable,
    Cell::Refusing,
    Cell::Pinned,
    Cell::Leased,
    Cell::Claimed,
];

impl Cell {
    fn can_be_cleared(self) -> bool {
        matches!(self, Self::Free | Self::Movable | Self::Leased)
    }
}

fn cell(index: usize) -> PfnRange {
    frames(AREA + index as u64 * CELL, CELL)
}

/// Lets go at once.
struct Obedient(&'static Memory);

impl LeaseHolder for Obedient {
    fn recall(&self, lease: PinId, _until: Instant) {
        self.0.end_lease(lease).unwrap();
    }
}

struct Machine {
    memory: &'static Memory,
    areas: TestAreas<'static>,
    claimed: Vec<Frames>,
    pins: Vec<Pin>,
}

impl Machine {
    fn new(area: &[Cell], free_beside: usize) -> Self {
        let mut map = map(&[(BESIDE, 1024, 0)]);
        let request = AreaRequest {
            place: Place::At(frames(AREA, 0).start()),
            ..AreaRequest::new(Purpose::Default, 512 << 12)
        };
        let set = reserved(&mut map, &[request]);
        // Leases know their memory, so it outlives everything; there are few states.
        let memory: &'static Memory = Box::leak(Box::new(memory(&map)));
        let mut machine = Self {
            memory,
            areas: activate(memory, set),
            claimed: Vec::new(),
            pins: Vec::new(),
        };
        machine.fill(area, free_beside);
        machine
    }

    fn fill(&mut self, area: &[Cell], free_beside: usize) {
        support::fill(self.memory, CELL);
        let owners = self.memory.movers();
        assert_eq!(owners.ranges().len(), 2 * CELLS);
        let id = self.areas.find(Purpose::Default).unwrap();
        // One by one, so that each claim has but one window.
        let claimed = (0..CELLS).filter(|at| area[*at] == Cell::Claimed);
        for at in claimed {
            let frames = owners.take(cell(at).start()).unwrap();
            self.memory.allocator().free(frames).unwrap();
            let frames = self.areas.claim_free(id, &claim(CELL, 7)).unwrap();
            assert_eq!(frames.range(), cell(at));
            self.claimed.push(frames);
        }
        let account = Arc::new(Account::new(u64::MAX));
        let owner = self.memory.add_pin_owner(account).unwrap();
        for (at, state) in area.iter().enumerate() {
            let range = cell(at);
            let pin = match state {
                Cell::Pinned => {
                    let deadline = Instant::from_nanos(u64::MAX);
                    Some(self.memory.pin_short_term(owner, &[range], deadline))
                }
                Cell::Leased => {
                    let terms = LeaseTerms {
                        holder: Arc::new(Obedient(self.memory)),
                        hold_max: Duration::from_secs(1),
                        revoker: None,
                    };
                    Some(self.memory.lease(owner, &[range], terms))
                }
                Cell::Refusing => {
                    owners.refuse(range.start(), Refusal::Pinned, u32::MAX);
                    None
                }
                Cell::Free => {
                    let frames = owners.take(range.start()).unwrap();
                    self.memory.allocator().free(frames).unwrap();
                    None
                }
                Cell::Movable | Cell::Claimed => None,
            };
            self.pins.extend(pin.map(Result::unwrap));
        }
        for at in 0..free_beside as u64 {
            let frames = owners.take(frames(BESIDE + at * CELL, 1).start()).unwrap();
            self.memory.allocator().free(frames).unwrap();
        }
    }

    /// Everything goes, and nothing is left.
    fn end(self) {
        for pin in self.pins {
            // Leases that were recalled are gone.
            let _ = self.memory.unpin(pin);
        }
        for frames in self.claimed {
            self.areas.release(frames).unwrap();
        }
        self.memory.movers().check_all();
        support::free_if(self.memory, |_| true);
        assert_eq!(self.memory.allocator().free_frames(), 1024);
        let id = self.areas.find(Purpose::Default).unwrap();
        assert_eq!(self.areas.usage(id).free, 512);
    }
}

/// The least number of cells that a claim has to move; `None` where it cannot be served.
fn least(area: &[Cell], free_beside: usize, cells: usize, align: usize) -> Option<u64> {
    let starts = (0..=CELLS.checked_sub(cells)?).step_by(align);
    let free = area.iter().filter(|cell| **cell == Cell::Free).count() + free_beside;
    let moves = starts.filter_map(|start| {
        let window = &area[start..start + cells];
        let inside = window.iter().filter(|cell| **cell == Cell::Free).count();
        let moves = cells - inside;
        let fits = window.iter().all(|cell| cell.can_be_cleared()) && free - inside >= moves;
        fits.then_some(moves as u64)
    });
    moves.min()
}

fn run(area: &[Cell], free_beside: usize, cells: usize, align: usize) {
    let mut machine = Machine::new(area, free_beside);
    let id = machine.areas.find(Purpose::Default).unwrap();
    let order = (align as u64 * CELL).ilog2();
    let wanted = claim(cells as u64 * CELL, order);
    let before = machine.areas.usage(id).free;
    let outcome = machine.areas.claim(id, &wanted, &PATIENT);
    let least = least(area, free_beside, cells, align);
    let what = format!("{area:?}, {free_beside} free beside, {cells} aligned to {align}");
    let refusing = area.contains(&Cell::Refusing);
    match outcome {
        Ok(frames) => {
            let least = least.unwrap_or_else(|| panic!("{what}: served"));
            // Whoever refuses is not known before it is asked.
            let moved = machine.memory.movers().moves();
            assert!(refusing || moved == least * CELL, "{what}: {moved} moved");
            let range = frames.range();
            assert_eq!(range.start().raw() % (align as u64 * CELL), 0);
            let word = machine.memory.movers().write(range);
            machine.memory.movers().check_all();
            machine.memory.movers().check(range, word);
            machine.claimed.push(frames);
        }
        Err(error) => {
            assert_eq!(least, None, "{what}: {error}");
            assert_eq!(machine.areas.usage(id).free, before, "{what}");
            check_named(&error.reason, area, &what);
            machine.memory.movers().check_all();
        }
    }
    machine.end();
}

/// What an error names is in the way.
fn check_named(reason: &NoClaim, area: &[Cell], what: &str) {
    let NoClaim::InTheWay(error) = reason else {
        assert!(matches!(reason, NoClaim::Full(_)), "{what}: {reason:?}");
        return;
    };
    assert!(!error.blocking.is_empty(), "{what}: {error}");
    for Blocking { frames, why, .. } in &error.blocking {
        let at = (0..CELLS).find(|at| cell(*at).overlaps(frames));
        let state = at.map(|at| area[at]);
        let holds = match why {
            Obstacle::Unmovable => state == Some(Cell::Claimed),
            Obstacle::Pinned => state == Some(Cell::Pinned),
            Obstacle::Refused(_) => state == Some(Cell::Refusing),
            // Moved into the way by an earlier try, or there from the start.
            Obstacle::NoRoom => true,
            _ => false,
        };
        assert!(holds, "{what}: {frames} {why:?} of {state:?}");
    }
}

#[test]
fn a_claim_succeeds_exactly_where_it_can_and_moves_no_more_than_it_must() {
    let mut states = 0;
    for number in 0..KINDS.len().pow(CELLS as u32) {
        let mut rest = number;
        let area: Vec<Cell> = (0..CELLS)
            .map(|_| {
                let kind = KINDS[rest % KINDS.len()];
                rest /= KINDS.len();
                kind
            })
            .collect();
        for free_beside in 0..=2 {
            for cells in 1..=CELLS {
                for align in [1, 2, 4] {
                    run(&area, free_beside, cells, align);
                    states += 1;
                }
            }
        }
    }
    assert_eq!(states, 1296 * 3 * 4 * 3);
}
