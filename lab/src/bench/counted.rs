//! Rows that are counted, each with its bound.

use dmakit_platform::CpuId;
use dmakit_platform::host::HostPlatform;
use dmakit_swiotlb::{Fit, Record, SlotPool};
use serde::Serialize;

use super::sequences::Draws;
use super::subjects::{buffers, pool, set, slots};

/// A count and what it must not exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountedRow {
    pub row: String,
    pub count: u64,
    pub bound: u64,
}

/// Searches of each kind.
const SEARCHES: u32 = 1000;

/// Bytes of Linux's record of a slot: 24 for each 2 KiB.
const INCUMBENT_SLOT_BYTES: u64 = 24;

/// What a search asks for, in slots of 2 KiB, their alignment, and the most probes that
/// [`Area::take`](dmakit_swiotlb::Area::take) promises for it.
const REQUESTS: [(&str, u32, u32, u64); 4] = [
    ("512B", 1, 1, 9),
    ("4KiB", 2, 2, 9),
    ("64KiB", 32, 2, 40),
    ("64KiB-aligned", 32, 32, 40),
];

/// Pools of 1 MiB and of 1 GiB.
const POOLS: [(&str, u32); 2] = [("1MiB", 512), ("1GiB", 524_288)];

/// All counted rows in their order, those that `wants` wants.
pub fn rows(wants: &dyn Fn(&str) -> bool) -> Vec<CountedRow> {
    let mut rows = Vec::new();
    for (pool_name, slots) in POOLS {
        for percent in [0, 50, 90, 99] {
            let prefix = format!("probes/{pool_name}/full{percent}");
            probes(&prefix, slots, percent, wants, &mut rows);
        }
        for percent in [50, 90, 99] {
            let prefix = format!("probes/{pool_name}");
            misaligned(&prefix, slots, percent, wants, &mut rows);
        }
    }
    for (pool_name, slots) in POOLS {
        let row = format!("metadata_bytes_per_slot/{pool_name}");
        if wants(&row) {
            let bytes = pool(slots, 1).metadata_bytes() as u64;
            rows.push(CountedRow {
                row,
                count: bytes.div_ceil(u64::from(slots)),
                bound: INCUMBENT_SLOT_BYTES,
            });
        }
    }
    for size in [512, 4096, 65536] {
        let row = format!("copied_bytes_per_pair/{size}");
        if wants(&row) {
            let set = set(1);
            buffers(&set, size).pairs(size, SEARCHES);
            rows.push(CountedRow {
                row,
                count: set.statistics().copied / u64::from(SEARCHES),
                bound: u64::from(size) * 2,
            });
        }
    }
    super::translation::counted(wants, &mut rows);
    rows
}

/// Searches in a pool filled with 4 KiB mappings of which random ones went.
fn probes(
    prefix: &str,
    slot_count: u32,
    percent: usize,
    wants: &dyn Fn(&str) -> bool,
    rows: &mut Vec<CountedRow>,
) {
    for (name, length, align, bound) in REQUESTS {
        let cases = [
            (format!("{prefix}/{name}"), length),
            // Longer than the pool: fails at any fill.
            (format!("{prefix}/{name}/too-long"), slot_count + length),
        ];
        let wanted = cases.into_iter().filter(|(row, _)| wants(row));
        for (row, length) in wanted {
            let pool = pool(slot_count, 1);
            slots(&pool, 0).fill(4096, percent);
            rows.push(searched(row, &pool, &Fit::aligned(length, align), bound));
        }
    }
}

/// Searches in a pool of runs that are long enough but nearly all begin one slot beyond where the
/// request must: what no index by length can tell.
fn misaligned(
    prefix: &str,
    slot_count: u32,
    percent: usize,
    wants: &dyn Fn(&str) -> bool,
    rows: &mut Vec<CountedRow>,
) {
    for is_apart in [false, true] {
        let what = if is_apart {
            "misaligned-apart"
        } else {
            "misaligned"
        };
        let row = format!("{prefix}/{what}{percent}/64KiB-aligned");
        if wants(&row) {
            let pool = misaligned_pool(slot_count, percent, is_apart);
            rows.push(searched(row, &pool, &Fit::aligned(32, 32), 40));
        }
    }
}

/// `is_apart`: no two that went were neighbours, so that no run holds a place that fits.
fn misaligned_pool(slot_count: u32, percent: usize, is_apart: bool) -> SlotPool<HostPlatform> {
    let pool = pool(slot_count, 1);
    let take = |length: u32| {
        let fit = Fit::aligned(length, 1);
        pool.take(&fit, CpuId::new(0), record(&fit)).ok()
    };
    take(1);
    let mut live: Vec<u32> = std::iter::from_fn(|| take(32)).collect();
    if is_apart {
        for first in live.iter().step_by(100 / (100 - percent)) {
            pool.give_back(*first, 0);
        }
        return pool;
    }
    let keep = live.len() * percent / 100;
    let mut draws = Draws::default();
    while live.len() > keep {
        let first = live.swap_remove(draws.below(live.len()));
        pool.give_back(first, 0);
    }
    pool
}

/// The row of searches for `fit`: the one word that is looked at before an area is searched, and
/// the most probes of a search. Those of the filling count too, where they took more.
fn searched(row: String, pool: &SlotPool<HostPlatform>, fit: &Fit, bound: u64) -> CountedRow {
    let before = pool.probes().0;
    let failed = search(pool, fit);
    let (all, most) = pool.probes();
    // The shortest way is in the sum only, not in the most.
    let mean = (all - before).div_ceil(u64::from(SEARCHES));
    let outcome = match failed {
        0 => "served",
        SEARCHES => "failing",
        _ => "mixed",
    };
    CountedRow {
        row: format!("{row}/{outcome}"),
        count: 1 + mean.max(u64::from(most)),
        bound: 1 + bound,
    }
}

fn record(fit: &Fit) -> Record {
    Record {
        slots: fit.slots,
        offset: 0,
        tail: 0,
        device: 0,
        flags: 0,
    }
}

/// Takes and gives back; how many searches failed.
fn search(pool: &SlotPool<HostPlatform>, fit: &Fit) -> u32 {
    let record = record(fit);
    let mut failed = 0;
    for _ in 0..SEARCHES {
        match pool.take(fit, CpuId::new(0), record) {
            Ok(first) => {
                pool.give_back(first, 0);
            }
            Err(_) => failed += 1,
        }
    }
    failed
}
