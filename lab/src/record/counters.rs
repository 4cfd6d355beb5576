//! The kernel's own counters of bounce pools and CMA areas.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::root::{Root, names, number, write};

/// The pool that is no device's own.
const DEFAULT: &str = "default";

/// All counters at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// By pool.
    pub swiotlb: BTreeMap<String, PoolCounters>,
    /// By area.
    pub cma: BTreeMap<String, AreaCounters>,
}

/// A bounce pool's, in slots.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PoolCounters {
    pub nslabs: Option<u64>,
    pub used: Option<u64>,
    pub used_hiwater: Option<u64>,
}

/// A CMA area's, in pages and calls.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AreaCounters {
    pub count: Option<u64>,
    pub used: Option<u64>,
    pub maxchunk: Option<u64>,
    pub alloc_pages_success: Option<u64>,
    pub alloc_pages_fail: Option<u64>,
    pub release_pages_success: Option<u64>,
}

impl Counters {
    /// Those that this kernel has.
    pub fn read(root: &Root) -> Self {
        let pools = root.path("sys/kernel/debug/swiotlb");
        let mut swiotlb = BTreeMap::new();
        if pools.join("io_tlb_nslabs").exists() {
            swiotlb.insert(DEFAULT.to_owned(), pool(&pools));
        }
        for name in names(&pools) {
            if pools.join(&name).is_dir() {
                swiotlb.insert(name.clone(), pool(&pools.join(name)));
            }
        }
        let (debug, calls) = (
            root.path("sys/kernel/debug/cma"),
            root.path("sys/kernel/mm/cma"),
        );
        let mut areas = names(&debug);
        areas.extend(names(&calls));
        let cma = areas
            .into_iter()
            .map(|name| (name.clone(), area(&debug.join(&name), &calls.join(&name))))
            .collect();
        Self { swiotlb, cma }
    }

    /// The pool that devices without one of their own use.
    pub fn pool(&self) -> PoolCounters {
        self.swiotlb.get(DEFAULT).copied().unwrap_or_default()
    }
}

fn pool(dir: &Path) -> PoolCounters {
    let of = |name: &str| number(&dir.join(name));
    PoolCounters {
        nslabs: of("io_tlb_nslabs"),
        used: of("io_tlb_used"),
        used_hiwater: of("io_tlb_used_hiwater"),
    }
}

fn area(debug: &Path, calls: &Path) -> AreaCounters {
    let (in_debug, of) = (
        |name: &str| number(&debug.join(name)),
        |name: &str| number(&calls.join(name)),
    );
    AreaCounters {
        count: in_debug("count"),
        used: in_debug("used"),
        maxchunk: in_debug("maxchunk"),
        alloc_pages_success: of("alloc_pages_success"),
        alloc_pages_fail: of("alloc_pages_fail"),
        release_pages_success: of("release_pages_success"),
    }
}

/// Lets the high-water mark begin anew. There is no way to put it back.
pub fn reset_high_water(root: &Root) -> std::io::Result<()> {
    write(
        &root.path("sys/kernel/debug/swiotlb/io_tlb_used_hiwater"),
        "0",
    )
}

/// The high water of the time between two readings, where they tell: a mark that rose, or that was
/// set back before.
pub fn high_water_between(
    before: PoolCounters,
    after: PoolCounters,
    was_reset: bool,
) -> Option<u64> {
    let high = after.used_hiwater?;
    let rose = before.used_hiwater.is_some_and(|before| before < high);
    (was_reset || rose).then_some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_did_not_rise_says_nothing_about_the_recording() {
        let mark = |used_hiwater| PoolCounters {
            used_hiwater,
            ..PoolCounters::default()
        };
        let between = |a, b, reset| high_water_between(mark(a), mark(b), reset);
        assert_eq!(between(Some(7), Some(9), false), Some(9));
        assert_eq!(between(Some(9), Some(9), false), None);
        assert_eq!(between(Some(0), Some(9), true), Some(9));
        assert_eq!(between(None, None, true), None);
    }
}
