//! What counts are worth in time: constants with their sources, and how far they reach.
//!
//! Two of them are fitted on one published row, and only on that: 4 KiB random reads of an Optane
//! disk by one core, 5.01 M, 1.93 M and 0.57 M of them a second without translation, lazy and
//! strict. The others are what entries, runs and copies take on machines on which they were timed.

use serde::Serialize;

use super::counts::Counts;

/// A constant in nanoseconds: most likely, and between which bounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Constant {
    pub name: &'static str,
    pub ns: f64,
    pub low_ns: f64,
    pub high_ns: f64,
    pub source: &'static str,
}

/// A time with its interval, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    pub ns: f64,
    pub low_ns: f64,
    pub high_ns: f64,
}

/// I/Os a second in millions, as a publication rounds them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub millions: f64,
    /// Half of the last digit.
    pub rounding: f64,
}

/// A published row: the same load without translation, lazy and strict.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub passthrough: Rate,
    pub lazy: Rate,
    pub strict: Rate,
}

const fn rate(millions: f64, rounding: f64) -> Rate {
    Rate { millions, rounding }
}

/// linux-nvme, November 2025: Intel Optane, `t/io_uring`, 4 KiB.
pub const FITTED: Row = Row {
    passthrough: rate(5.01, 0.005),
    lazy: rate(1.93, 0.005),
    strict: rate(0.57, 0.005),
};
const FITTED_SOURCE: &str = "fitted: Optane, t/io_uring, 4 KiB, 5.01/1.93/0.57 M a second \
     (lists.infradead.org, linux-nvme, 2025-11, 059804)";

/// Unmaps between two flushes of a lazy queue at such rates: its ring is full before its timer.
const UNMAPS_PER_FLUSH: f64 = 255.0;

/// All constants.
#[derive(Clone, Debug)]
pub struct Constants {
    /// One mapping with its unmap: addresses, the walk to the table, the calls.
    pub call: Constant,
    /// One more physical run.
    pub run: Constant,
    /// One entry of a table.
    pub store: Constant,
    /// One invalidation and the wait for it.
    pub sync: Constant,
    /// One piece that gets room in a bounce pool and gives it back.
    pub slot: Constant,
    /// One byte copied.
    pub byte: Constant,
}

impl Constants {
    /// Fitted so that the published row comes out: one page, so one run, an entry written and
    /// cleared; lazy, one flush for each full ring; strict, a sync for each unmap.
    pub fn new() -> Self {
        const TIMED: &str = "timed: Linux 6.12's own code in user space on one core \
             (scatterlists of 16 and 128 pages, map and unmap)";
        let run = Constant {
            name: "run",
            ns: 19.9,
            low_ns: 15.0,
            high_ns: 25.0,
            source: TIMED,
        };
        let store = Constant {
            name: "store",
            ns: 5.1,
            low_ns: 1.0,
            high_ns: 10.0,
            source: TIMED,
        };
        let page = run.ns + 2.0 * store.ns;
        let lazy = span(FITTED.lazy, FITTED.passthrough);
        let strict = span(FITTED.strict, FITTED.lazy);
        let share = 1.0 / UNMAPS_PER_FLUSH;
        let sync = strict.map(|ns| ns / (1.0 - share));
        let call = lazy.map(|ns| ns - page - sync[0] * share);
        let fitted = |name, [ns, low_ns, high_ns]: [f64; 3]| Constant {
            name,
            ns,
            low_ns,
            high_ns,
            source: FITTED_SOURCE,
        };
        Self {
            call: fitted("call", call),
            run,
            store,
            sync: fitted("sync", sync),
            slot: Constant {
                name: "slot",
                ns: 40.0,
                low_ns: 30.0,
                high_ns: 110.0,
                source: "timed: Linux 6.12's own pool in user space on one core, 4 KiB pairs",
            },
            byte: Constant {
                name: "byte copied",
                ns: 0.1,
                low_ns: 0.05,
                high_ns: 0.2,
                source: "5 to 20 GB a second, from memory to cache",
            },
        }
    }

    /// In the order printed.
    pub fn all(&self) -> [Constant; 6] {
        [
            self.call, self.run, self.store, self.sync, self.slot, self.byte,
        ]
    }

    /// The added time of one I/O. `None` where there was none.
    pub fn per_io(&self, counts: &Counts) -> Option<Time> {
        let ios = counts.ios as f64;
        // Addresses are taken and given back: two operations for one mapping.
        let terms = [
            (self.call, counts.iova_operations as f64 / 2.0),
            (self.run, counts.runs as f64),
            (self.store, counts.table_stores as f64),
            (self.sync, counts.syncs as f64),
            (self.slot, counts.bounces as f64),
            (self.byte, counts.bytes_copied as f64),
        ];
        let sum = |of: fn(&Constant) -> f64| {
            let sum: f64 = terms
                .iter()
                .map(|(constant, count)| of(constant) * count)
                .sum();
            tenths(sum / ios)
        };
        (counts.ios > 0).then(|| Time {
            ns: sum(|constant| constant.ns),
            low_ns: sum(|constant| constant.low_ns),
            high_ns: sum(|constant| constant.high_ns),
        })
    }
}

/// What one I/O takes more than another's: likely, least and most with both figures' rounding.
fn span(slow: Rate, fast: Rate) -> [f64; 3] {
    let ns = |rate: Rate, by: f64| 1000.0 / (rate.millions + by * rate.rounding);
    [
        ns(slow, 0.0) - ns(fast, 0.0),
        ns(slow, 1.0) - ns(fast, -1.0),
        ns(slow, -1.0) - ns(fast, 1.0),
    ]
}

/// Tenths, so that the decimal printed is short.
pub fn tenths(ns: f64) -> f64 {
    (ns * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One page a time, as the fitted row has it.
    fn published(syncs: u64, ios: u64) -> Counts {
        Counts {
            ios,
            iova_operations: 2 * ios,
            runs: ios,
            table_stores: 2 * ios,
            syncs,
            ..Counts::default()
        }
    }

    #[test]
    fn the_fitted_row_comes_out_of_the_constants() {
        let constants = Constants::new();
        let base = 1000.0 / FITTED.passthrough.millions;
        let lazy = constants.per_io(&published(1000, 255_000)).unwrap();
        let strict = constants.per_io(&published(1000, 1000)).unwrap();
        assert!((1000.0 / (base + lazy.ns) - FITTED.lazy.millions).abs() < 0.005);
        assert!((1000.0 / (base + strict.ns) - FITTED.strict.millions).abs() < 0.005);
    }

    #[test]
    fn every_interval_holds_its_constant() {
        for constant in Constants::new().all() {
            assert!(constant.low_ns > 0.0, "{}", constant.name);
            assert!(constant.low_ns <= constant.ns && constant.ns <= constant.high_ns);
        }
    }
}
