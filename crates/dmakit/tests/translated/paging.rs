//! On-demand paging: a device that faults its pages in, on memory that moves under it.

use std::sync::{Mutex, MutexGuard};

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, PfnRange, PhysRange};
use dmakit::dma::{Expected, PageSlot, PagedWindow, PagingError};
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
enum Handler {
    /// Says what it expects before it asks where the page is.
    Right,
    /// Says so when it has the answer already.
    Late,
}

type Paged = PagedWindow<Bidirectional, Vec<PageSlot>>;

/// Memory that a device sees through a window, and its owner: finds what the device faults on, which
/// takes a while, and moves pages meanwhile.
struct Mirror<'a> {
    rig: &'a Rig,
    device: &'a TestDevice<'a, Strict<'a>>,
    ram: Segment,
    handler: Handler,
    state: Mutex<State>,
}

struct State {
    paged: Paged,
    frames: Vec<Frames>,
    /// Faults that are being answered: where the page was when the handler looked.
    answers: Vec<(Expected, PhysRange)>,
    rng: Rng,
    flying: Vec<Option<(u64, Transfer)>>,
    landed: [u64; SLOTS],
    next: u64,
    faults: u64,
    stale: u64,
}

impl State {
    fn new(paged: Paged, frames: Vec<Frames>, seed: u64) -> Self {
        Self {
            paged,
            frames,
            answers: Vec::new(),
            rng: Rng::new(seed),
            flying: (0..SLOTS).map(|_| None).collect(),
            landed: [0; SLOTS],
            next: 0,
            faults: 0,
            stale: 0,
        }
    }
}

/// Where a slot is in its page.
fn offset(slot: usize) -> u64 {
    (slot % 4) as u64 * (PAGE / 4)
}

impl Mirror<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn begin(&self, state: &mut State, slot: usize, number: u64) {
        let page: DmaAddr = state.paged.dma_addr(slot / 4).unwrap();
        let at = DmaAddr::new(page.raw() + offset(slot));
        assert_eq!(state.paged.page_at(at), Some(slot / 4));
        let transfer = self.rig.sim.start_write(at, &number.to_le_bytes());
        state.flying[slot] = Some((number, transfer));
    }

    /// The device writes for a while, and its faults are answered.
    fn run(&self, state: &mut State, steps: u32) {
        for _ in 0..steps {
            let slot = state.rng.below(SLOTS as u64) as usize;
            self.step(state, slot);
            self.rig.machine.disturb();
            if state.rng.chance(40) {
                self.answer(state);
            }
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
                // While it is withdrawn the device only tries again.
                if let Ok(expected) = state.paged.expect(slot / 4) {
                    let here = part(&self.ram, state.frames[slot / 4].range());
                    state.answers.push((expected, here));
                }
                self.begin(state, slot, number);
            }
        }
    }

    /// Links what the handler of a fault has found.
    fn answer(&self, state: &mut State) {
        if state.answers.is_empty() {
            return;
        }
        let index = state.rng.below(state.answers.len() as u64) as usize;
        let (mut expected, found) = state.answers.swap_remove(index);
        if self.handler == Handler::Late {
            match state.paged.expect(expected.page()) {
                Ok(late) => expected = late,
                Err(_) => return,
            }
        }
        match self.device.page_in(&mut state.paged, expected, found) {
            Ok(_) => {}
            Err(PagingError::Stale { .. } | PagingError::Withdrawn { .. }) => state.stale += 1,
            Err(error) => panic!("{error}"),
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
                self.answer(state);
            }
        }
        // The CPU may look at what is its own again.
        let all = self.device.withdraw_pages(&mut state.paged, 0..PAGES);
        state.paged.restore(all.unwrap());
        let is_there = |slot: &usize| {
            let page = self.bytes(part(&self.ram, state.frames[slot / 4].range()));
            let at = offset(*slot) as usize;
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
        let withdrawn = self.device.withdraw_pages(&mut state.paged, page..page + 1);
        let withdrawn = withdrawn.unwrap();
        let (from, target) = [migration.from, to.range()]
            .map(|frames| part(&self.ram, frames))
            .into();
        for at in (0..PAGE).step_by(1024) {
            let chunk = self.bytes(from.slice(at, 1024).unwrap());
            self.write(target.slice(at, 1024).unwrap(), &chunk);
            self.run(state, 1);
        }
        let old = std::mem::replace(&mut state.frames[page], to);
        state.paged.restore(withdrawn);
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
    /// Answers that came too late.
    stale: u64,
}

fn page(rig: &Rig, seed: u64, handler: Handler, mutant: Mutant, outcome: &mut Outcome) {
    let domain = rig.broken_domain(1 << 40, mutant);
    let device = rig.device(rig.info(), &domain);
    let ram = rig.segment(RAM_BYTES);
    ram.window().fill(0);
    let allocator = allocator(&ram);
    let request = FrameRequest::movable(1, MoverId::new(0));
    let frames = (0..PAGES).map(|_| allocator.allocate(&request).unwrap());
    let frames = frames.collect();
    let slots = vec![PageSlot::default(); PAGES];
    let paged = device.open_paged::<Bidirectional, _>(slots, PAGE, 1, Attributes::NONE);
    let (paged, rest) = (paged.unwrap(), Rng::new(seed));
    let mirror = Mirror {
        rig,
        device: &device,
        ram,
        handler,
        state: Mutex::new(State::new(paged, frames, seed)),
    };
    let memory = MovableMemory::new(rig.machine.clone(), allocator, &mirror);
    let mut rng = rest;
    mirror.run(&mut mirror.lock(), 48);
    for _ in 0..12 {
        let moved = mirror.lock().frames[rng.below(PAGES as u64) as usize].range();
        let cause = MigrationCause::Compaction;
        memory.migrate(moved.start(), cause, None).unwrap();
        mirror.run(&mut mirror.lock(), 48);
        let old = mirror.bytes(part(&mirror.ram, moved));
        outcome.trampled += usize::from(old.iter().any(|&byte| byte != OTHERS));
    }
    let mut state = mirror.lock();
    outcome.lost += mirror.lost(&mut state);
    outcome.faults += state.faults;
    outcome.stale += state.stale;
    for frames in state.frames.drain(..) {
        memory.allocator().free(frames).unwrap();
    }
    drop(state);
    drop(memory);
    let state = mirror.state.into_inner().unwrap();
    device.close_paged(state.paged).unwrap();
    assert_eq!(device.remove().unwrap().live(), 0);
    if mutant == Mutant::Nothing {
        rig.close(domain);
    }
}

#[test]
fn a_late_write_faults_or_lands_before_its_page_is_given_away() {
    for build in [Rig::coherent, Rig::non_coherent] {
        let mut outcome = Outcome::default();
        for seed in 0..16 {
            let rig = build(seed);
            page(&rig, seed, Handler::Right, Mutant::Nothing, &mut outcome);
            assert_eq!((outcome.lost, outcome.trampled), (0, 0), "seed {seed}");
        }
        println!("{outcome:?}");
        let pages = 16 * PAGES as u64;
        assert!(outcome.faults > pages, "pages came back on faults");
        assert!(outcome.stale > 16, "faults were answered too late");
    }
}

#[test]
fn a_handler_that_asks_before_it_expects_links_pages_of_others() {
    let mut outcome = Outcome::default();
    for seed in 0..16 {
        let rig = Rig::coherent(seed);
        page(&rig, seed, Handler::Late, Mutant::Nothing, &mut outcome);
    }
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
        for seed in 0..16 {
            let rig = Rig::coherent(seed);
            page(&rig, seed, Handler::Right, mutant, &mut outcome);
        }
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

#[test]
fn pages_are_linked_as_expected_or_not_at_all() {
    let rig = Rig::coherent(17);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let slots = [PageSlot::default(); 4];
    let paged = device.open_paged::<Bidirectional, _>(slots, PAGE, 1, Attributes::NONE);
    let mut paged = paged.unwrap();
    let [one, other] = [0; 2].map(|_| rig.segment(PAGE));
    let missing = paged.expect(4).unwrap_err();
    assert_eq!(missing, PagingError::Page { page: 4, count: 4 });
    let expected = paged.expect(2).unwrap();
    let segment = device.page_in(&mut paged, expected, one.range()).unwrap();
    assert_eq!(Some(segment.addr), paged.dma_addr(2));
    assert_eq!(paged.page_at(segment.addr), Some(2));
    // A second fault on the page, answered later.
    let again = device.page_in(&mut paged, expected, one.range());
    assert_eq!((again, paged.linked()), (Ok(segment), PAGE));

    let withdrawn = device.withdraw_pages(&mut paged, 1..4).unwrap();
    assert_eq!((withdrawn.pages(), paged.linked()), (1..4, 0));
    assert!(rig.sim.write(segment.addr, &[1; 8]).is_err());
    let out = PagingError::Withdrawn { page: 2 };
    assert_eq!(paged.expect(2), Err(out));
    let early = device.page_in(&mut paged, expected, one.range());
    assert_eq!(early, Err(out));
    assert_eq!(
        device.withdraw_pages(&mut paged, 0..3),
        Err(PagingError::Withdrawn { page: 1 })
    );
    paged.restore(withdrawn);
    let late = device.page_in(&mut paged, expected, one.range());
    assert_eq!(late, Err(PagingError::Stale { page: 2 }));
    let expected = paged.expect(2).unwrap();
    device.page_in(&mut paged, expected, other.range()).unwrap();

    // Hardware that does not answer keeps the page where it is, and the next call waits for it.
    rig.smmu.stick(true);
    let stuck = device.withdraw_pages(&mut paged, 2..3).unwrap_err();
    assert!(matches!(stuck, PagingError::Link(_)), "{stuck}");
    let stuck = device.withdraw_pages(&mut paged, 2..3).unwrap_err();
    assert!(matches!(stuck, PagingError::Link(_)), "{stuck}");
    rig.smmu.stick(false);
    let withdrawn = device.withdraw_pages(&mut paged, 2..3).unwrap();
    assert!(rig.sim.write(segment.addr, &[1; 8]).is_err());
    paged.restore(withdrawn);
    let expected = paged.expect(0).unwrap();
    device.page_in(&mut paged, expected, one.range()).unwrap();
    device.close_paged(paged).unwrap();
    assert_eq!(device.remove().unwrap().live(), 0);
    rig.memory.free(one);
    rig.memory.free(other);
    rig.close(domain);
}

#[test]
fn nothing_is_paged_where_nothing_would_fault() {
    let rig = Rig::coherent(18);
    let path = dmakit::dma::Path::Direct;
    let source = dmakit::dma::CoherentSource::None;
    let plain = dmakit::dma::Device::<_>::new(rig.machine.clone(), rig.info(), path, source);
    let slots = [PageSlot::default(); 4];
    let refused = plain.open_paged::<Bidirectional, _>(slots, PAGE, 1, Attributes::NONE);
    assert_eq!(refused.unwrap_err().0, PagingError::Untranslated);
}
