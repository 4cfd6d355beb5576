//! What mapping through a domain does, counted: table entries, addresses, locks, fences, looks at the
//! clock, CPUs entered, commands and syncs. The same on every machine.

#[path = "../benches/translated/machine.rs"]
#[allow(dead_code, reason = "benchmarks use the rest")]
mod machine;
#[path = "../benches/translated/meter.rs"]
mod meter;
#[path = "../../iova/benches/passes.rs"]
mod passes;
#[path = "../benches/translated/turns.rs"]
#[allow(dead_code, reason = "benchmarks use the rest")]
mod turns;

use machine::{Mode, Shape};
use meter::{COUNTED, Counts, counted};
use turns::Way;

const COUNTS: [usize; 4] = [1, 16, 128, 1024];

/// Every list in every mode, as both do it.
fn each(mut visit: impl FnMut(&str, Mode, u64, [Counts; 2])) {
    for shape in Shape::ALL {
        for count in COUNTS {
            // 64 MiB of entries say no more than 8.
            if shape == Shape::Large && count > 128 {
                continue;
            }
            let runs = shape.runs(count);
            let pages = runs.iter().map(|run| run.len() >> 12).sum();
            for mode in Mode::ALL {
                let both = [Way::OneStep, Way::TwoSteps].map(|way| counted(way, mode, &runs));
                visit(&format!("{} {count}", shape.name()), mode, pages, both);
            }
        }
    }
}

#[test]
fn two_steps_never_do_more_of_anything_than_one() {
    each(|list, mode, _, [one, two]| {
        let is_at_most = two.stores <= one.stores
            && two.addresses <= one.addresses
            && two.locks <= one.locks
            && two.fences <= one.fences
            && two.entries <= one.entries
            && two.looks <= one.looks
            && two.commands <= one.commands
            && two.syncs <= one.syncs;
        assert!(is_at_most, "{list} {mode:?}: {one:?}, {two:?}");
        // The meter runs.
        assert!(two.stores > 0 && two.entries > 0 && two.syncs > 0);
    });
}

#[test]
fn each_entry_is_written_once_and_cleared_once() {
    each(|list, mode, pages, both| {
        // A leaf table that falls out as a whole is cleared where it is used again, if it is not
        // filled then as a whole.
        let tables = if pages >= 512 { pages / 512 } else { 0 };
        let written = match list {
            "4K-contiguous 1024" => pages,
            _ => 2 * pages,
        };
        for counts in both {
            let stores = COUNTED * (written + 2 * tables);
            assert_eq!(counts.stores, stores, "{list} {mode:?}");
        }
    });
}

/// All that was done, each as one.
fn operations(counts: Counts) -> u64 {
    let waits = counts.locks + counts.fences + counts.looks + counts.commands + counts.syncs;
    counts.stores + counts.addresses + counts.entries + waits
}

#[test]
fn a_batch_does_at_most_a_fifth_more_than_a_lazy_domain() {
    let mut batched = [0; 2];
    each(|list, mode, _, both| {
        let operations = both.map(operations);
        match mode {
            Mode::Strict => {}
            Mode::Batched => batched = operations,
            Mode::Lazy => {
                for (batched, lazy) in batched.into_iter().zip(operations) {
                    assert!(batched * 5 <= lazy * 6, "{list}: {batched}, {lazy}");
                }
            }
        }
    });
}

#[test]
fn only_a_lazy_queue_takes_a_lock_and_nobody_fences() {
    each(|list, mode, pages, both| {
        for counts in both {
            assert_eq!(counts.fences, 0, "{list} {mode:?}");
            // Larger ranges than the CPUs keep come from the tree.
            if pages <= 1024 {
                let most = match mode {
                    Mode::Strict | Mode::Batched => 0,
                    // Flushes, and addresses that go to other CPUs.
                    Mode::Lazy => COUNTED + COUNTED / 32,
                };
                assert!(counts.locks <= most, "{list} {mode:?}: {counts:?}");
            }
        }
    });
}
