//! Passes of a sequence, timed, beside a floor of the same run.
#![allow(dead_code, reason = "each benchmark uses the parts that it needs")]

use std::time::Instant;

/// Timed passes of each row, after one that is not timed.
const PASSES: usize = 7;

/// xorshift64*, seeded the same for every sequence; setup draws count.
#[derive(Clone)]
pub struct Draws(u64);

impl Default for Draws {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Draws {
    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.bits() >> 32) * bound as u64) >> 32) as usize
    }
}

/// Parts of a pass, so that the least time is that of a moment when nothing else ran.
const SLICES: usize = 50;

/// Nanoseconds for each operation: median and most of the passes, least of the slices.
#[derive(Clone, Copy)]
pub struct Figures {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figures {
    /// Before the first pass.
    pub const NONE: Self = Self {
        median: f64::MAX,
        min: f64::MAX,
        max: 0.0,
    };

    /// Least and most with another pass; the median is the least so far.
    pub fn with(self, time: f64) -> Self {
        Self {
            median: self.median.min(time),
            min: self.min.min(time),
            max: self.max.max(time),
        }
    }

    /// What is left of each figure without that of `other`.
    pub fn less(self, other: Self) -> Self {
        Self {
            median: self.median - other.median,
            min: self.min - other.min,
            max: self.max - other.max,
        }
    }
}

/// Calls `body(ops)` once untimed and then once for each pass, in slices.
pub fn measure(ops: usize, mut body: impl FnMut(usize)) -> Figures {
    measure_pair(ops, |_| {}, &mut body).1
}

/// As [`measure`], each slice of the second body after one of the first: floor and result meet the
/// same moments of a shared machine.
pub fn measure_pair(
    ops: usize,
    first: impl FnMut(usize),
    second: impl FnMut(usize),
) -> (Figures, Figures) {
    measure_slices(ops, SLICES.min(ops), first, second)
}

/// As [`measure_pair`], with a number of slices: one where each call starts threads.
pub fn measure_slices(
    ops: usize,
    slices: usize,
    mut first: impl FnMut(usize),
    mut second: impl FnMut(usize),
) -> (Figures, Figures) {
    let each = ops / slices;
    first(each);
    second(ops);
    let mut times = [[(0.0, f64::MAX); PASSES]; 2];
    #[allow(clippy::needless_range_loop, reason = "two arrays side by side")]
    for pass in 0..PASSES {
        let [mut floor, mut result] = [(0.0, f64::MAX); 2];
        for _ in 0..slices {
            time(each, &mut first, &mut floor);
            time(each, &mut second, &mut result);
        }
        times[0][pass] = (floor.0 / slices as f64, floor.1);
        times[1][pass] = (result.0 / slices as f64, result.1);
    }
    (figures(times[0]), figures(times[1]))
}

/// Adds a call's time for each operation to a sum, and keeps the least.
fn time(ops: usize, body: &mut impl FnMut(usize), (sum, least): &mut (f64, f64)) {
    let started = Instant::now();
    body(ops);
    let time = started.elapsed().as_nanos() as f64 / ops as f64;
    *sum += time;
    *least = time.min(*least);
}

fn figures(times: [(f64, f64); PASSES]) -> Figures {
    let mut means = times.map(|(mean, _)| mean);
    means.sort_by(f64::total_cmp);
    Figures {
        median: means[PASSES / 2],
        min: times.iter().map(|time| time.1).fold(f64::MAX, f64::min),
        max: means[PASSES - 1],
    }
}

/// Rows that were asked for by a part of their names, and how they are printed.
pub struct Rows(Option<String>);

impl Rows {
    /// The rows that the command line names; all where it names none.
    pub fn chosen() -> Self {
        println!(
            "{:<34} {:>9} {:>9} {:>9}  {:>7}  {:>7}",
            "ns per operation", "median", "min", "max", "x floor", "x peer"
        );
        Self(std::env::args().skip(1).find(|arg| !arg.starts_with("--")))
    }

    /// Whether a row is wanted.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|part| name.contains(part))
    }

    /// Prints a row with its ratios, least to least, to a floor and to the incumbent's figure.
    pub fn print(&self, name: &str, figures: Figures, floor: Option<Figures>, peer: Option<f64>) {
        let ratio = |to: Option<f64>| match to {
            Some(to) => format!("{:.2}", figures.min / to),
            None => "-".into(),
        };
        println!(
            "{name:<34} {:>9.1} {:>9.1} {:>9.1}  {:>7}  {:>7}",
            figures.median,
            figures.min,
            figures.max,
            ratio(floor.map(|floor| floor.min)),
            ratio(peer)
        );
    }
}
