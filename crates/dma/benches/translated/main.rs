//! What mapping through a domain costs: the sequences of the incumbent's scatterlist benchmark.
//!
//! `cargo bench -p dmakit-dma --bench translated [-- PART-OF-A-ROW'S-NAME]` times them;
//! `... -- counted [PART-OF-A-LIST'S-NAME]` counts instructions, where valgrind is installed, and table
//! stores. Hardware is a counter here: commands cost what building and counting them costs, as for the
//! incumbent's figures.

mod counted;
mod machine;
mod meter;
#[path = "../../../iova/benches/passes.rs"]
mod passes;
mod published;
mod turns;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::PhysRange;
use dmakit_io_pgtable::WalkCoherence;
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuId, IrqMutex};
use machine::{Machine, Mode, Shape};
use passes::{Figures, Rows, measure, measure_pair};
use turns::{Incumbent, OneStep, PageByPage, QUEUE, TwoStep};

/// What nobody can do without: a checked store for each entry, and one that clears it.
fn floor(words: &[AtomicU64], entries: usize) {
    for word in &words[..entries] {
        assert_eq!(word.load(Ordering::Relaxed), 0);
        word.store(black_box(1), Ordering::Relaxed);
    }
    for word in &words[..entries] {
        assert_ne!(word.load(Ordering::Relaxed), 0);
        word.store(0, Ordering::Relaxed);
    }
}

/// Rows of one list.
struct List<'a> {
    rows: &'a Rows,
    shape: Shape,
    count: usize,
    mode: Mode,
    runs: Vec<PhysRange>,
    words: Vec<AtomicU64>,
}

impl List<'_> {
    fn name(&self, what: &str) -> String {
        let (shape, mode) = (self.shape.name(), self.mode.name());
        format!("{shape} {} {mode} {what}", self.count)
    }

    fn ops(&self) -> usize {
        400_000 / self.count.max(2)
    }

    /// Times `turn` beside the floor, where the row is wanted.
    fn time(&self, what: &str, peer: Option<f64>, mut turn: impl FnMut()) {
        let name = self.name(what);
        if !self.rows.has(&name) {
            return;
        }
        let entries = self.runs.iter().map(|run| run.len() >> 12).sum::<u64>() as usize;
        let stores = |n| (0..n).for_each(|_| floor(&self.words, entries));
        let turns = |n| (0..n).for_each(|_| turn());
        let (least, figures) = measure_pair(self.ops(), stores, turns);
        let floor = format!("floor: {entries} checked stores, twice");
        self.rows.print(&floor, least, None, None);
        self.rows.print(&name, figures, Some(least), peer);
    }

    fn all(&self) {
        let machine = Machine::new(HostPlatform::new(1), self.mode, WalkCoherence::Coherent);
        let device = machine.device();
        machine.stock(2 * QUEUE + 1, self.runs.iter().map(PhysRange::len).sum());
        let peers = published::of(self.shape, self.count, self.mode);
        let peer = |way: usize| peers.map(|figures| figures[way].ns);
        let mut one = OneStep::new(&device, self.mode, &self.runs);
        self.time("one step", peer(0), || one.turn());
        one.close();
        let mut two = TwoStep::new(&device, self.mode, &self.runs);
        self.time("two steps", peer(1), || two.turn());
        two.close();
        if self.mode == Mode::Batched {
            return;
        }
        let mut modelled = Incumbent::new(&machine, self.mode, &self.runs);
        self.time("incumbent's steps, modelled", None, || modelled.turn());
        let peer = published::page_by_page(self.shape, self.count, self.mode);
        let mut pages = PageByPage::new(&device, &self.runs);
        let name = self.name("page by page");
        if self.rows.has(&name) {
            let turns = |n| (0..n).for_each(|_| pages.turn());
            let figures: Figures = measure(self.ops() / 4 + 50, turns);
            self.rows.print(&name, figures, None, peer);
        }
    }
}

fn lock_pair(rows: &Rows) {
    let lock = IrqMutex::<HostPlatform, _>::new(0_u64);
    let pairs = |n| (0..n).for_each(|_| *lock.lock() += 1);
    rows.print("floor: lock pair", measure(1_000_000, pairs), None, None);
}

fn main() {
    // The incumbent's figures have neither interrupts to keep out nor a CPU to look for.
    HostPlatform::bind_thread(CpuId::new(0));
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.first().map(String::as_str) {
        Some("run") => return counted::run_named(&words[1..]).expect("a way, a list, turns"),
        Some("counted") => return counted::print(words.get(1).map_or("", String::as_str)),
        _ => {}
    }
    let rows = Rows::chosen();
    lock_pair(&rows);
    for shape in Shape::ALL {
        for count in [1, 16, 128, 1024] {
            for mode in Mode::ALL {
                let list = List {
                    rows: &rows,
                    shape,
                    count,
                    mode,
                    runs: shape.runs(count),
                    words: (0..16 << 10).map(|_| AtomicU64::new(0)).collect(),
                };
                list.all();
            }
        }
    }
}
