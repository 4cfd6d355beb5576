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

mod claims;

use std::hint::black_box;
use std::time::Instant;

use claims::{BASE, Cell, Claims, GIB_FRAMES, Sequence, Subject, area};
use dmakit_platform::IrqMutex;
use dmakit_platform::host::HostPlatform;

const PASSES: usize = 7;
const SLICES: usize = 50;
/// Operations of a slice, at least: the first ones find their memory cold.
const SLICE_MIN: usize = 1000;

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

impl<S: Subject> Sequence<S> {
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
