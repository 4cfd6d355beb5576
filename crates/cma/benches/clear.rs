//! Claims that move memory, against copying the same bytes.
//!
//! An area of 64 MiB in 192 MiB of real memory; 0, 50 or 90 % of it lent to single movable pages,
//! at random places, the rest of memory half full. Claims and copies alternate; a row has the least
//! of all rounds, in nanoseconds for each page that moved, of the claim, of the search in it, and of
//! copying as many pages, at random from the area to outside; and the ratio of the first to the last. Where nothing moves it is for each page of the claim. What is the same on every machine
//! stands last: pages moved for each claim, and steps of the search. `-- 50` runs one percentage.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_cma::{AreaClaim, AreaRequest, InactiveAreas, Outcome, Purpose, reserve};
use dmakit_phys::{
    ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration,
    MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region, WindowIn, WindowRequest,
};
use dmakit_platform::Instant as Moment;
use dmakit_platform::host::{HostPlatform, HostRam};

const BASE: u64 = 0x10_0000;
const FRAMES: u64 = 192 << 8;
const AREA_FRAMES: u64 = 64 << 8;
const ROUNDS: u64 = 40;

/// Movable pages by frame. Moving one copies it and switches one reference.
struct Pages {
    ram: HostRam,
    live: Mutex<Vec<Option<Frames>>>,
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
        let mut live = self.live.lock().expect("nobody panics with it");
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
    let live = Mutex::new((0..FRAMES).map(|_| None).collect());
    let memory = MovableMemory::new(HostPlatform::new(1), allocator, Pages { ram, live });
    (memory, inactive)
}

/// Gives `percent` of the area, and half of the rest, to single pages.
fn lend(memory: &Memory, draws: &mut Draws, area: PfnRange, percent: u64) {
    let request = FrameRequest::movable(1, MoverId::new(0));
    while let Ok(frames) = memory.allocator().allocate(&request) {
        let at = slot(frames.range().start());
        memory.movers().live.lock().expect("nobody panics with it")[at] = Some(frames);
    }
    for frame in (BASE..BASE + FRAMES).map(Pfn::new) {
        let keep = if area.contains(frame) { percent } else { 50 };
        if draws.below(100) >= keep {
            let at = slot(frame);
            let taken = memory.movers().live.lock().expect("nobody panics with it")[at].take();
            if let Some(frames) = taken {
                memory.allocator().free(frames).expect("a page of its own");
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
    let started = Instant::now();
    for (from, to) in &pairs {
        memory.movers().copy(*from, *to);
    }
    started.elapsed()
}

fn row(percent: u64, frames: u64) {
    let (memory, inactive) = machine();
    let (areas, _) = inactive.activate(&memory);
    let id = areas.find(Purpose::Default).expect("reserved above");
    let area = areas.ranges(id)[0];
    let mut draws = Draws(0x9E37_79B9_7F4A_7C15);
    let limits = ClaimLimits {
        deadline: Moment::from_nanos(u64::MAX),
        tries: 3,
    };
    let claim = AreaClaim {
        frames,
        align_order: frames.next_power_of_two().ilog2().min(8),
        limit: DmaMask::ALL,
    };
    let mut least = [f64::INFINITY; 3];
    let (mut moved, mut steps) = (0, 0);
    for round in 0..=ROUNDS {
        lend(&memory, &mut draws, area, percent);
        let started = Instant::now();
        let found = memory.find(&WindowRequest {
            within: &[area],
            frames,
            align_order: claim.align_order,
            excluded: &[],
            memory: WindowIn::Areas,
        });
        let searched = started.elapsed();
        let found = found.expect("all of it can move");
        let started = Instant::now();
        let claimed = areas.claim(id, &claim, &limits);
        let took = started.elapsed();
        let claimed = claimed.expect("all of it can move");
        let pages = if found.moves > 0 { found.moves } else { frames };
        let copied = copy(&memory, area, pages, &mut draws);
        areas.release(claimed).expect("claimed above");
        if round > 0 {
            (moved, steps) = (moved + found.moves, steps + found.steps);
            for (least, took) in least.iter_mut().zip([took, searched, copied]) {
                *least = least.min(took.as_nanos() as f64 / pages as f64);
            }
        }
    }
    let [claim, search, copy] = least;
    println!(
        "{percent:3} % lent, {:5} KiB: claim {claim:8.1}, search {search:8.1}, copy {copy:6.1}: \
         {:6.2} x; {:5} pages moved, {:4} steps",
        frames * 4,
        claim / copy,
        moved / ROUNDS,
        steps / ROUNDS
    );
}

fn main() {
    let only = std::env::args().nth(1);
    let only = only.and_then(|percent| percent.parse().ok());
    for percent in [0, 50, 90] {
        for frames in [16, 512, 4096] {
            if only.is_none_or(|only: u64| only == percent) {
                row(percent, frames);
            }
        }
    }
}
