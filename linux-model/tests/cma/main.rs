//! The model of contiguous areas against what real kernels answered.
//!
//! Runs over the captures kept in the project; `DMAKIT_CAPTURES=DIR` adds those of another folder.
//! `cargo test -p dmakit-linux-model --test cma -- --nocapture` prints the table.

mod constructed;

use std::path::{Path, PathBuf};

use dmakit_linux_model::CommandLine;
use dmakit_linux_model::cma::{
    Agreement, AreaKind, Demand, Ingest, LinuxAreas, Log, Outcome, Place, PlaceSource, Recorded,
    Replay, Requester, agree, places, replay,
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
        // What was claimed before a recording has to be told once, however short it is.
        assert!(told + agreement.unknowable.len() as u64 <= 8 + calls / 10);
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
        let agreement = capture.agreement();
        let mut what = Replay {
            demand: &capture.demand,
            recorded: &capture.recorded,
            places: &places,
            held_before: &agreement.held_before,
            samples_max: 0,
        };
        let truth = replay(&what, &mut LinuxAreas::new(&places));
        let failed: Vec<u32> = truth.failed.iter().map(|f| f.call).collect();
        let refused = |(index, outcome): (usize, &Option<Outcome>)| {
            let at_once = agreement.refused_at_once.contains(&(index as u32));
            let is_refused = at_once || matches!(outcome, Some(Outcome::Failed(_)));
            is_refused.then_some(index as u32)
        };
        let outcomes = capture.recorded.outcomes.iter().enumerate();
        let recorded_failed: Vec<u32> = outcomes.filter_map(refused).collect();
        // What others had before the recording is only inferred, and so may a failure be.
        let differs = |call: &&u32| failed.contains(call) != recorded_failed.contains(call);
        let either = failed.iter().chain(&recorded_failed);
        let apart = either.filter(differs).count();
        println!(
            "{:28} {} fail in a replay, {} did, {apart} differ",
            capture.name,
            failed.len(),
            recorded_failed.len()
        );
        let is_known = agreement.told == 0 && agreement.unknowable.is_empty();
        assert!(apart * 100 <= capture.demand.calls.len() && (apart == 0 || !is_known));
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

#[test]
fn damaged_events_neither_panic_nor_count_twice() {
    for name in ["cma-x86-custom.txt.zst", "cma-busy-arm64-6.12.txt.zst"] {
        damaged_events(name);
    }
}

fn damaged_events(name: &str) {
    let capture = captures().into_iter().find(|c| c.name == name);
    let path = format!("{}/../captures/{name}", env!("CARGO_MANIFEST_DIR"));
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
                    Cma::AllocFinish { pfn: Some(pfn), .. }
                    | Cma::BusyRetry { pfn, .. }
                    | Cma::Release { pfn, .. }
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
