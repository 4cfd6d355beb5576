//! Claims of a few lines, each showing one rule.

use dmakit_linux_model::cma::{
    Agreement, FailureReport, LinuxAreas, OpKind, Owner, Place, PlaceSource, Reason, Replay, agree,
    replay,
};

use super::text;

/// A line of a claim's beginning and end, by task `pid`.
fn start(pid: u32, us: u32, pages: u64, align: u32) -> String {
    format!("t-{pid} [000] ..... 1.{us:06}: cma_alloc_start: name=a count={pages} align={align}\n")
}

fn finish(pid: u32, us: u32, pages: u64, align: u32, end: Result<u64, i32>) -> String {
    let (pfn, error) = end.map_or_else(|error| (u64::MAX, error), |pfn| (pfn, 0));
    format!(
        "t-{pid} [000] ..... 1.{us:06}: cma_alloc_finish: name=a pfn={pfn:#x} page=0 \
         count={pages} align={align} errorno={error}\n"
    )
}

fn busy(pid: u32, us: u32, pages: u64, align: u32, pfn: u64) -> String {
    format!(
        "t-{pid} [000] ..... 1.{us:06}: cma_alloc_busy_retry: name=a pfn={pfn:#x} page=0 \
         count={pages} align={align}\n"
    )
}

fn release(pid: u32, us: u32, pages: u64, pfn: u64) -> String {
    format!(
        "t-{pid} [001] ..... 1.{us:06}: cma_release: name=a pfn={pfn:#x} page=0 count={pages}\n"
    )
}

fn claimed(us: u32, pages: u64, align: u32, pfn: u64) -> String {
    start(7, us, pages, align) + &finish(7, us + 1, pages, align, Ok(pfn))
}

fn judged(lines: &str) -> Agreement {
    let (demand, recorded) = text(lines);
    let place = Place {
        base: 0x1000,
        pages: 1024,
        node: None,
        source: PlaceSource::Log,
    };
    agree(&demand, &recorded, &[place], &[])
}

#[test]
fn busy_ranges_are_passed_over_one_by_one() {
    let lines = start(7, 1, 4, 2)
        + &busy(7, 2, 4, 2, 0x1000)
        + &busy(7, 3, 4, 2, 0x1004)
        + &finish(7, 4, 4, 2, Ok(0x1008))
        + &claimed(5, 4, 2, 0x1000)
        + &start(7, 7, 1024, 0)
        + &finish(7, 8, 1024, 0, Err(-12));
    let agreement = judged(&lines);
    assert_eq!((agreement.calls, agreement.agree), (3, 3), "{agreement:?}");
    let exhausted =
        start(7, 1, 1024, 0) + &busy(7, 2, 1024, 0, 0x1000) + &finish(7, 3, 1024, 0, Err(-16));
    assert_eq!(judged(&exhausted).agree, 1);
    let other = start(7, 1, 4, 2) + &busy(7, 2, 4, 2, 0x1010) + &finish(7, 4, 4, 2, Ok(0x1014));
    // Nothing shows who had 0x1000 to 0x100f: that is what the call tells.
    assert_eq!(judged(&other).told, 1);
}

#[test]
fn what_was_claimed_before_the_recording_is_told_once_and_then_known() {
    // 64 pages at the start belong to somebody who never gives them back.
    let lines = claimed(1, 4, 2, 0x1040)
        + &claimed(3, 16, 4, 0x1050)
        + &claimed(5, 1, 0, 0x1044)
        + &claimed(7, 1, 0, 0x1045)
        + &claimed(9, 8, 3, 0x1048);
    let agreement = judged(&lines);
    // The first tells that no four pages are free, the third that no page is.
    assert_eq!(agreement.told, 2, "{agreement:?}");
    assert_eq!((agreement.calls, agreement.agree), (3, 3));
    assert_eq!(agreement.held_before.len(), 64);
    // Given back later, they were no secret.
    let released = lines + &release(9, 11, 64, 0x1000) + &claimed(12, 32, 5, 0x1000);
    let agreement = judged(&released);
    assert_eq!((agreement.told, agreement.agree), (0, 6), "{agreement:?}");
}

#[test]
fn pages_below_an_old_claim_are_taken_until_the_kernel_uses_them() {
    // Somebody else has the first 192 pages; a driver that had the next 24 is bound anew.
    let rebind = release(7, 1, 4, 0x10c0)
        + &release(7, 2, 16, 0x10d0)
        + &claimed(3, 4, 2, 0x10c0)
        + &claimed(5, 16, 4, 0x10d0)
        + &claimed(7, 4, 2, 0x10c4);
    let agreement = judged(&rebind);
    assert_eq!(
        (agreement.calls, agreement.agree, agreement.told),
        (3, 3, 0)
    );
    // Had they come back before the recording, the first claim tells it, and no other.
    let freed = release(7, 1, 4, 0x10c0)
        + &claimed(3, 4, 2, 0x1000)
        + &claimed(5, 4, 2, 0x1004)
        + &claimed(7, 64, 6, 0x1040);
    let agreement = judged(&freed);
    assert_eq!(
        (agreement.calls, agreement.agree, agreement.told),
        (2, 2, 1)
    );
}

#[test]
fn a_range_that_is_known_to_be_free_cannot_be_passed_over_in_silence() {
    let lines = claimed(1, 4, 2, 0x1000) + &release(7, 3, 4, 0x1000) + &claimed(4, 4, 2, 0x1004);
    let agreement = judged(&lines);
    assert_eq!(agreement.disagree.len(), 1);
    assert_eq!(agreement.disagree[0].reason, Reason::PassedOver);
    // The model goes on from where the kernel is: the next answers agree.
    let more = lines + &claimed(6, 4, 2, 0x1000) + &claimed(8, 4, 2, 0x1008);
    let agreement = judged(&more);
    assert_eq!((agreement.calls, agreement.agree), (4, 3));
}

#[test]
fn an_answer_that_depends_on_who_came_first_is_unknowable_unless_it_is_the_first_ones() {
    // The claim and the release overlap: before it 0x1000 is taken, after it it is free.
    let overlap = |pfn| {
        claimed(1, 4, 2, 0x1000)
            + &start(8, 3, 4, 2)
            + &release(7, 4, 4, 0x1000)
            + &finish(8, 5, 4, 2, Ok(pfn))
    };
    let agreement = judged(&overlap(0x1000));
    assert_eq!(agreement.unknowable.len(), 1);
    assert_eq!(agreement.unknowable[0].reason, Reason::OrderOpen);
    // The claim's beginning was recorded first.
    assert_eq!(judged(&overlap(0x1004)).agree, 2);
    // Two claims of different sizes overlap, either may have come first.
    let pair = |first, second| {
        start(7, 1, 4, 2)
            + &start(8, 2, 8, 2)
            + &finish(7, 3, 4, 2, Ok(first))
            + &finish(8, 4, 8, 2, Ok(second))
    };
    let agreement = judged(&pair(0x1008, 0x1000));
    assert_eq!((agreement.unknowable.len(), agreement.calls), (2, 0));
    assert_eq!(judged(&pair(0x1000, 0x1004)).agree, 2);
    // An overlap that changes nothing leaves both knowable.
    let lines = claimed(1, 64, 6, 0x1000)
        + &start(8, 3, 4, 2)
        + &release(7, 4, 1, 0x103f)
        + &finish(8, 5, 4, 2, Ok(0x1040));
    let agreement = judged(&lines);
    assert_eq!((agreement.unknowable.len(), agreement.agree), (0, 2));
}

#[test]
fn a_claim_under_way_that_was_believed_elsewhere_gives_nobodys_pages_back() {
    // Somebody has the first four pages, so both claims are a place further than believed, and the
    // first is where the second was believed to be.
    let lines = start(7, 1, 4, 2)
        + &start(8, 2, 4, 2)
        + &finish(7, 3, 4, 2, Ok(0x1004))
        + &finish(8, 4, 4, 2, Ok(0x1008))
        + &claimed(5, 4, 2, 0x100c);
    let agreement = judged(&lines);
    assert_eq!(
        (agreement.agree, agreement.calls, agreement.told),
        (1, 1, 1)
    );
    assert_eq!(agreement.unknowable.len(), 1);
}

#[test]
fn a_range_taken_for_claimed_before_is_free_once_the_kernel_uses_it() {
    let lines = claimed(1, 4, 2, 0x1004) + &claimed(3, 4, 2, 0x1000) + &claimed(5, 4, 2, 0x1008);
    let agreement = judged(&lines);
    assert_eq!((agreement.told, agreement.agree), (2, 1), "{agreement:?}");
    assert!(agreement.held_before.is_empty());
}

#[test]
fn what_is_larger_than_its_area_is_refused_at_once_and_without_an_end() {
    let lines = start(7, 1, 1025, 8) + &claimed(2, 4, 2, 0x1000) + &start(7, 4, 4000, 8);
    let agreement = judged(&lines);
    assert_eq!((agreement.calls, agreement.agree), (3, 3), "{agreement:?}");
    assert_eq!(agreement.refused_at_once, [0, 2]);
    assert_eq!(agreement.unfinished, 0);
    // What fits and has no end lost it, and the place is free again for the next.
    let lost = start(7, 1, 4, 2) + &claimed(2, 4, 2, 0x1000);
    let agreement = judged(&lost);
    assert_eq!((agreement.agree, agreement.unfinished), (1, 1));
    // In a larger area the first is served, and released at once.
    let (demand, recorded) = text(&lines);
    let place = Place {
        base: 0x1000,
        pages: 8192,
        node: None,
        source: PlaceSource::Log,
    };
    let what = Replay {
        demand: &demand,
        recorded: &recorded,
        places: std::slice::from_ref(&place),
        held_before: &[],
        samples_max: 0,
    };
    let report = replay(&what, &mut LinuxAreas::new(std::slice::from_ref(&place)));
    assert_eq!(report.areas[0].counts.failed, 0);
    assert_eq!(report.areas[0].served_beyond_recording, 1, "{report:?}");
}

#[test]
fn a_claim_that_ends_after_busy_ranges_failed_although_its_event_names_a_page() {
    let at = |page| {
        start(7, 1, 512, 8)
            + &busy(7, 2, 512, 8, 0x1000)
            + &busy(7, 3, 512, 8, 0x1100)
            + &busy(7, 4, 512, 8, 0x1200)
            + &format!(
                "t-7 [000] ..... 1.000005: cma_alloc_finish: name=a pfn=0x1200 page={page} \
                 count=512 align=8"
            )
    };
    let null = "0000000000000000";
    let with_error = at(null) + " errorno=-16\n" + &claimed(6, 512, 8, 0x1000);
    let agreement = judged(&with_error);
    assert_eq!((agreement.calls, agreement.agree), (2, 2), "{agreement:?}");
    // 6.1 records no error.
    let without = at(null) + "\n" + &claimed(6, 512, 8, 0x1000);
    assert_eq!(judged(&without).agree, 2);
}

#[test]
fn printed_free_runs_find_their_claim_whatever_the_logs_clock() {
    let lines = claimed(1, 1000, 0, 0x1000)
        + &start(7, 10, 32, 0)
        + &finish(7, 12, 32, 0, Err(-12))
        + &release(7, 5000, 8, 0x1000)
        + &start(7, 5010, 32, 0)
        + &finish(7, 5012, 32, 0, Err(-12));
    let (demand, recorded) = text(&lines);
    let place = Place {
        base: 0x1000,
        pages: 1024,
        node: None,
        source: PlaceSource::Log,
    };
    // The log is 4.2 s ahead; the second failure's own line was left out.
    let report = |us: u64, pages, free_runs| FailureReport {
        at_ns: (5_200_000 + us) * 1000,
        area: None,
        pages,
        free_runs: Some(free_runs),
        area_pages: Some(1024),
    };
    let reports = [
        report(11, Some(32), vec![(1000, 24)]),
        report(5011, None, vec![(0, 8), (1000, 24)]),
    ];
    let agreement = agree(&demand, &recorded, &[place], &reports);
    let bitmaps = agreement.bitmaps;
    assert_eq!((bitmaps.compared, bitmaps.equal), (2, 2), "{bitmaps:?}");
}

#[test]
fn failures_that_the_bitmap_does_not_explain_have_their_reason() {
    let killed = claimed(1, 4, 2, 0x1000) + &start(7, 3, 4, 2) + &finish(7, 4, 4, 2, Err(-4));
    assert_eq!(judged(&killed).disagree[0].reason, Reason::Interrupted);
    // All of the area is known to be free.
    let freed = claimed(1, 1024, 0, 0x1000) + &release(7, 3, 1024, 0x1000);
    let not_moved = freed + &start(7, 4, 4, 2) + &finish(7, 5, 4, 2, Err(-12));
    assert_eq!(judged(&not_moved).disagree[0].reason, Reason::NotMoved);
    let unknown = start(7, 4, 4, 2) + &finish(7, 5, 4, 2, Err(-12));
    assert_eq!(
        judged(&unknown).unknowable[0].reason,
        Reason::BeforeRecording
    );
    let twice = claimed(1, 4, 2, 0x1000) + &claimed(3, 4, 2, 0x1000);
    let agreement = judged(&twice);
    assert!(agreement.disagree.is_empty(), "{agreement:?}");
}

#[test]
fn releases_come_back_in_parts_and_over_several_claims() {
    let lines = claimed(1, 8, 3, 0x1000)
        + &claimed(3, 8, 3, 0x1008)
        + &release(7, 5, 8, 0x1004)
        + &release(7, 6, 20, 0x100c);
    let (demand, _) = text(&lines);
    let released: Vec<_> = demand
        .ops
        .iter()
        .filter_map(|op| match op.kind {
            OpKind::Release {
                from,
                offset,
                pages,
            } => Some((from, offset, pages)),
            _ => None,
        })
        .collect();
    assert_eq!(
        released,
        [
            (Owner::Call(0), 4, 4),
            (Owner::Call(1), 0, 4),
            (Owner::Call(1), 4, 4),
            (Owner::Holding(0), 0, 16),
        ]
    );
    assert_eq!(demand.holdings[0].pfn, 0x1010);
    assert_eq!(demand.unpaired.held_at_end, 1);
}

#[test]
fn a_lost_release_is_inferred_and_a_late_one_is_not_taken_for_the_next_owners() {
    let reused = claimed(1, 4, 2, 0x1000) + &start(8, 3, 4, 2) + &finish(8, 4, 4, 2, Ok(0x1000));
    let (demand, _) = text(&reused);
    assert_eq!(demand.unpaired.releases_inferred, 1);
    assert_eq!(demand.unpaired.held_at_end, 1);
    // Its event comes after the next owner's: both are one release.
    let late = reused + &release(7, 5, 4, 0x1000);
    let (demand, _) = text(&late);
    assert_eq!(demand.unpaired.releases_inferred, 0);
    assert_eq!(demand.unpaired.held_at_end, 1);
    let done = late + &release(8, 9, 4, 0x1000);
    assert_eq!(text(&done).0.unpaired.held_at_end, 0);
}

#[test]
fn old_kernels_without_beginnings_and_errors_are_understood() {
    let lines = "t-7 [000] .... 1.000001: cma_alloc: pfn=1000 page=00000000c8b85242 count=4 align=2\n\
                 t-7 [000] .... 1.000002: cma_alloc: pfn=1004 page=00000000dd1d9b35 count=4 align=2\n\
                 t-7 [000] .... 1.000003: cma_release: pfn=1000 page=0 count=4\n\
                 t-7 [000] .... 1.000004: cma_alloc: pfn=ffffffffffffffff page=0 count=1024 align=8\n";
    let agreement = judged(lines);
    assert_eq!((agreement.calls, agreement.agree), (3, 3), "{agreement:?}");
}
