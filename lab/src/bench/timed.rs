//! Rows that are timed: one warm-up pass, then seven, each going on from where the last one ended.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;

use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuId, IrqMutex};
use serde::Serialize;

use super::cpu::{ThreadTime, pin};
use super::incumbent::{Figure, figure};
use super::sequences::{Draws, SIZES, Sequence, Subject};
use super::subjects::{Buffers, Slots, buffers, pool, set, slots};

/// Timed passes of a row.
const PASSES: usize = 7;

/// A time, and what it stands beside.
#[derive(Clone, Debug, Serialize)]
pub struct TimedRow {
    pub row: String,
    /// Operations of a pass.
    pub operations: u32,
    pub ns: Nanoseconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Beside>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incumbent: Option<Figure>,
    /// Of the least time to the incumbent's least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_incumbent: Option<f64>,
}

/// Of one operation, over the passes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Nanoseconds {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// Another row of the same run, and the ratio of the least times.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    pub row: String,
    pub ratio: f64,
}

/// The rows of one run as they come.
pub struct Timer<'a> {
    /// Whether a row is wanted.
    pub wants: &'a dyn Fn(&str) -> bool,
    /// CPUs that threads may be put on.
    pub cpus: usize,
    /// Operations are divided by this.
    pub divisor: u32,
    /// Hears what is being timed.
    pub tell: &'a dyn Fn(&str),
    pub rows: Vec<TimedRow>,
}

/// Times what it is given.
pub type Run<'r> = dyn FnMut(&mut dyn FnMut(u32)) + 'r;

impl Timer<'_> {
    /// Times everything that is wanted, the floors first.
    pub fn run(&mut self) {
        self.floors();
        for areas in [1, 2] {
            for (size, without, with) in SIZES {
                self.fills(
                    &format!("search/areas{areas}/{size}"),
                    size,
                    without,
                    &|run| {
                        let pool = pool(32768, areas);
                        run(&mut Driven::Slots(slots(&pool, 0)));
                    },
                );
                self.fills(&format!("copies/areas{areas}/{size}"), size, with, &|run| {
                    let set = set(areas);
                    run(&mut Driven::Buffers(buffers(&set, size)));
                });
                self.two_threads(areas, size, without / 2);
            }
            let row = format!("search/areas{areas}/65536/failing-in-4096-full50");
            if (self.wants)(&row) {
                let pool = pool(32768, areas);
                let mut sequence = slots(&pool, 0);
                sequence.fill(4096, 50);
                self.time(&row, 2000, |n| {
                    sequence.failures(65536, n);
                });
            }
        }
        self.areas();
        self.spaces();
        self.tables();
        self.commands();
    }

    fn fills(&mut self, prefix: &str, size: u32, count: u32, with: &dyn Fn(&mut User<'_>)) {
        for percent in [0, 50, 90] {
            let row = |what: &str| format!("{prefix}/full{percent}/{what}");
            let wanted: Vec<String> = ["pair", "random"]
                .into_iter()
                .filter(|what| percent > 0 || *what == "pair")
                .map(row)
                .filter(|row| (self.wants)(row))
                .collect();
            for row in wanted {
                with(&mut |driven| {
                    driven.fill(size, percent);
                    let is_pair = row.ends_with("pair");
                    self.time(&row, count, |n| driven.run(is_pair, size, n));
                });
            }
        }
    }

    /// Each thread maps and unmaps on a CPU of its own.
    fn two_threads(&mut self, areas: u32, size: u32, count: u32) {
        let row = format!("search/areas{areas}/{size}/full0/pair/2threads");
        if !(self.wants)(&row) {
            return;
        }
        let pool = pool(32768, areas);
        self.on_two_cpus(&row, count, &|cpu, run| {
            let mut sequence = slots(&pool, cpu);
            run(&mut |n| {
                black_box(sequence.pairs(size, n));
            });
        });
    }

    /// Two threads on a CPU each, with what `with` makes for it: the time of the slower one.
    pub fn on_two_cpus(
        &mut self,
        row: &str,
        count: u32,
        with: &(dyn Fn(u32, &mut Run<'_>) + Sync),
    ) {
        if self.cpus < 2 || !(self.wants)(row) {
            return;
        }
        (self.tell)(row);
        let count = self.count(count);
        let passes: Vec<f64> = (0..PASSES)
            .map(|_| {
                let barrier = Barrier::new(2);
                thread::scope(|scope| {
                    let threads = [0, 1].map(|cpu| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            pin(cpu as usize);
                            HostPlatform::bind_thread(CpuId::new(cpu));
                            let mut took = f64::NAN;
                            with(cpu, &mut |body| {
                                body(count);
                                barrier.wait();
                                let start = ThreadTime::now();
                                body(count);
                                took = start.elapsed_ns() / f64::from(count);
                            });
                            took
                        })
                    });
                    let each = threads.map(|thread| thread.join().unwrap_or(f64::NAN));
                    each[0].max(each[1])
                })
            })
            .collect();
        self.note(row, count, passes);
    }

    fn floors(&mut self) {
        let lock = IrqMutex::<HostPlatform, u64>::new(0);
        self.time("floor/lock-pair", 4_000_000, |count| {
            for _ in 0..count {
                *black_box(&lock).lock() += 1;
            }
        });
        let (mut draws, table) = (Draws::default(), vec![0_u32; 1 << 20]);
        self.time("floor/draw-and-index-1M", 4_000_000, |count| {
            for _ in 0..count {
                black_box(table[draws.below(table.len())]);
            }
        });
        for size in [512_usize, 4096] {
            let (from, mut to) = (vec![1_u8; size], vec![0_u8; size]);
            self.time(&format!("floor/memcpy/{size}"), 1_000_000, |count| {
                for _ in 0..count {
                    to.copy_from_slice(black_box(&from));
                    black_box(&mut to);
                }
            });
        }
        for (size, _, count) in SIZES {
            for (name, pool_bytes) in [("warm-copies", 0), ("cold-walk", 64 << 20)] {
                let row = format!("floor/{name}/{size}");
                if (self.wants)(&row) {
                    let mut walk = Walk::new(size as usize, pool_bytes);
                    self.time(&row, count, |n| walk.run(n));
                }
            }
        }
    }

    fn count(&self, count: u32) -> u32 {
        (count / self.divisor).max(100)
    }

    pub fn time(&mut self, row: &str, count: u32, mut body: impl FnMut(u32)) {
        if !(self.wants)(row) {
            return;
        }
        (self.tell)(row);
        let count = self.count(count);
        body(count);
        let passes = (0..PASSES).map(|_| {
            let start = ThreadTime::now();
            body(count);
            start.elapsed_ns() / f64::from(count)
        });
        let passes = passes.collect();
        self.note(row, count, passes);
    }

    fn note(&mut self, row: &str, operations: u32, mut passes: Vec<f64>) {
        passes.sort_by(f64::total_cmp);
        let at = |index: usize| passes.get(index).copied().unwrap_or(f64::NAN);
        let ns = Nanoseconds {
            min: rounded(at(0)),
            median: rounded(at(passes.len() / 2)),
            max: rounded(at(passes.len().saturating_sub(1))),
        };
        let floor = floor_of(row).and_then(|name| {
            let floor = self.rows.iter().find(|known| known.row == name)?;
            Some(Beside {
                ratio: rounded(ns.min / floor.ns.min),
                row: name,
            })
        });
        let incumbent = figure(row);
        self.rows.push(TimedRow {
            row: row.to_owned(),
            operations,
            ns,
            floor,
            incumbent,
            to_incumbent: incumbent.map(|figure| thousandths(ns.min / figure.min)),
        });
    }
}

/// The floor that a row stands on: the lock that each operation takes, or the copies without any
/// allocator, to one slot over and over for pairs and through a whole pool for random ones.
pub fn floor_of(row: &str) -> Option<String> {
    if row.starts_with("search/") || row.starts_with("areas/") {
        return Some("floor/lock-pair".to_owned());
    }
    if let Some(floor) = super::translation::floor_of(row) {
        return Some(floor);
    }
    let size = row.strip_prefix("copies/")?.split('/').nth(1)?;
    match row.ends_with("random") {
        true => Some(format!("floor/cold-walk/{size}")),
        false => Some(format!("floor/warm-copies/{size}")),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What is done with a sequence while its pool lives.
type User<'u> = dyn FnMut(&mut Driven<'_>) + 'u;

/// What is driven, for one loop over both.
enum Driven<'a> {
    Slots(Sequence<Slots<'a>>),
    Buffers(Sequence<Buffers<'a>>),
}

impl Driven<'_> {
    fn fill(&mut self, size: u32, percent: usize) {
        match self {
            Self::Slots(sequence) => sequence.fill(size, percent),
            Self::Buffers(sequence) => sequence.fill(size, percent),
        }
    }

    fn run(&mut self, is_pair: bool, size: u32, count: u32) {
        fn go<S: Subject>(sequence: &mut Sequence<S>, is_pair: bool, size: u32, count: u32) {
            let failed = match is_pair {
                true => sequence.pairs(size, count),
                false => sequence.random(size, count),
            };
            black_box(failed);
        }
        match self {
            Self::Slots(sequence) => go(sequence, is_pair, size, count),
            Self::Buffers(sequence) => go(sequence, is_pair, size, count),
        }
    }
}

/// Both copies of a mapping, to slots that walk through a pool, without any allocator.
struct Walk {
    size: usize,
    original: Vec<u8>,
    pool: Vec<u8>,
    op: usize,
}

impl Walk {
    /// A pool of one mapping at least.
    fn new(size: usize, pool_bytes: usize) -> Self {
        Self {
            size,
            original: vec![7; 64 * (size + 128)],
            pool: vec![1; pool_bytes.max(size.next_multiple_of(2048))],
            op: 0,
        }
    }

    fn run(&mut self, count: u32) {
        let stride = self.size.next_multiple_of(2048);
        let places = self.pool.len() / stride;
        for _ in 0..count {
            let (from, to) = (
                (self.op % 64) * (self.size + 128),
                (self.op % places) * stride,
            );
            let original = &mut self.original[from..from + self.size];
            let slots = &mut self.pool[to..to + self.size];
            slots.copy_from_slice(black_box(&*original));
            original.copy_from_slice(black_box(&*slots));
            self.op += 1;
        }
    }
}
