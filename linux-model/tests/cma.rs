//! The model of contiguous areas against what real kernels answered.
//!
//! Runs over the captures kept in the project; `DMAKIT_CAPTURES=DIR` adds those of another folder.
//! `cargo test -p dmakit-linux-model --test cma -- --nocapture` prints the table.

use std::path::{Path, PathBuf};

use dmakit_linux_model::CommandLine;
use dmakit_linux_model::cma::{
    Agreement, AreaKind, Demand, Ingest, LinuxAreas, Log, OpKind, Outcome, Owner, Place,
    PlaceSource, Reason, Recorded, Replay, Requester, agree, places, replay,
};
use dmakit_trace::{Options, Sidecar, Trace};

struct Capture {
    name: String,
    sidecar: Sidecar,
    demand: Demand,
    recorded: Recorded,
}

fn ingest(trace: Trace) -> (Demand, Recorded) {
    let mut ingest = Ingest::new();
    for event in trace {
        ingest.push(&event.expect("a well-formed event"));
    }
    ingest.finish()
}

fn text(lines: &str) -> (Demand, Recorded) {
    ingest(Trace::from_bytes(lines.into(), Options::default()).expect("a trace"))
}

impl Capture {
    fn log(&self) -> Log {
        Log::new(&self.sidecar)
    }

    fn places(&self, log: &Log) -> Vec<Place> {
        places(&self.demand, &self.recorded, log, |_| None)
    }

    fn agreement(&self) -> Agreement {
        let log = self.log();
        agree(
            &self.demand,
            &self.recorded,
            &self.places(&log),
            &log.failures,
        )
    }
}

fn read(trace: &Path) -> Option<Capture> {
    let sidecar = Sidecar::beside(trace)
        .expect("a sidecar")
        .unwrap_or_default();
    let (demand, recorded) = ingest(Trace::open(trace, Options::default()).expect("a trace"));
    (!demand.calls.is_empty()).then(|| Capture {
        name: trace.file_name().unwrap().to_string_lossy().into_owned(),
        sidecar,
        demand,
        recorded,
    })
}

/// Text and `trace.dat` of every capture that claims contiguous memory.
fn captures() -> Vec<Capture> {
    let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../captures").to_owned()];
    folders.extend(std::env::var("DMAKIT_CAPTURES"));
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in &folders {
        let entries = std::fs::read_dir(folder).expect("a folder of captures");
        paths.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let is_trace = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.contains("cma") && (name.contains(".txt") || name.contains(".dat"))
    };
    paths.retain(is_trace);
    paths.sort();
    let captures: Vec<Capture> = paths.iter().filter_map(|path| read(path)).collect();
    assert!(captures.len() >= 4, "captures are missing from {folders:?}");
    captures
}

#[test]
fn at_least_99_of_100_answers_are_the_kernels() {
    for capture in captures() {
        let agreement = capture.agreement();
        let Agreement {
            calls,
            agree,
            told,
            unfinished,
            bitmaps,
            ..
        } = &agreement;
        println!(
            "{:28} {agree} of {calls} agree, {told} told, {} unknowable, {unfinished} unfinished; \
             {} of {} bitmaps equal",
            capture.name,
            agreement.unknowable.len(),
            bitmaps.equal,
            bitmaps.compared
        );
        for other in agreement.disagree.iter().chain(&agreement.unknowable) {
            println!("  {other:?}");
        }
        assert!(agree * 100 >= calls * 99, "{}", capture.name);
        let all = calls + told + agreement.unknowable.len() as u64 + unfinished;
        assert_eq!(
            all,
            capture.demand.calls.len() as u64,
            "each call counts once"
        );
        assert!(told + agreement.unknowable.len() as u64 <= 1 + calls / 10);
        assert!(bitmaps.differ.is_empty(), "{}: {bitmaps:?}", capture.name);
    }
}

#[test]
fn the_free_runs_are_those_that_the_kernel_printed() {
    let captures = captures();
    let capture = captures.iter().find(|c| c.name == "cma-x86-custom.txt.zst");
    let bitmaps = capture.expect("the capture").agreement().bitmaps;
    assert_eq!((bitmaps.compared, bitmaps.equal), (8, 8));
}

#[test]
fn the_answers_stay_the_kernels_without_a_log() {
    for capture in captures() {
        let places = places(&capture.demand, &capture.recorded, &Log::default(), |_| {
            None
        });
        assert!(places.iter().all(|p| p.source == PlaceSource::Addresses));
        let agreement = agree(&capture.demand, &capture.recorded, &places, &[]);
        // Where the area ends is not known: what failed for want of room may fit the guess.
        let fits =
            |d: &&dmakit_linux_model::cma::Disagreement| d.kernel != Outcome::Failed(Some(-12));
        let wrong = agreement.disagree.iter().filter(fits).count();
        assert_eq!(wrong, 0, "{}: {:?}", capture.name, agreement.disagree);
    }
}

#[test]
fn withheld_answers_do_not_reach_the_replay() {
    for capture in captures() {
        let log = capture.log();
        let places = capture.places(&log);
        let mut what = Replay {
            demand: &capture.demand,
            recorded: &capture.recorded,
            places: &places,
            held_before: &[],
            samples_max: 0,
        };
        let truth = replay(&what, &mut LinuxAreas::new(&places));
        let failed: Vec<u32> = truth.failed.iter().map(|f| f.call).collect();
        let refused = |(index, outcome): (usize, &Option<Outcome>)| {
            matches!(outcome, Some(Outcome::Failed(_))).then_some(index as u32)
        };
        let outcomes = capture.recorded.outcomes.iter().enumerate();
        let recorded_failed: Vec<u32> = outcomes.filter_map(refused).collect();
        assert_eq!(failed, recorded_failed, "{}", capture.name);
        // Any other addresses, the same replay.
        let mut moved = capture.recorded.clone();
        for outcome in moved.outcomes.iter_mut().flatten() {
            if let Outcome::At(pfn) = outcome {
                *pfn ^= 0x5a5a;
            }
        }
        what.recorded = &moved;
        assert_eq!(replay(&what, &mut LinuxAreas::new(&places)), truth);
    }
}

#[test]
fn coherent_allocations_use_the_area_of_the_devices_node() {
    let (mut checked, mut on_node) = (0, 0);
    for capture in captures() {
        let params = CommandLine::parse(capture.sidecar.capture.cmdline.as_deref().unwrap_or(""))
            .cma()
            .expect("a valid command line");
        let exists = |kind: &AreaKind| match kind {
            AreaKind::Node(node) => params.nodes.iter().any(|(n, _)| n == node),
            AreaKind::PerNode(_) => params.per_node.is_some(),
            _ => true,
        };
        for call in &capture.demand.calls {
            let client = &capture.demand.clients[call.client as usize];
            let Some(pci) = capture
                .sidecar
                .pci(&client.name)
                .filter(|_| client.is_device)
            else {
                continue;
            };
            let requester = Requester {
                node: pci.node,
                mask_bits: pci.dma_mask_bits.unwrap_or(64),
                has_area: false,
                may_sleep: true,
            };
            let engine = dmakit_linux_model::Engine::Linux6_12;
            let bytes = call.wish.pages * 4096;
            let first = requester.areas(engine, bytes).into_iter().find(exists);
            let area = &capture.demand.areas[call.area as usize];
            assert_eq!(first.map(|kind| kind.to_string()).as_ref(), Some(area));
            assert_eq!(Requester::wish(bytes), call.wish, "{}", capture.name);
            checked += 1;
            on_node += u32::from(first != Some(AreaKind::Default));
        }
    }
    assert!(
        checked > 100 && on_node >= 8,
        "{checked} checked, {on_node} on a node"
    );
}

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
fn an_answer_that_depends_on_who_came_first_is_unknowable() {
    // The claim and the release overlap: before it 0x1000 is taken, after it it is free.
    let lines = claimed(1, 4, 2, 0x1000)
        + &start(8, 3, 4, 2)
        + &release(7, 4, 4, 0x1000)
        + &finish(8, 5, 4, 2, Ok(0x1000));
    let agreement = judged(&lines);
    assert_eq!(agreement.unknowable.len(), 1);
    assert_eq!(agreement.unknowable[0].reason, Reason::OrderOpen);
    // Two claims of different sizes overlap, either may have come first.
    let lines = start(7, 1, 4, 2)
        + &start(8, 2, 4, 2)
        + &finish(7, 3, 4, 2, Ok(0x1004))
        + &finish(8, 4, 4, 2, Ok(0x1000));
    let agreement = judged(&lines);
    assert_eq!((agreement.unknowable.len(), agreement.calls), (2, 0));
    // An overlap that changes nothing leaves both knowable.
    let lines = claimed(1, 64, 6, 0x1000)
        + &start(8, 3, 4, 2)
        + &release(7, 4, 1, 0x103f)
        + &finish(8, 5, 4, 2, Ok(0x1040));
    let agreement = judged(&lines);
    assert_eq!((agreement.unknowable.len(), agreement.agree), (0, 2));
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
    let lines = "t-7 [000] .... 1.000001: cma_alloc: pfn=1000 page=0 count=4 align=2\n\
                 t-7 [000] .... 1.000002: cma_alloc: pfn=1004 page=0 count=4 align=2\n\
                 t-7 [000] .... 1.000003: cma_release: pfn=1000 page=0 count=4\n\
                 t-7 [000] .... 1.000004: cma_alloc: pfn=ffffffffffffffff page=0 count=1024 align=8\n";
    let agreement = judged(lines);
    assert_eq!((agreement.calls, agreement.agree), (3, 3), "{agreement:?}");
}

#[test]
fn damaged_events_neither_panic_nor_count_twice() {
    let capture = captures()
        .into_iter()
        .find(|c| c.name.starts_with("cma-x86"));
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../captures/cma-x86-custom.txt.zst"
    );
    let whole: Vec<_> = Trace::open(path.as_ref(), Options::default())
        .expect("a trace")
        .map(|event| event.expect("an event"))
        .collect();
    let log = capture.expect("the capture").log();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..12 {
        let mut ingest = Ingest::new();
        let (lost, moved) = (1 + next(20), 1 + next(20));
        let mut index = 0;
        for event in &whole {
            if next(100) < lost {
                continue;
            }
            let mut event = event.clone();
            event.index = index;
            index += 1;
            if let dmakit_trace::Body::Cma(cma) = &mut event.body {
                use dmakit_trace::Cma;
                let wild = [0, 1, 511, 1 << 40, (1 << 52) - 1, u64::MAX - 1][next(6) as usize];
                match cma {
                    Cma::AllocFinish { pfn: Some(pfn), .. } | Cma::Release { pfn, .. }
                        if next(100) < moved =>
                    {
                        *pfn = dmakit_addr::Pfn::new(wild);
                    }
                    Cma::AllocStart { count_pages, .. } if next(200) < moved => {
                        *count_pages = wild;
                    }
                    _ => {}
                }
            }
            ingest.push(&event);
        }
        let (demand, recorded) = ingest.finish();
        let places = places(&demand, &recorded, &log, |_| None);
        let agreement = agree(&demand, &recorded, &places, &log.failures);
        let all = agreement.calls
            + agreement.told
            + agreement.unknowable.len() as u64
            + agreement.unfinished;
        assert_eq!(all, demand.calls.len() as u64);
        let what = Replay {
            demand: &demand,
            recorded: &recorded,
            places: &places,
            held_before: &agreement.held_before,
            samples_max: 0,
        };
        let report = replay(&what, &mut LinuxAreas::new(&places));
        assert_eq!(report.areas.len(), demand.areas.len());
    }
}
