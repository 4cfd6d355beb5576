//! Claims that move memory, against copying the same bytes, beside the incumbent's model.
//!
//! An area of 64 MiB in 192 MiB of real memory; 0, 50 or 90 % of it lent to single movable pages,
//! at random places, the rest of memory half full. In the last rows one page of 2,048 of the area is
//! pinned as well. Memory is lent anew before each of three things, which take turns: a search;
//! claims of up to 1 MiB in all, or one; and such claims as the incumbent's model makes them. Claims
//! are followed by copies of as many pages as moved, at random from the area to outside.
//!
//! The incumbent's model chooses the window: the lowest free one, and the next aligned place after
//! one that is busy. What it chooses is cleared by the same code with the same copies, which refuses
//! a pinned window before anything moves; that is to the incumbent's favour, who finds out while it
//! moves.
//!
//! A row has the least of all rounds, in nanoseconds for each page that moved (for each page claimed
//! where none did), and the ratio of claims to copies; the same for the first claim alone, which
//! finds the claim's own code out of the cache; and what is the same on every machine: pages moved
//! for each claim, steps of the search, windows that the incumbent tried for each claim. `-- 50`
//! runs one percentage, `-- 50 64` one size in KiB of it; `DMAKIT_ROUNDS` sets how many rounds.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_cma::{AreaClaim, AreaRequest, InactiveAreas, Outcome, Purpose, reserve};
use dmakit_linux_model::cma::{Area as LinuxArea, Wish};
use dmakit_phys::{
    Account, ClaimLimits, Frame, FrameRequest, Frames, FreeReason, MemoryKind, MemoryMap, Migrate,
    Migration, MigrationCause, MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
    WindowIn, WindowRequest,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Instant as Moment, IrqMutex};
use rustix::time::{ClockId, clock_gettime};

const BASE: u64 = 0x10_0000;
const FRAMES: u64 = 192 << 8;
const AREA_FRAMES: u64 = 64 << 8;
/// Pages that are claimed in a row, but for claims that are larger.
const ROW_PAGES: u64 = 256;
/// One page of so many of the area is pinned, where some are.
const PINNED_OF: u64 = 2048;
const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Moment::from_nanos(u64::MAX),
    tries: 3,
};

/// Movable pages by frame. Moving one copies it and switches one reference.
struct Pages {
    ram: HostRam,
    live: IrqMutex<HostPlatform, Vec<Option<Frames>>>,
}

fn slot(frame: Pfn) -> usize {
    (frame.raw() - BASE) as usize
}

impl Pages {
    fn copy(&self, from: PfnRange, to: PfnRange) {
        let window = |frames: PfnRange| self.ram.hardware_window(frames.bytes()?);
        if let (Some(from), Some(to)) = (window(from), window(to)) {
            to.copy_from(from);
        }
    }
}

impl Migrate for Pages {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut live = self.live.lock();
        let Some(old) = live[slot(migration.from.start())].take() else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        self.copy(migration.from, to.range());
        let at = slot(to.range().start());
        live[at] = Some(to);
        Ok(old)
    }
}

/// Set where this runs under callgrind, in which the processor's clock cannot be read.
static COUNTED: LazyLock<Option<Instant>> =
    LazyLock::new(|| std::env::var_os("DMAKIT_COUNTED").map(|_| Instant::now()));

/// What this thread has run so far. Nothing here waits, so where no one else wants the processor it is
/// the time on the wall; where others do, their turns are not in it.
fn cpu_time() -> Duration {
    if let Some(origin) = *COUNTED {
        return origin.elapsed();
    }
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let out = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((out >> 32) * bound) >> 32
    }
}

type Memory = MovableMemory<HostPlatform, Vec<Frame>, Pages>;

fn machine() -> (Memory, InactiveAreas) {
    let bytes = PhysRange::new(PhysAddr::new(BASE << 12), FRAMES << 12).expect("a small range");
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: bytes.frames(),
        node: NodeId::new(0),
        kind: MemoryKind::Usable,
    })
    .expect("one region");
    let request = AreaRequest::new(Purpose::Default, AREA_FRAMES << 12);
    let done = reserve(&mut map, &[], [request]);
    let reserved = done.into_iter().filter_map(|one| match one.outcome {
        Outcome::Reserved(area) => Some(area),
        _ => None,
    });
    let inactive = InactiveAreas::new(reserved);
    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let entries = Allocator::table_entries(&map) as usize;
    let allocator = Allocator::new(&map, &[], vec![Frame::default(); entries]).expect("a map");
    let (ram, _) = HostRam::new(&[bytes]).expect("memory");
    // Pay for it once.
    ram.hardware_window(bytes).expect("all of it").fill(1);
    let live = IrqMutex::<HostPlatform, _>::new((0..FRAMES).map(|_| None).collect());
    let memory = MovableMemory::new(HostPlatform::new(1), allocator, Pages { ram, live });
    (memory, inactive)
}

/// Gives `percent` of the area, and half of the rest, to single pages.
fn lend(memory: &Memory, draws: &mut Draws, area: PfnRange, percent: u64) {
    let request = FrameRequest::movable(1, MoverId::new(0));
    while let Ok(frames) = memory.allocator().allocate(&request) {
        let at = slot(frames.range().start());
        memory.movers().live.lock()[at] = Some(frames);
    }
    for frame in (BASE..BASE + FRAMES).map(Pfn::new) {
        let keep = if area.contains(frame) { percent } else { 50 };
        if draws.below(100) >= keep {
            let at = slot(frame);
            let taken = memory.movers().live.lock()[at].take();
            let freed = taken.map(|frames| memory.allocator().free(frames));
            if let Some(Err(error)) = freed {
                assert_eq!(error.reason, FreeReason::Pinned);
                memory.movers().live.lock()[at] = Some(error.frames);
            }
        }
    }
}

/// The time of copying `pages` pages from anywhere in the area to anywhere outside: the window's own
/// would be in the cache.
fn copy(memory: &Memory, area: PfnRange, pages: u64, draws: &mut Draws) -> Duration {
    let page = |at: u64| PfnRange::new(Pfn::new(at), 1).expect("a page");
    let pairs: Vec<(PfnRange, PfnRange)> = (0..pages)
        .map(|_| {
            let here = area.start().raw() + draws.below(area.len());
            (page(here), page(BASE + draws.below(FRAMES - AREA_FRAMES)))
        })
        .collect();
    let started = cpu_time();
    for (from, to) in &pairs {
        memory.movers().copy(*from, *to);
    }
    cpu_time() - started
}

/// Pins some of the area's pages, which are all lent.
fn pin(memory: &Memory, draws: &mut Draws, area: PfnRange) {
    let account = Arc::new(Account::new(u64::MAX));
    let owner = memory.add_pin_owner(account).expect("a first owner");
    for _ in 0..area.len() / PINNED_OF {
        let frame = Pfn::new(area.start().raw() + draws.below(area.len()));
        let page = PfnRange::new(frame, 1).expect("a page");
        let pin = memory.pin_short_term(owner, &[page], Moment::from_nanos(u64::MAX));
        drop(pin.expect("a page that is lent"));
    }
}

/// The least of what each round took for one page.
#[derive(Clone, Copy)]
struct Least {
    claims: f64,
    first: f64,
    copy: f64,
    moved: u64,
}

impl Least {
    const NONE: Self = Self {
        claims: f64::INFINITY,
        first: f64::INFINITY,
        copy: f64::INFINITY,
        moved: 0,
    };
}

struct Row<'m> {
    memory: &'m Memory,
    area: PfnRange,
    percent: u64,
    frames: u64,
    align_order: u32,
    draws: Draws,
}

impl Row<'_> {
    fn lend(&mut self) {
        lend(self.memory, &mut self.draws, self.area, self.percent);
    }

    /// How many claims are made in a row.
    fn claims(&self) -> u64 {
        (ROW_PAGES / self.frames).max(1)
    }

    fn frames_moved(&self) -> u64 {
        self.memory.migrations(MigrationCause::Claim).frames
    }

    /// Times claims on memory lent anew, and copies of as many pages as they moved.
    fn time(&mut self, least: &mut Least, mut claim: impl FnMut(&Memory) -> Frames) -> Vec<Frames> {
        self.lend();
        let before = self.frames_moved();
        let pages = |moved: u64, claims: u64| match moved {
            0 => (claims * self.frames) as f64,
            moved => moved as f64,
        };
        let mut claimed = Vec::with_capacity(self.claims() as usize);
        let started = cpu_time();
        claimed.push(claim(self.memory));
        let first = (cpu_time() - started).as_nanos() as f64;
        least.first = least
            .first
            .min(first / pages(self.frames_moved() - before, 1));
        let started = cpu_time();
        claimed.extend((1..self.claims()).map(|_| claim(self.memory)));
        let took = first + (cpu_time() - started).as_nanos() as f64;
        let moved = self.frames_moved() - before;
        let pages = pages(moved, self.claims());
        least.claims = least.claims.min(took / pages);
        least.moved += moved;
        let copied = copy(self.memory, self.area, pages as u64, &mut self.draws);
        least.copy = least.copy.min(copied.as_nanos() as f64 / pages);
        claimed
    }

    /// The same for claims as the incumbent makes them, which are given back.
    fn time_incumbent(&mut self, least: &mut Least, linux: &mut LinuxArea, tried: &mut u64) {
        let wish = Wish {
            pages: self.frames,
            align_order: self.align_order,
        };
        let claimed = self.time(least, |memory| {
            let claimed = claim_first_fit(memory, linux, wish, tried);
            claimed.expect("a window that can be cleared")
        });
        for frames in claimed {
            linux.release(frames.range().start().raw(), frames.range().len());
            let freed = self.memory.allocator().free(frames);
            freed.expect("claimed above");
        }
    }

    /// Nanoseconds of a search on memory lent anew, and its steps.
    fn search(&mut self) -> (f64, u64) {
        self.lend();
        let started = cpu_time();
        let found = self.memory.find(&WindowRequest {
            within: &[self.area],
            frames: self.frames,
            align_order: self.align_order,
            excluded: &[],
            memory: WindowIn::Areas,
        });
        let took = (cpu_time() - started).as_nanos() as f64;
        (took, found.map_or(0, |found| found.steps))
    }
}

/// Claims as the incumbent does: the lowest window that its bitmap has, then the next one.
fn claim_first_fit(
    memory: &Memory,
    area: &mut LinuxArea,
    wish: Wish,
    tried: &mut u64,
) -> Option<Frames> {
    let mut from = 0;
    while let Some(at) = area.find(wish, from) {
        *tried += 1;
        let window = PfnRange::new(Pfn::new(at), wish.pages).expect("a window of the area");
        match memory.claim(window, &LIMITS) {
            Ok(frames) => {
                area.take(at, wish.pages);
                return Some(frames);
            }
            Err(_) => from = area.after_busy(wish, at),
        }
    }
    None
}

fn row(percent: u64, pinned: bool, frames: u64, rounds: u64) {
    let (memory, inactive) = machine();
    let (areas, _) = inactive.activate(&memory);
    let id = areas.find(Purpose::Default).expect("reserved above");
    let mut row = Row {
        memory: &memory,
        area: areas.ranges(id)[0],
        percent,
        frames,
        align_order: frames.next_power_of_two().ilog2().min(8),
        draws: Draws(0x9E37_79B9_7F4A_7C15),
    };
    if pinned {
        lend(&memory, &mut row.draws, row.area, 100);
        pin(&memory, &mut row.draws, row.area);
    }
    let claim = AreaClaim {
        frames,
        align_order: row.align_order,
        limit: DmaMask::ALL,
    };
    let mut linux = LinuxArea::new(row.area.start().raw(), row.area.len(), 0);
    let (mut ours, mut theirs) = (Least::NONE, Least::NONE);
    let (mut search, mut steps, mut tried) = (f64::INFINITY, 0, 0);
    for round in 0..=rounds {
        let found = row.search();
        let claimed = row.time(&mut ours, |_| {
            let claimed = areas.claim(id, &claim, &LIMITS);
            claimed.expect("a window that can be cleared")
        });
        for frames in claimed {
            areas.release(frames).expect("claimed above");
        }
        row.time_incumbent(&mut theirs, &mut linux, &mut tried);
        if round == 0 {
            // The first round pays for memory that nobody used yet.
            (ours, theirs, tried) = (Least::NONE, Least::NONE, 0);
        } else {
            search = search.min(found.0);
            steps += found.1;
        }
    }
    let lent = if pinned { "% lent, pins" } else { "% lent" };
    let claims = (rounds * row.claims()) as f64;
    println!(
        "{percent:3} {lent:12} {:5} KiB: {:7.1} ns, {:5.2} x copies of {:5.1}; first {:5.2} x; {:6.1} \
         moved; search {:6.0} ns, {:3} steps | incumbent's windows {:7.1} ns, {:5.2} x; first {:5.2} x; \
         {:6.1} moved, {:4.1} tried",
        frames * 4,
        ours.claims,
        ours.claims / ours.copy,
        ours.copy,
        ours.first / ours.copy,
        ours.moved as f64 / claims,
        search,
        steps / rounds,
        theirs.claims,
        theirs.claims / theirs.copy,
        theirs.first / theirs.copy,
        theirs.moved as f64 / claims,
        tried as f64 / claims,
    );
}

fn main() {
    let mut only = std::env::args()
        .skip(1)
        .filter_map(|number| number.parse::<u64>().ok());
    let (percents, sizes) = (only.next(), only.next());
    let rounds = std::env::var("DMAKIT_ROUNDS").ok();
    let rounds = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(40);
    for pinned in [false, true] {
        for percent in [0, 50, 90] {
            for frames in [16, 512, 4096] {
                let wanted = percents.is_none_or(|only| only == percent)
                    && sizes.is_none_or(|only| only == frames * 4);
                if wanted && (percent > 0 || !pinned) {
                    row(percent, pinned, frames, rounds);
                }
            }
        }
    }
}
