//! Claims of contiguous memory, timed in the published sequences; none moves anything.

use super::claims::{Cell, Claims, GIB_FRAMES, Sequence, area};
use super::timed::Timer;

/// Sizes and their orders, and operations of a pass for pairs and for the others.
const SIZES: [(&str, u32); 4] = [("4KiB", 0), ("64KiB", 4), ("2MiB", 9), ("64MiB", 14)];
const PAIRS: u32 = 200_000;
const OTHERS: u32 = 20_000;

/// The rows of one size, and what each does.
fn cells(order: u32) -> Vec<(String, Cell, u32)> {
    let mut cells = Vec::new();
    for percent in [0, 50, 90] {
        let cell = Cell::Pair { percent, order };
        cells.push((format!("full{percent}/pair"), cell, PAIRS));
    }
    for percent in [50, 90] {
        let cell = Cell::Random { percent, order };
        cells.push((format!("full{percent}/random"), cell, OTHERS));
        let cell = Cell::Swap { percent, order };
        cells.push((format!("full{percent}/swap"), cell, OTHERS));
    }
    for percent in [50, 90].into_iter().filter(|_| order < 14) {
        let cell = Cell::Prefix { percent, order };
        cells.push((format!("prefix{percent}/pair"), cell, OTHERS));
    }
    if [4, 9].contains(&order) {
        let cell = Cell::Fail { order };
        cells.push(("failing-in-4096-full75".to_owned(), cell, OTHERS));
    }
    cells
}

impl Timer<'_> {
    /// Areas of 1 and 8 GiB.
    pub fn areas(&mut self) {
        for gib in [1, 8] {
            for (size, order) in SIZES {
                for (what, cell, count) in cells(order) {
                    self.claims(&format!("areas/{gib}GiB/{size}/{what}"), gib, cell, count);
                }
            }
            for percent in [50, 90] {
                let row = format!("areas/{gib}GiB/mixed/full{percent}/random");
                self.claims(&row, gib, Cell::Mix { percent }, OTHERS);
            }
        }
    }

    fn claims(&mut self, row: &str, gib: u64, cell: Cell, count: u32) {
        // Filling an area takes longer than a pass.
        if !(self.wants)(row) {
            return;
        }
        let frames = gib * GIB_FRAMES;
        let claims = Claims {
            area: area(frames),
            answers: None,
        };
        let mut sequence = Sequence::new(claims, frames);
        sequence.set_up(cell);
        self.time(row, count, |n| sequence.pass(cell, n as usize));
    }
}
