//! The rules of pairing, each on a trace that shows it.

use super::*;
use crate::{Fidelity, Options, Trace};

const TASK: &str = "fio-7 [000] .....";
const OTHER: &str = "fio-8 [001] .....";
const IRQ: &str = "<idle>-0 [001] d.h1.";

/// Who, when in µs, and what.
type Line = (&'static str, u64, String);

fn ops(lines: &[Line]) -> (Vec<Op>, Fidelity) {
    let mut text = String::new();
    for (who, micros, event) in lines {
        text += &format!(
            "{who} {}.{:06}: {event}\n",
            micros / 1_000_000,
            micros % 1_000_000
        );
    }
    let mut ops = Trace::from_bytes(text.into_bytes(), Options::default())
        .unwrap()
        .ops();
    let all = ops.by_ref().map(Result::unwrap).collect();
    (all, ops.fidelity())
}

fn bounce(phys: u64, size: u64) -> String {
    format!("swiotlb_bounced: dev_name: d dma_mask=ffffffff dev_addr={phys:x} size={size} FORCE")
}

fn map(dma: u64, size: u64, phys: u64) -> String {
    format!("dma_map_page: d dir=TO_DEVICE dma_addr={dma:x} size={size} phys_addr={phys:x} attrs=")
}

fn failed(size: u64, phys: u64) -> String {
    map(u64::MAX, size, phys)
}

fn unmap(dma: u64, size: u64) -> String {
    format!("dma_unmap_page: d dir=TO_DEVICE dma_addr={dma:x} size={size} attrs=")
}

fn list(items: &[u64]) -> String {
    let items: Vec<_> = items.iter().map(|item| format!("{item:#x}")).collect();
    format!("{{{}}}", items.join(","))
}

/// Entries of 0x800 bytes, mapped one to one.
fn map_sg(dma: &[u64], phys: &[u64], total: usize) -> String {
    let sizes = vec![0x800; dma.len()];
    let shown = phys.len();
    format!(
        "dma_map_sg: d dir=TO_DEVICE nents={shown}/{total} ents={shown}/{total} dma_addrs={} \
         sizes={} phys_addrs={} attrs=",
        list(dma),
        list(&sizes),
        list(phys)
    )
}

fn unmap_sg(phys: &[u64]) -> String {
    format!(
        "dma_unmap_sg: d dir=TO_DEVICE phys_addrs={} attrs=",
        list(phys)
    )
}

/// The operations in short: `a` attempt, `m` map, `u` unmap, `f` fail, `?` unseen, with numbers.
fn short(ops: &[Op]) -> String {
    let one = |op: &Op| match &op.kind {
        OpKind::Attempt(attempt) => format!("a{}", attempt.id.0),
        OpKind::Map(map) => format!("m{}", map.id.0),
        OpKind::Unmap(unmap) => format!("u{}", unmap.id.0),
        OpKind::UnmapUnseen(_) => "?".to_owned(),
        OpKind::Fail(fail) => {
            let ids: Vec<_> = fail.attempts.iter().map(|id| id.0.to_string()).collect();
            format!("f{}", ids.join("+"))
        }
        OpKind::PhaseBegin(name) | OpKind::PhaseEnd(name) => name.to_string(),
    };
    ops.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn fates(ops: &[Op]) -> Vec<Fate> {
    let fate = |op: &Op| match &op.kind {
        OpKind::Attempt(attempt) => Some(attempt.fate),
        _ => None,
    };
    ops.iter().filter_map(fate).collect()
}

#[test]
fn an_attempt_becomes_its_tasks_next_map_and_any_cpu_unmaps_it() {
    let (ops, counts) = ops(&[
        (TASK, 1, bounce(0x1000, 512)),
        (OTHER, 2, bounce(0x1000, 512)),
        (OTHER, 3, map(0x7000_0800, 512, 0x1000)),
        (TASK, 4, map(0x7000_0000, 512, 0x1000)),
        (IRQ, 9, unmap(0x7000_0000, 512)),
    ]);
    assert_eq!(short(&ops), "a0 a1 m0 m1 u1");
    assert_eq!(
        fates(&ops),
        [Fate::Mapped(MappingId(1)), Fate::Mapped(MappingId(0))]
    );
    assert_eq!(
        (counts.maps, counts.unmaps_matched, counts.left_mapped),
        (2, 1, 1)
    );
}

#[test]
fn an_interrupt_maps_for_itself_not_for_the_task_it_interrupts() {
    let softirq = "fio-7 [000] ..s1.";
    let (ops, _) = ops(&[
        (TASK, 1, bounce(0x1000, 512)),
        (softirq, 2, bounce(0x2000, 512)),
        (softirq, 3, map(0x7000_0800, 512, 0x2000)),
        (TASK, 4, map(0x7000_0000, 512, 0x1000)),
    ]);
    assert_eq!(
        fates(&ops),
        [Fate::Mapped(MappingId(1)), Fate::Mapped(MappingId(0))]
    );
}

#[test]
fn a_map_without_an_attempt_was_not_bounced() {
    let (ops, counts) = ops(&[
        (TASK, 1, map(0x1000, 512, 0x1000)),
        (TASK, 2, unmap(0x1000, 512)),
    ]);
    assert_eq!(short(&ops), "m0 u0");
    assert!(matches!(&ops[0].kind, OpKind::Map(map) if map.attempt.is_none()));
    assert_eq!(counts.attempts, 0);
}

#[test]
fn a_failed_page_is_visible() {
    let (ops, counts) = ops(&[
        (TASK, 1, bounce(0x1000, 512)),
        (TASK, 2, failed(512, 0x1000)),
    ]);
    assert_eq!(short(&ops), "a0 f0");
    assert_eq!(fates(&ops), [Fate::Failed]);
    assert!(matches!(&ops[1].kind, OpKind::Fail(fail) if fail.how == Failure::Visible));
    assert_eq!((counts.attempts_failed, counts.maps), (1, 0));
}

#[test]
fn a_failed_scatterlist_is_known_by_attempts_that_led_to_nothing() {
    // Two tries of a list of three stop at its second and its third entry; the third succeeds.
    let phys = [0x1000, 0x3000, 0x5000];
    let (ops, counts) = ops(&[
        (TASK, 1, bounce(0x1000, 0x800)),
        (TASK, 2, bounce(0x3000, 0x800)),
        (TASK, 3, bounce(0x1000, 0x800)),
        (TASK, 4, bounce(0x3000, 0x800)),
        (TASK, 5, bounce(0x5000, 0x800)),
        (TASK, 6, bounce(0x1000, 0x800)),
        (TASK, 7, bounce(0x3000, 0x800)),
        (TASK, 8, bounce(0x5000, 0x800)),
        (
            TASK,
            9,
            map_sg(&[0x7000_0000, 0x7000_0800, 0x7000_1000], &phys, 3),
        ),
        (IRQ, 20, unmap_sg(&phys)),
    ]);
    assert_eq!(
        short(&ops),
        "a0 a1 f0+1 a2 a3 a4 f2+3+4 a5 a6 a7 m0 m1 m2 u0 u1 u2"
    );
    assert_eq!(
        fates(&ops)[3],
        Fate::Orphaned {
            first: AttemptId(2)
        }
    );
    assert_eq!((counts.attempts_orphaned, counts.attempts_mapped), (5, 3));
    assert_eq!((counts.unmaps_matched, counts.left_mapped), (3, 0));
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Requests of some tasks that each fail at random entries, over and over, until they succeed.
fn storm(seed: u64) -> (Vec<Line>, Vec<Vec<AttemptId>>) {
    let state = &mut { seed };
    let mut lines = Vec::new();
    let mut tries = Vec::new();
    let mut waiting: Vec<Vec<u64>> = (0..8)
        .map(|list| {
            (0..=list % 5)
                .map(|entry| 0x10_0000 * (list + 1) + 0x1000 * entry)
                .collect()
        })
        .collect();
    let mut slot = 0x7000_0000;
    while !waiting.is_empty() {
        let of = usize::try_from(random(state)).unwrap() % waiting.len();
        let phys = waiting[of].clone();
        let fails = random(state) % 4 != 0;
        let reached = match random(state) % 3 {
            _ if !fails => phys.len(),
            0 => phys.len(),
            some => (usize::try_from(some).unwrap()).min(phys.len()),
        };
        let who = [TASK, OTHER][of % 2];
        let first = lines.len() as u64;
        for entry in &phys[..reached] {
            lines.push((who, lines.len() as u64 * 10, bounce(*entry, 0x800)));
        }
        if fails {
            tries.push((first..first + reached as u64).map(AttemptId).collect());
            continue;
        }
        let dma: Vec<_> = phys
            .iter()
            .map(|_| {
                slot += 0x800;
                slot
            })
            .collect();
        lines.push((
            who,
            lines.len() as u64 * 10,
            map_sg(&dma, &phys, phys.len()),
        ));
        waiting.remove(of);
    }
    (lines, tries)
}

#[test]
fn every_try_of_a_retry_storm_is_found_again() {
    for seed in 0..200 {
        let (lines, mut expected) = storm(seed);
        let (ops, _) = ops(&lines);
        let mut found: Vec<Vec<AttemptId>> = ops
            .into_iter()
            .filter_map(|op| match op.kind {
                OpKind::Fail(fail) => Some(fail.attempts),
                _ => None,
            })
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn tries_of_different_lists_are_parted_where_a_known_list_begins() {
    let (first, second) = ([0x1000, 0x3000], [0x5000, 0x7000]);
    let (ops, _) = ops(&[
        (TASK, 1, bounce(0x1000, 0x800)),
        (TASK, 2, bounce(0x5000, 0x800)),
        (TASK, 3, bounce(0x1000, 0x800)),
        (TASK, 4, bounce(0x3000, 0x800)),
        (TASK, 5, map_sg(&[0x7000_0000, 0x7000_0800], &first, 2)),
        (TASK, 6, bounce(0x5000, 0x800)),
        (TASK, 7, bounce(0x7000, 0x800)),
        (TASK, 8, map_sg(&[0x7000_1000, 0x7000_1800], &second, 2)),
    ]);
    assert!(
        short(&ops).starts_with("a0 f0 a1 f1 a2 a3 m0 m1"),
        "{}",
        short(&ops)
    );
}

#[test]
fn entries_within_reach_are_not_bounced() {
    let phys = [0x1000, 0x2_0000_0000, 0x5000];
    let (ops, counts) = ops(&[
        (TASK, 1, bounce(0x2_0000_0000, 0x800)),
        (TASK, 2, map_sg(&[0x1000, 0x7000_0000, 0x5000], &phys, 3)),
    ]);
    let attempts: Vec<_> = ops
        .iter()
        .filter_map(|op| match &op.kind {
            OpKind::Map(map) => Some(map.attempt),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [None, Some(AttemptId(0)), None]);
    assert_eq!(counts.attempts_orphaned, 0);
}

#[test]
fn entries_that_a_truncated_list_hides_are_known_by_their_attempts() {
    let (ops, counts) = ops(&[
        (TASK, 1, bounce(0x1000, 0x800)),
        (TASK, 2, bounce(0x3000, 0x800)),
        (TASK, 3, bounce(0x5000, 0x800)),
        (
            TASK,
            4,
            map_sg(&[0x7000_0000, 0x7000_0800], &[0x1000, 0x3000], 3),
        ),
    ]);
    assert_eq!(short(&ops), "a0 a1 a2 m0 m1 m2");
    assert!(matches!(&ops[5].kind, OpKind::Map(map) if map.dma.is_none()));
    assert_eq!((counts.truncated_entries, counts.attempts_mapped), (1, 3));
}

#[test]
fn merged_segments_are_one_mapping() {
    let sg = "dma_map_sg: d dir=TO_DEVICE nents=2/2 ents=1/1 dma_addrs={0xffe00000} \
              sizes={0x10000} phys_addrs={0x1000,0x9000} attrs=";
    let (ops, counts) = ops(&[
        (TASK, 1, sg.to_owned()),
        (IRQ, 2, unmap_sg(&[0x1000, 0x9000])),
    ]);
    assert_eq!(short(&ops), "m0 u0");
    assert_eq!(counts.unmaps_matched, 1);
}

#[test]
fn an_address_reused_before_its_unmap_is_recorded_was_unmapped_before() {
    // Recorded on a real machine: 32 bytes at 7d5b3000 are unmapped on CPU 0, the slot is taken on
    // CPU 1 for 112 bytes, and the unmap's line comes last.
    let (ops, counts) = ops(&[
        (OTHER, 1, bounce(0x1000, 32)),
        (OTHER, 2, map(0x7d5b_3000, 32, 0x1000)),
        (TASK, 50, bounce(0xb2c_d500, 112)),
        (TASK, 57, map(0x7d5b_3000, 112, 0xb2c_d500)),
        (IRQ, 59, unmap(0x7d5b_3000, 32)),
        (IRQ, 80, unmap(0x7d5b_3000, 112)),
    ]);
    assert_eq!(short(&ops), "a0 m0 u0 a2 m1 u1");
    assert!(matches!(
        &ops[2].kind,
        OpKind::Unmap(unmap) if unmap.evidence == UnmapEvidence::Moved
    ));
    assert_eq!((counts.reordered, counts.unmaps_unmatched), (1, 0));
}

#[test]
fn an_unmap_recorded_inside_the_next_users_attempt_was_before_it() {
    let (ops, counts) = ops(&[
        (OTHER, 1, bounce(0x1000, 512)),
        (OTHER, 2, map(0x7000_0000, 512, 0x1000)),
        (TASK, 50, bounce(0x2000, 512)),
        (IRQ, 51, unmap(0x7000_0000, 512)),
        (TASK, 52, map(0x7000_0000, 512, 0x2000)),
    ]);
    assert_eq!(short(&ops), "a0 m0 u0 a2 m1");
    assert_eq!(counts.reordered, 1);
}

#[test]
fn of_two_users_of_one_address_the_older_ends_first() {
    let (ops, counts) = ops(&[
        (OTHER, 1, bounce(0x1000, 512)),
        (OTHER, 2, map(0x7000_0000, 512, 0x1000)),
        (TASK, 50, bounce(0x2000, 512)),
        (TASK, 52, map(0x7000_0000, 512, 0x2000)),
        (IRQ, 60, unmap(0x7000_0000, 512)),
    ]);
    assert_eq!(short(&ops), "a0 m0 u0 a2 m1");
    assert_eq!((counts.reordered, counts.left_mapped), (1, 1));
}

#[test]
fn an_unmap_that_was_lost_is_supplied_by_the_next_user_of_its_slot() {
    let (ops, counts) = ops(&[
        (OTHER, 1, bounce(0x1000, 512)),
        (OTHER, 2, map(0x7000_0000, 512, 0x1000)),
        (TASK, 50, bounce(0x2000, 256)),
        (TASK, 52, map(0x7000_0400, 256, 0x2000)),
        (IRQ, 60, unmap(0x7000_0400, 256)),
    ]);
    assert_eq!(short(&ops), "a0 m0 u0 a2 m1 u1");
    assert!(matches!(
        &ops[2].kind,
        OpKind::Unmap(unmap) if unmap.evidence == UnmapEvidence::Reuse
    ));
    assert_eq!((counts.unmaps_inferred, counts.unmaps_matched), (1, 1));
    assert_eq!(counts.left_mapped, 0);
}

#[test]
fn direct_mappings_may_overlap_and_end_oldest_first() {
    let (ops, counts) = ops(&[
        (TASK, 1, map(0x1000, 512, 0x1000)),
        (OTHER, 2, map(0x1000, 512, 0x1000)),
        (IRQ, 3, unmap(0x1000, 512)),
        (IRQ, 4, unmap(0x1000, 512)),
    ]);
    assert_eq!(short(&ops), "m0 m1 u0 u1");
    assert_eq!((counts.reordered, counts.unmaps_inferred), (0, 0));
}

#[test]
fn an_unmap_of_something_mapped_before_the_trace_is_counted_and_told() {
    let (ops, counts) = ops(&[
        (TASK, 1, unmap(0x7000_0000, 512)),
        (TASK, 9, bounce(0x1000, 512)),
        (TASK, 10, map(0x7000_0000, 512, 0x1000)),
        (TASK, 20, unmap_sg(&[0x1000])),
    ]);
    assert_eq!(short(&ops), "? a1 m0 ?");
    assert_eq!((counts.unmaps_unmatched, counts.left_mapped), (2, 1));
}

#[test]
fn two_cpus_records_of_the_same_moment_may_be_swapped() {
    let (ops, counts) = ops(&[
        (IRQ, 10, unmap(0x7000_0000, 512)),
        (TASK, 10, map(0x7000_0000, 512, 0x1000)),
    ]);
    assert_eq!(short(&ops), "m0 u0");
    assert_eq!((counts.unmaps_matched, counts.unmaps_unmatched), (1, 0));
}

#[test]
fn attempts_alone_say_nothing_about_their_outcome() {
    let (ops, counts) = ops(&[
        (TASK, 1, "tracing_mark_write: PHASE_BEGIN a".to_owned()),
        (TASK, 2, bounce(0x1000, 512)),
        (TASK, 3, bounce(0x1000, 512)),
        (TASK, 4, "tracing_mark_write: PHASE_END a".to_owned()),
    ]);
    assert_eq!(short(&ops), "a a1 a2 a");
    assert_eq!(fates(&ops), [Fate::Unknown; 2]);
    assert_eq!(counts.attempts_unknown, 2);
}

#[test]
fn the_order_is_known_where_no_other_stream_is_between() {
    let (ops, _) = ops(&[
        (TASK, 1000, bounce(0x1000, 512)),
        (TASK, 1001, map(0x7000_0000, 512, 0x1000)),
        (TASK, 2000, bounce(0x2000, 512)),
        (IRQ, 2001, unmap(0x7000_0000, 512)),
        (TASK, 2002, map(0x7000_0800, 512, 0x2000)),
    ]);
    assert_eq!(short(&ops), "a0 m0 a2 u0 m1");
    let order: Vec<_> = ops.iter().map(|op| op.order).collect();
    let (known, open) = (Order::Known, Order::Concurrent);
    assert_eq!(order, [known, known, open, open, known]);
    assert_eq!(
        ops[2].span,
        Span {
            after: 2,
            before: 4
        }
    );
}

#[test]
fn waiting_is_bounded_by_the_window() {
    let options = PairOptions {
        window_events: 16,
        ..PairOptions::default()
    };
    let mut text = format!("{TASK} 0.000001: {}\n", bounce(0x1000, 512));
    for at in 0..200 {
        let dma = 0x1000 * at;
        text += &format!("{OTHER} 0.{:06}: {}\n", 2 * at + 2, map(dma, 512, dma));
        text += &format!("{OTHER} 0.{:06}: {}\n", 2 * at + 3, unmap(dma, 512));
    }
    let trace = Trace::from_bytes(text.into_bytes(), Options::default()).unwrap();
    let mut pairer = Pairer::new(options);
    let mut seen = 0;
    let mut first = None;
    for event in trace {
        let event = event.unwrap();
        pairer.push(&event);
        while let Some(op) = pairer.pop() {
            first = first.or(Some((op.kind, event.index)));
            seen += 1;
        }
        assert!(
            event.index < 20 || seen + 20 > event.index,
            "{seen} at {}",
            event.index
        );
    }
    let (kind, at) = first.unwrap();
    assert!(at <= 20, "{at}");
    assert!(matches!(kind, OpKind::Attempt(a) if matches!(a.fate, Fate::Orphaned { .. })));
}

#[test]
fn a_mapping_has_its_whole_life() {
    let text = format!(
        "{TASK} 1.000001: {}\n{TASK} 1.000002: {}\n{IRQ} 1.000009: {}\n{TASK} 2.0: {}\n",
        bounce(0x1000, 512),
        map(0x7000_0000, 512, 0x1000),
        unmap(0x7000_0000, 512),
        map(0x9000, 512, 0x9000)
    );
    let ops = Trace::from_bytes(text.into_bytes(), Options::default())
        .unwrap()
        .ops();
    let mappings: Vec<Mapping> = ops.mappings().map(Result::unwrap).collect();
    assert_eq!(mappings.len(), 2);
    let end = mappings[0].end.unwrap();
    assert_eq!(
        (mappings[0].attempted_ns, end.cpu),
        (Some(1_000_001_000), 1)
    );
    assert_eq!(
        (mappings[0].mapped_ns, end.unmapped_ns),
        (1_000_002_000, 1_000_009_000)
    );
    assert_eq!(mappings[0].task.comm, "fio");
    assert_eq!((&mappings[1].attempt, mappings[1].end), (&None, None));
}
