//! On-demand paging: a device that faults its pages in, on memory that moves under it.

use std::sync::{Mutex, MutexGuard};

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, PfnRange, PhysRange};
use dmakit::dma::{Debt, PageWindow};
use dmakit::phys::{
    Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration, MigrationCause,
    MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
};
use dmakit::platform::Segment;
use dmakit_sim::{Machine, Rng, Transfer};

use crate::rig::{Mutant, Rig, Strict, TestDevice};

const PAGE: u64 = 4096;
const PAGES: usize = 16;
/// Places of eight bytes that the device writes to, four on each page.
const SLOTS: usize = PAGES * 4;
const RAM_BYTES: u64 = 4 << 20;
/// What whoever gets a page that was given away writes to it.
const OTHERS: u8 = 0xee;

pub type Allocator = PageAllocator<Machine, Vec<Frame>>;

/// A page allocator on `ram`.
pub fn allocator(ram: &Segment) -> Allocator {
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: ram.range().frames(),
        node: dmakit::addr::NodeId::new(0),
        kind: MemoryKind::Usable,
    })
    .unwrap();
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    Allocator::new(&map, &[], table).unwrap()
}

/// Where frames are in `ram`.
pub fn part(ram: &Segment, frames: PfnRange) -> PhysRange {
    let start = frames.start().phys().unwrap();
    let part = PhysRange::new(start, frames.len() * PAGE).unwrap();
    assert!(ram.range().contains_range(&part));
    part
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// A page is copied once hardware has forgotten it.
    Right,
    /// A page is copied as soon as it is unlinked.
    NoSync,
}

/// Memory that a device sees through a window, and its owner: links what the device faults on,
/// unlinks what is to move.
struct Mirror<'a> {
    rig: &'a Rig,
    device: &'a TestDevice<'a, Strict<'a>>,
    ram: Segment,
    order: Order,
    state: Mutex<State>,
}

struct State {
    window: PageWindow<Bidirectional>,
    frames: Vec<Frames>,
    linked: [bool; PAGES],
    /// The page that is on its way: who faults on it waits.
    moving: Option<usize>,
    owed: Vec<Debt<()>>,
    rng: Rng,
    flying: Vec<Option<(u64, Transfer)>>,
    landed: [u64; SLOTS],
    next: u64,
    faults: u64,
}

impl State {
    fn new(window: PageWindow<Bidirectional>, frames: Vec<Frames>, seed: u64) -> Self {
        Self {
            window,
            frames,
            linked: [false; PAGES],
            moving: None,
            owed: Vec::new(),
            rng: Rng::new(seed),
            flying: (0..SLOTS).map(|_| None).collect(),
            landed: [0; SLOTS],
            next: 0,
            faults: 0,
        }
    }
}

fn offset(slot: usize) -> u64 {
    slot as u64 * (PAGE / 4)
}

impl Mirror<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn begin(&self, state: &mut State, slot: usize, number: u64) {
        let at: DmaAddr = state.window.dma_addr(offset(slot)).unwrap();
        let transfer = self.rig.sim.start_write(at, &number.to_le_bytes());
        state.flying[slot] = Some((number, transfer));
    }

    /// The device writes for a while.
    fn run(&self, state: &mut State, steps: u32) {
        for _ in 0..steps {
            let slot = state.rng.below(SLOTS as u64) as usize;
            self.step(state, slot);
            self.rig.machine.disturb();
        }
    }

    fn step(&self, state: &mut State, slot: usize) {
        let Some((number, transfer)) = state.flying[slot].take() else {
            state.next += 1;
            return self.begin(state, slot, state.next);
        };
        match self.rig.sim.complete(transfer) {
            Ok(_) => state.landed[slot] = number,
            Err(_) => {
                state.faults += 1;
                self.page_in(state, slot / 4);
                self.begin(state, slot, number);
            }
        }
    }

    /// What a fault asks for.
    fn page_in(&self, state: &mut State, page: usize) {
        if state.linked[page] || state.moving == Some(page) {
            return;
        }
        let at = page as u64 * PAGE;
        let frame = part(&self.ram, state.frames[page].range());
        let window = &mut state.window;
        self.device.link_page(window, at, frame).unwrap();
        self.device.announce_pages(window, at, PAGE).unwrap();
        state.linked[page] = true;
    }

    /// Takes a page from the device.
    fn page_out(&self, state: &mut State, page: usize) {
        if !std::mem::take(&mut state.linked[page]) {
            return;
        }
        let at = page as u64 * PAGE;
        let unlinked = self
            .device
            .unlink_pages(&mut state.window, at, PAGE, ())
            .unwrap();
        state.owed.push(unlinked);
        self.run(state, 1);
        if self.order == Order::Right {
            self.pay(state);
        }
    }

    fn pay(&self, state: &mut State) {
        let proof = self.device.sync().unwrap();
        for debt in state.owed.drain(..) {
            self.device.redeem(debt, &proof).unwrap();
        }
    }

    fn bytes(&self, run: PhysRange) -> Vec<u8> {
        let mut bytes = vec![0; run.len() as usize];
        let at = run.start().raw() - self.ram.range().start().raw();
        let window = self.ram.window();
        window.slice(at, run.len()).unwrap().read(&mut bytes);
        bytes
    }

    fn write(&self, run: PhysRange, bytes: &[u8]) {
        let at = run.start().raw() - self.ram.range().start().raw();
        let window = self.ram.window();
        window.slice(at, run.len()).unwrap().write(bytes);
    }

    /// Lets everything land, and counts the slots whose last number is not there.
    fn lost(&self, state: &mut State) -> usize {
        for slot in 0..SLOTS {
            while state.flying[slot].is_some() {
                self.step(state, slot);
            }
        }
        let is_there = |slot: &usize| {
            let page = self.bytes(part(&self.ram, state.frames[slot / 4].range()));
            let at = offset(slot % 4) as usize;
            page[at..at + 8] == state.landed[*slot].to_le_bytes()
        };
        (0..SLOTS).filter(|slot| !is_there(slot)).count()
    }
}

impl Migrate for Mirror<'_> {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let state = &mut *self.lock();
        let is_it = |frames: &Frames| frames.range() == migration.from;
        let Some(page) = state.frames.iter().position(is_it) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        state.moving = Some(page);
        self.page_out(state, page);
        let (from, target) = [migration.from, to.range()]
            .map(|frames| part(&self.ram, frames))
            .into();
        for at in (0..PAGE).step_by(1024) {
            let chunk = self.bytes(from.slice(at, 1024).unwrap());
            self.write(target.slice(at, 1024).unwrap(), &chunk);
            self.run(state, 1);
        }
        let old = std::mem::replace(&mut state.frames[page], to);
        state.moving = None;
        self.write(from, &[OTHERS; PAGE as usize]);
        Ok(old)
    }
}

/// What came of many migrations under a device that pages.
#[derive(Default, Debug)]
struct Outcome {
    /// Writes that landed nowhere that counts.
    lost: usize,
    /// Pages of others that the device wrote to.
    trampled: usize,
    faults: u64,
}

fn page(seed: u64, order: Order, mutant: Mutant, outcome: &mut Outcome) {
    let rig = Rig::coherent(seed);
    let domain = rig.broken_domain(1 << 40, mutant);
    let device = rig.device(rig.info(), &domain);
    let ram = rig.segment(RAM_BYTES);
    ram.window().fill(0);
    let allocator = allocator(&ram);
    let request = FrameRequest::movable(1, MoverId::new(0));
    let frames = (0..PAGES).map(|_| allocator.allocate(&request).unwrap());
    let frames = frames.collect();
    let window = device
        .open_window::<Bidirectional>(PAGES as u64 * PAGE, 1, Attributes::NONE)
        .unwrap();
    let mirror = Mirror {
        rig: &rig,
        device: &device,
        ram,
        order,
        state: Mutex::new(State::new(window, frames, seed)),
    };
    let memory = MovableMemory::new(rig.machine.clone(), allocator, &mirror);
    let mut rng = Rng::new(seed);
    mirror.run(&mut mirror.lock(), 48);
    for _ in 0..12 {
        let moved = mirror.lock().frames[rng.below(PAGES as u64) as usize].range();
        let cause = MigrationCause::Compaction;
        memory.migrate(moved.start(), cause, None).unwrap();
        mirror.run(&mut mirror.lock(), 48);
        outcome.lost += mirror.lost(&mut mirror.lock());
        let old = mirror.bytes(part(&mirror.ram, moved));
        outcome.trampled += usize::from(old.iter().any(|&byte| byte != OTHERS));
    }
    let mut state = mirror.lock();
    outcome.faults += state.faults;
    for page in 0..PAGES {
        if std::mem::take(&mut state.linked[page]) {
            let at = page as u64 * PAGE;
            let debt = device.unlink_pages(&mut state.window, at, PAGE, ());
            state.owed.push(debt.unwrap());
        }
    }
    mirror.pay(&mut state);
    for frames in state.frames.drain(..) {
        memory.allocator().free(frames).unwrap();
    }
    drop(state);
    drop(memory);
    let state = mirror.state.into_inner().unwrap();
    device.close_window(state.window).unwrap();
    assert_eq!(device.remove().unwrap().live(), 0);
    if mutant == Mutant::Nothing {
        rig.close(domain);
    }
}

#[test]
fn a_late_write_faults_or_lands_before_its_page_is_given_away() {
    let mut outcome = Outcome::default();
    for seed in 0..16 {
        page(seed, Order::Right, Mutant::Nothing, &mut outcome);
        assert_eq!((outcome.lost, outcome.trampled), (0, 0), "seed {seed}");
    }
    println!("{outcome:?}");
    assert!(
        outcome.faults > 16 * PAGES as u64,
        "pages came back on faults"
    );
}

#[test]
fn a_page_copied_before_hardware_forgot_it_loses_writes() {
    let mut outcome = Outcome::default();
    (0..16).for_each(|seed| page(seed, Order::NoSync, Mutant::Nothing, &mut outcome));
    println!("{outcome:?}");
    assert!(outcome.lost > 0 && outcome.trampled > 0);
}

#[test]
fn the_right_order_over_a_broken_domain_loses_writes() {
    for mutant in [
        Mutant::NoSync,
        Mutant::EarlyRedemption,
        Mutant::NoInvalidation,
    ] {
        let mut outcome = Outcome::default();
        (0..16).for_each(|seed| page(seed, Order::Right, mutant, &mut outcome));
        println!("{mutant:?}: {outcome:?}");
        assert!(outcome.lost + outcome.trampled > 0, "{mutant:?}");
    }
}

/// The syncs of a device on a lazy domain say nothing of its hardware, so unlinking waits for that
/// itself.
#[test]
fn pages_of_a_lazy_domain_are_out_of_reach_when_unlinking_returns() {
    let rig = Rig::coherent(7);
    let lazy = rig.lazy();
    let device = rig.device(rig.info(), &lazy);
    let page = rig.segment(PAGE);
    let mut window = device
        .open_window::<Bidirectional>(2 * PAGE, 1, Attributes::NONE)
        .unwrap();
    let linked = device.link_page(&mut window, PAGE, page.range()).unwrap();
    device.announce_pages(&mut window, PAGE, PAGE).unwrap();
    let mut seen = [0; 1];
    rig.sim.read(linked.addr, &mut seen).unwrap();
    let debt = device.unlink_pages(&mut window, PAGE, PAGE, page).unwrap();
    rig.machine.disturb();
    assert!(rig.sim.read(linked.addr, &mut seen).is_err(), "a stale hit");
    let page = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(page.len(), PAGE);
    device.close_window(window).unwrap();
    assert_eq!((device.stats().live(), device.stats().lost), (0, 0));
    rig.close_lazy(lazy);
}
