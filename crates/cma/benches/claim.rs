//! Claims on the operation sequences of the comparison: areas of 1 and 8 GiB, sizes from 4 KiB to
//! 64 MiB aligned to their order but to 2^8 frames at most.
//!
//! Each row has one pass that is not timed and seven that are, each in fifty slices that alternate
//! with the floor's. A row is the least and the median of the slices in nanoseconds for one operation
//! (a claim and a release; in `fail` a claim), and beside it the same for its floor: the same claims
//! and releases with the answers known beforehand, which still take the area's lock twice and write
//! the bits. `ABOVE` marks a row whose least is above both 40 ns and twice the floor's least: on a
//! machine with neighbours the median says more about them.
//!
//! The sequences of the comparison release one block and claim the same size at once, which a map
//! that takes back what was released last serves without a search. The `swap` rows are not among
//! them: they release two blocks at random before they claim two, so that every other claim has to
//! search.

use std::hint::black_box;
use std::time::Instant;

use dmakit_addr::{Address, Pfn, PfnRange};
use dmakit_cma::Area;
use dmakit_platform::IrqMutex;
use dmakit_platform::host::HostPlatform;

const GIB_FRAMES: u64 = 1 << 18;
const BASE: u64 = 1 << 24;
const PASSES: usize = 7;
const SLICES: usize = 50;
/// Operations of a slice, at least: the first ones find their memory cold.
const SLICE_MIN: usize = 1000;

/// xorshift64*, seeded the same for every sequence; setup draws count.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let out = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (((out >> 32) * bound as u64) >> 32) as usize
    }
}

/// What is driven.
trait Subject {
    fn claim(&mut self, order: u32) -> Option<u64>;
    fn release(&mut self, start: u64, order: u32);
}

/// An area, and perhaps a note of its answers.
struct Claims {
    area: Area<HostPlatform>,
    answers: Option<Vec<Option<u64>>>,
}

impl Subject for Claims {
    #[inline]
    fn claim(&mut self, order: u32) -> Option<u64> {
        let claimed = self.area.claim(1 << order, order.min(8));
        let start = claimed.ok().map(|range| range.start().raw());
        if let Some(answers) = &mut self.answers {
            answers.push(start);
        }
        start
    }

    #[inline]
    fn release(&mut self, start: u64, order: u32) {
        let range = PfnRange::new(Pfn::new(start), 1 << order);
        let released = range.map(|range| self.area.release(range));
        assert!(matches!(released, Ok(Ok(()))));
    }
}

/// The answers of an area, read out; bits written under a lock.
struct Floor {
    bits: IrqMutex<HostPlatform, Vec<u64>>,
    answers: std::vec::IntoIter<Option<u64>>,
}

impl Floor {
    #[inline]
    fn write(&self, start: u64, order: u32, set: bool) {
        let at = (start - BASE) as usize;
        let mut bits = self.bits.lock();
        if order < 6 {
            let mask = (u64::MAX >> (64 - (1 << order))) << (at % 64);
            let word = &mut bits[at / 64];
            *word = if set { *word | mask } else { *word & !mask };
        } else {
            bits[at / 64..(at + (1 << order)) / 64].fill(if set { u64::MAX } else { 0 });
        }
    }
}

impl Subject for Floor {
    #[inline]
    fn claim(&mut self, order: u32) -> Option<u64> {
        let start = self.answers.next().flatten();
        match start {
            Some(start) => self.write(start, order, true),
            None => drop(black_box(self.bits.lock())),
        }
        start
    }

    #[inline]
    fn release(&mut self, start: u64, order: u32) {
        self.write(start, order, false);
    }
}

#[derive(Clone, Copy)]
enum Cell {
    Pair { percent: u64, order: u32 },
    Random { percent: u64, order: u32 },
    Swap { percent: u64, order: u32 },
    Prefix { percent: u64, order: u32 },
    Fail { order: u32 },
    Mix { percent: u64 },
}

fn unpack(live: u64) -> (u64, u32) {
    (live >> 8, (live & 0xff) as u32)
}

struct Sequence<S> {
    subject: S,
    /// First frame and, in the low byte, order: as dense as pointers are.
    live: Vec<u64>,
    draws: Draws,
    frames: u64,
}

impl<S: Subject> Sequence<S> {
    fn new(subject: S, frames: u64) -> Self {
        Self {
            subject,
            live: Vec::new(),
            draws: Draws(0x9E37_79B9_7F4A_7C15),
            frames,
        }
    }

    fn fill(&mut self, order: u32, percent: u64) {
        if percent == 0 {
            return;
        }
        while let Some(start) = self.subject.claim(order) {
            self.live.push(start << 8 | u64::from(order));
        }
        let keep = (self.live.len() as u64 * percent / 100) as usize;
        while self.live.len() > keep {
            self.release_random();
        }
    }

    fn release_random(&mut self) -> u64 {
        let victim = self.draws.below(self.live.len());
        let (start, order) = unpack(self.live.swap_remove(victim));
        self.subject.release(start, order);
        1 << order
    }

    fn set_up(&mut self, cell: Cell) {
        match cell {
            Cell::Pair { percent, order } => self.fill(order, percent),
            Cell::Random { percent, order } | Cell::Swap { percent, order } => {
                self.fill(order, percent);
                let warm = 4 * self.live.len();
                self.random(if self.frames > GIB_FRAMES {
                    warm.min(400_000)
                } else {
                    warm
                });
            }
            Cell::Prefix { percent, .. } => {
                for _ in 0..(self.frames * percent / 100) >> 14 {
                    self.subject.claim(14);
                }
            }
            Cell::Fail { .. } => self.fill(0, 75),
            Cell::Mix { percent } => self.fill_mixed(percent),
        }
    }

    fn fill_mixed(&mut self, percent: u64) {
        let (mut used, mut misses) = (0, 0);
        while misses < 16 {
            let order = self.draws.below(10) as u32;
            match self.subject.claim(order) {
                Some(start) => {
                    self.live.push(start << 8 | u64::from(order));
                    used += 1 << order;
                    misses = 0;
                }
                None => misses += 1,
            }
        }
        while used > self.frames * percent / 100 {
            used -= self.release_random();
        }
    }

    fn pairs(&mut self, order: u32, count: usize) {
        for _ in 0..count {
            if let Some(start) = self.subject.claim(order) {
                self.subject.release(start, order);
            }
        }
    }

    fn random(&mut self, count: usize) {
        for _ in 0..count {
            let victim = self.draws.below(self.live.len());
            let (start, order) = unpack(self.live[victim]);
            self.subject.release(start, order);
            if let Some(start) = self.subject.claim(order) {
                self.live[victim] = start << 8 | u64::from(order);
            }
        }
    }

    /// Two victims go before two blocks come: an operation is a claim and a release, as elsewhere.
    fn swaps(&mut self, count: usize) {
        for _ in 0..count / 2 {
            let victims = [0, 1].map(|_| self.draws.below(self.live.len()));
            if victims[0] == victims[1] {
                continue;
            }
            let blocks = victims.map(|victim| unpack(self.live[victim]));
            for (start, order) in blocks {
                self.subject.release(start, order);
            }
            for (victim, (_, order)) in victims.into_iter().zip(blocks) {
                if let Some(start) = self.subject.claim(order) {
                    self.live[victim] = start << 8 | u64::from(order);
                }
            }
        }
    }

    fn pass(&mut self, cell: Cell, count: usize) {
        match cell {
            Cell::Pair { order, .. } | Cell::Prefix { order, .. } => self.pairs(order, count),
            Cell::Random { .. } | Cell::Mix { .. } => self.random(count),
            Cell::Swap { .. } => self.swaps(count),
            Cell::Fail { order } => {
                for _ in 0..count {
                    assert_eq!(self.subject.claim(order), None);
                }
            }
        }
    }

    /// Nanoseconds for one operation of a slice.
    fn time(&mut self, cell: Cell, count: usize) -> f64 {
        let started = Instant::now();
        self.pass(cell, count);
        started.elapsed().as_nanos() as f64 / count as f64
    }
}

/// The least and the median.
fn spread(mut slices: Vec<f64>) -> (f64, f64) {
    slices.sort_by(f64::total_cmp);
    (slices[0], slices[slices.len() / 2])
}

fn area(frames: u64) -> Area<HostPlatform> {
    let range = PfnRange::new(Pfn::from_raw(BASE), frames).expect("a small range");
    Area::new(&[range], 0).expect("one aligned range")
}

fn row(name: &str, gib: u64, cell: Cell, count: usize) {
    let frames = gib * GIB_FRAMES;
    let claims = Claims {
        area: area(frames),
        answers: None,
    };
    let mut timed = Sequence::new(claims, frames);
    timed.set_up(cell);
    let slice = (count / SLICES).max(SLICE_MIN);

    let noted = Claims {
        area: area(frames),
        answers: Some(Vec::new()),
    };
    let mut noted = Sequence::new(noted, frames);
    noted.set_up(cell);
    (0..(PASSES + 1) * SLICES).for_each(|_| noted.pass(cell, slice));
    let floor = Floor {
        bits: IrqMutex::<HostPlatform, _>::new(vec![0; (frames / 64) as usize]),
        answers: noted.subject.answers.unwrap_or_default().into_iter(),
    };
    let mut floor = Sequence::new(floor, frames);
    floor.set_up(cell);
    let mut slices = (Vec::new(), Vec::new());
    for index in 0..(PASSES + 1) * SLICES {
        let took = (timed.time(cell, slice), floor.time(cell, slice));
        if index >= SLICES {
            slices.0.push(took.0);
            slices.1.push(took.1);
        }
    }
    let ((min, median), (floor_min, floor_median)) = (spread(slices.0), spread(slices.1));
    let scans = timed.subject.area.usage().scans;
    let verdict = if min <= 40.0 || min <= 2.0 * floor_min {
        ""
    } else {
        "  ABOVE"
    };
    println!(
        "{gib}G {name:18} {min:8.1}/{median:8.1}   floor {floor_min:8.1}/{floor_median:8.1}   \
         scans {}{verdict}",
        scans.searches
    );
}

fn main() {
    let only = std::env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'));
    for gib in [1, 8] {
        let divide = if gib == 8 { 4 } else { 1 };
        let run = |name: String, cell, count| {
            if only.as_deref().is_none_or(|only| name.contains(only)) {
                row(&name, gib, cell, count);
            }
        };
        for (size, order) in [("4K", 0), ("64K", 4), ("2M", 9), ("64M", 14)] {
            for percent in [0, 50, 90] {
                let cell = Cell::Pair { percent, order };
                run(format!("{size} {percent}% pair"), cell, 200_000);
            }
            for percent in [50, 90] {
                let cell = Cell::Random { percent, order };
                run(format!("{size} {percent}% rand"), cell, 20_000 / divide);
            }
            for percent in [50, 90] {
                let cell = Cell::Swap { percent, order };
                run(format!("{size} {percent}% swap"), cell, 20_000 / divide);
            }
            for percent in [50, 90].into_iter().filter(|_| order < 14) {
                let cell = Cell::Prefix { percent, order };
                run(format!("{size} prefix {percent}%"), cell, 20_000 / divide);
            }
            if order == 4 || order == 9 {
                run(format!("{size} fail"), Cell::Fail { order }, 20_000);
            }
        }
        for percent in [50, 90] {
            let cell = Cell::Mix { percent };
            run(
                format!("mix {percent}%"),
                cell,
                if gib == 8 { 2_000 } else { 5_000 },
            );
        }
    }
}
