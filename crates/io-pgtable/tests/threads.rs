//! Several CPUs in one tree: ranges apart, tables shared.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use dmakit_addr::{Granule, Iova, PhysAddr};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use support::{Memory, Rng, range};

const THREADS: u64 = 3;
/// Each thread's share of every stretch: a third of a leaf table, rounded down to whole pages.
const STRETCH: u64 = 2 << 20;
const SHARE: u64 = STRETCH / 4;

fn steps() -> u64 {
    let steps = std::env::var("DMAKIT_STEPS").ok();
    let steps: Option<u64> = steps.and_then(|text| text.parse().ok());
    steps.unwrap_or(600_000) / THREADS
}

/// Threads map and unmap in their own shares of the same leaf tables, and whole leaf tables that
/// hang from the same upper ones.
#[test]
fn threads_in_ranges_apart_never_lose_an_entry() {
    let memory = Memory::new(64 << 20);
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let platform = HostPlatform::new(3);
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, platform, &memory, None, coherence).unwrap();
    let mapped = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, mapped) = (&table, &mapped);
            scope.spawn(move || {
                let mut rng = Rng(0x9E37_79B9_7F4A_7C15 + thread);
                let mut live: Vec<(u64, u64, u64)> = Vec::new();
                for step in 0..steps() {
                    let at = format!("thread {thread} step {step}");
                    if rng.below(2) == 0 || live.is_empty() {
                        let (start, len) = place(&mut rng, thread);
                        if live
                            .iter()
                            .any(|&(s, l, _)| s < start + len && start < s + l)
                        {
                            continue;
                        }
                        let to = (1 << 32) * (thread + 1) + rng.below(1 << 12) * 4096;
                        table
                            .map(range(start, len), PhysAddr::new(to), Permissions::READ)
                            .unwrap_or_else(|error| panic!("{at}: {error}"));
                        live.push((start, len, to));
                        mapped.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let index = rng.below(live.len() as u64) as usize;
                        let (start, len, to) = live.swap_remove(index);
                        for offset in [0, len / 2, len - 1] {
                            let found = table.iova_to_phys(Iova::new(start + offset));
                            assert_eq!(found, Some(PhysAddr::new(to + offset)), "{at}");
                        }
                        let mut gather = Gather::new();
                        table
                            .unmap(range(start, len), &mut gather)
                            .unwrap_or_else(|error| panic!("{at}: {error}"));
                        assert_eq!(table.iova_to_phys(Iova::new(start)), None, "{at}");
                        table.recycle(gather);
                        let statistics = table.statistics();
                        assert!(statistics.used < 1 << 14, "{at}: {statistics:?}");
                    }
                }
                let mut gather = Gather::new();
                for (start, len, _) in live {
                    table.unmap(range(start, len), &mut gather).unwrap();
                }
                table.recycle(gather);
            });
        }
    });
    assert!(mapped.load(Ordering::Relaxed) > 100);
    assert_eq!(table.leaves(range(0, 1 << 40)).count(), 0);
    let mut gather = Gather::new();
    table.prune(range(0, 1 << 48), &mut gather).unwrap();
    table.recycle(gather);
    assert_eq!(table.statistics().used, 1);
    let statistics = table.statistics();
    assert_eq!(statistics.used + statistics.stock, memory.taken());
}

/// A range that is the thread's own: part of a stretch that all have a share of, or whole stretches
/// of every third gigabyte.
fn place(rng: &mut Rng, thread: u64) -> (u64, u64) {
    if rng.below(3) > 0 {
        let stretch = rng.below(24) * STRETCH;
        let page = rng.below(SHARE / 4096 - 1);
        let len = 1 + rng.below(SHARE / 4096 - page - 1).min(20);
        return (stretch + thread * SHARE + page * 4096, len * 4096);
    }
    let base = (1 << 36) + rng.below(2) * (3 << 30) + (thread << 30);
    (base + rng.below(4) * STRETCH, STRETCH)
}
