//! The model against what real kernels recorded and counted.
//!
//! Runs over the captures kept in the project; `DMAKIT_CAPTURES=DIR` adds those of another
//! folder. The kernel's own counters and addresses are compared with, never given to the model;
//! what is read off addresses is said in `learn_beginning` and `learn_min_align_masks`.
//! `cargo test -p dmakit-linux-model --test captures -- --nocapture` prints the table.

mod capture;

use std::sync::OnceLock;

use capture::{Capture, PhaseRow};
use dmakit_linux_model::{Engine, Known, Recorded, agree, learn_beginning, minimal_slots};

/// Read once for all tests.
fn captures() -> &'static [Capture] {
    static CAPTURES: OnceLock<Vec<Capture>> = OnceLock::new();
    CAPTURES.get_or_init(read_captures)
}

fn read_captures() -> Vec<Capture> {
    let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../captures").to_owned()];
    folders.extend(std::env::var("DMAKIT_CAPTURES"));
    let mut captures: Vec<Capture> = folders
        .iter()
        .flat_map(|folder| Capture::all_in(folder.as_ref()))
        .collect();
    captures.sort_by(|a, b| a.name.cmp(&b.name));
    captures.dedup_by(|a, b| a.name == b.name);
    assert!(captures.len() >= 5, "captures are missing from {folders:?}");
    captures
}

#[test]
fn the_boot_pool_is_as_large_as_the_kernel_made_it() {
    for capture in captures() {
        let Some(slots) = capture.kernel_slots() else {
            continue;
        };
        let setup = capture
            .setup()
            .unwrap_or_else(|why| panic!("{}: {why}", capture.name));
        // A dynamic kernel may have grown by the end of its first phase.
        let fits = if capture.engine().grows() {
            setup.slots <= slots
        } else {
            setup.slots == slots
        };
        assert!(fits, "{}: {slots} slots, not {:?}", capture.name, setup);
    }
}

#[test]
fn the_high_water_is_the_kernels_in_nearly_every_phase() {
    let (mut phases, mut exact) = (0, 0);
    for capture in captures() {
        for row in capture.phase_rows() {
            println!("{:34} {row}", capture.name);
            let PhaseRow {
                kernel: Some(kernel),
                ours,
                interval: (low, high),
                ..
            } = row
            else {
                continue;
            };
            phases += 1;
            exact += u32::from(kernel == ours);
            assert!((low..=high).contains(&kernel), "{}: {row}", capture.name);
            let width_max = (kernel / 10).max(4);
            assert!(high - low <= width_max, "{}: {row}", capture.name);
        }
    }
    println!("{exact} of {phases} phases exact");
    assert!(phases >= 25, "only {phases} phases to compare");
    assert!(exact * 100 >= phases * 95, "{exact} of {phases} exact");
}

#[test]
fn slots_are_the_kernels_wherever_the_recording_fixes_the_order() {
    for capture in captures() {
        let Some(config) = capture.config() else {
            continue;
        };
        let (demand, recorded) = (&capture.demand, &capture.recorded);
        let Some(beginning) = learn_beginning(
            demand,
            recorded,
            &config.swiotlb,
            capture.machine.pool_start,
        ) else {
            continue;
        };
        let agreement = agree(demand, recorded, &config, &beginning);
        let percent = agreement.percent().unwrap_or(100.0);
        println!(
            "{:34} {percent:6.2} % of {} knowable; {} unknowable ({} explained), {} in pools of their \
             own, {} told where the pool is",
            capture.name,
            agreement.knowable,
            agreement.unknowable,
            agreement.explained,
            agreement.transient,
            agreement.told,
        );
        assert!(
            percent >= 95.0,
            "{}: {:?}",
            capture.name,
            agreement.misses.first()
        );
    }
}

#[test]
fn a_pool_too_small_fails_where_the_kernels_did() {
    let mut compared = 0;
    for capture in captures() {
        let Some(config) = capture.config() else {
            continue;
        };
        let report = dmakit_linux_model::replay(&capture.demand, &config);
        for (phase, (visible, silent)) in report.phases.iter().zip(capture.recorded_failures()) {
            println!(
                "{:34} {:14} failed {:5} (kernel {visible:5}), lists given up {:5} (kernel {silent:5})",
                capture.name, phase.name, phase.failed, phase.failed_silent
            );
            let context = || format!("{} {}", capture.name, phase.name);
            // One failure may be a matter of order; a phase with many cannot have none.
            if visible + silent >= 10 {
                assert!(phase.failed + phase.failed_silent > 0, "{}", context());
                compared += 1;
            }
            if visible + silent == 0 {
                assert_eq!(phase.failed + phase.failed_silent, 0, "{}", context());
            }
            let slack = (visible / 10).max(25);
            assert!(phase.failed.abs_diff(visible) <= slack, "{}", context());
        }
    }
    assert!(compared >= 3, "no capture with failures");
}

#[test]
fn attempts_alone_are_said_to_show_no_occupancy() {
    let mut seen = 0;
    for capture in captures() {
        if capture.demand.known != Known::Attempts {
            continue;
        }
        seen += 1;
        assert!(capture.config().is_none());
        assert!(
            capture
                .demand
                .mappings
                .iter()
                .all(|m| m.recorded == Recorded::Unknown)
        );
        assert_eq!(
            capture.demand.unpaired.attempts,
            capture.demand.mappings.len() as u64
        );
    }
    assert!(seen > 0, "no capture of attempts alone");
}

#[test]
fn engines_differ_on_the_same_load_as_their_kernels_do() {
    let captures = captures();
    let Some(small) = captures
        .iter()
        .find(|c| c.name == "nvme-swiotlb-small-6.12")
    else {
        return;
    };
    let mut config = small.config().expect("it has lifetimes");
    let new = dmakit_linux_model::replay(&small.demand, &config);
    config.swiotlb.engine = Engine::Linux6_1;
    let old = dmakit_linux_model::replay(&small.demand, &config);
    // 128 buffers of a page fill a pool of 512 slots in 6.1, where each takes up 8 KiB.
    assert_eq!(new.phases[1].failed, 0);
    assert_eq!(old.phases[1].failed, 0);
    assert!(old.slots_probed > new.slots_probed);
}

#[test]
fn the_smallest_size_serves_and_the_next_smaller_does_not() {
    let mut sizes = std::collections::BTreeSet::new();
    for capture in captures() {
        let Some(config) = capture.config() else {
            continue;
        };
        let begun = std::time::Instant::now();
        let answer = minimal_slots(&capture.demand, &config)
            .unwrap_or_else(|why| panic!("{}: {why}", capture.name));
        let below = answer
            .below
            .map(|below| (below.slots, below.failed, below.failed_silent));
        println!(
            "{:34} swiotlb={} below {below:?} high water {} lucky {:?} in {:?}",
            capture.name,
            answer.at.slots,
            answer.at.high_water_slots,
            answer
                .serving_below
                .iter()
                .map(|point| point.slots)
                .collect::<Vec<_>>(),
            begun.elapsed(),
        );
        assert!(answer.at.serves());
        assert!(answer.below.is_none_or(|below| !below.serves()));
        sizes.insert(answer.at.slots);
    }
    assert!(sizes.len() > 2, "all captures want the same: {sizes:?}");
}
