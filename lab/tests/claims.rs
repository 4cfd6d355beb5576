//! `replay`, `size cma` and `size pins` as they are typed, on captures with claims of contiguous
//! memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CHURN: &str = "cma-x86-custom.txt.zst";
const CHURN_DAT: &str = "cma-x86-custom.dat.zst";
const NODES: &str = "numa2-cma-custom.txt.zst";
const BOOT: &str = "boot-cma-custom.txt.zst";
const BUSY: &str = "cma-busy-arm64-6.12.txt.zst";
const BUSY_OLD: &str = "cma-busy-arm64-6.1.txt.zst";
const WITHOUT: &str = "nvme-direct-6.12.txt.zst";

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../captures")
        .join(name)
}

fn run(words: &[&str], trace: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .args(words)
        .arg(capture(trace))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn json(words: &[&str], trace: &str) -> Value {
    let words: Vec<&str> = words.iter().chain(&["--json"]).copied().collect();
    let output = run(&words, trace);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(2), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number at {path}"))
}

#[test]
fn the_models_answers_are_the_kernels_and_text_and_binary_agree() {
    let captures = [
        (CHURN, 328),
        (CHURN_DAT, 328),
        (NODES, 16),
        (BOOT, 4),
        (BUSY, 97),
        (BUSY_OLD, 93),
    ];
    for (trace, calls) in captures {
        let replay = json(&["replay"], trace);
        let cma = &replay["results"][0]["cma"];
        assert_eq!(cma["compared"], "answers", "{trace}");
        assert_eq!(number(cma, "/calls"), calls, "{trace}");
        assert!(number(cma, "/agree") * 100 >= calls * 99, "{trace}");
        assert_eq!(cma["confidence"], "validated");
        assert_eq!(replay["results"][1]["cma"]["compared"], "served");
    }
    let strip = |trace| {
        let mut replay = json(&["replay"], trace);
        let mut cma = replay["results"][0]["cma"].take();
        // Text has microseconds, trace.dat nanoseconds.
        for list in ["areas", "phases", "failures"] {
            cma[list].take();
        }
        cma
    };
    assert_eq!(strip(CHURN), strip(CHURN_DAT));
}

#[test]
fn a_claim_that_found_only_busy_ranges_has_failed() {
    for (trace, busy, failed) in [(BUSY, 124, 10), (BUSY_OLD, 129, 4)] {
        let cma = &json(&["replay"], trace)["results"][0]["cma"];
        assert_eq!(number(cma, "/busy_retries"), busy, "{trace}");
        assert_eq!(number(cma, "/failed"), failed, "{trace}");
    }
    // The log's clock is 13 s ahead of the trace's; its lists still find their claims.
    let cma = &json(&["replay"], BUSY)["results"][0]["cma"];
    assert_eq!(number(cma, "/bitmaps/compared"), 10);
    assert_eq!(number(cma, "/bitmaps/equal_where_known"), 10);
}

#[test]
fn a_claim_that_failed_says_whether_memory_or_a_run_was_short() {
    let output = run(&["replay"], CHURN);
    assert_eq!(output.status.code(), Some(1), "claims failed");
    let replay = json(&["replay"], CHURN);
    let cma = &replay["results"][0]["cma"];
    assert_eq!(
        (number(cma, "/failed"), number(cma, "/failed_fragmented")),
        (8, 7)
    );
    // The kernel printed 2,573 free and 1,288 as the longest run of the first, in which 3,038 were
    // wanted.
    assert_eq!(number(cma, "/failures/0/free_pages"), 2573);
    assert_eq!(number(cma, "/failures/0/longest_free_pages"), 1288);
    assert_eq!(number(cma, "/bitmaps/equal"), 8);
    let larger = json(&["replay", "--params", "cma=128M"], CHURN);
    let cma = &larger["results"][0]["cma"];
    assert_eq!(number(cma, "/failed"), 0);
    assert_eq!(number(cma, "/areas/0/pages"), 32768);
    assert_eq!(cma["compared"], "served");
    assert_eq!(cma["disagree"].as_array().unwrap().len(), 8);
}

#[test]
fn a_size_of_areas_is_proved_by_replay_at_it_and_below() {
    let size = json(&["size", "cma"], CHURN);
    let at = number(&size, "/answer/pages");
    assert_eq!(number(&size, "/proof/at/failed"), 0);
    assert_eq!(number(&size, "/proof/at/pages"), at);
    assert_eq!(number(&size, "/proof/below/pages"), at - 512);
    assert!(number(&size, "/proof/below/failed") > 0);
    let params = size["answer"]["params"].as_str().unwrap();
    let replay = |pages: u64| {
        let params = format!("cma={}K", pages * 4);
        let answer = json(&["replay", "--params", &params], CHURN);
        number(&answer, "/results/0/cma/failed")
    };
    assert_eq!(params, format!("cma={}M", at / 256));
    assert_eq!(replay(at), 0);
    assert!(replay(at - 512) > 0);
    assert_eq!(
        size["closing"]["confidence"], "extrapolated",
        "claims failed while recording"
    );
}

#[test]
fn sizes_by_node_are_boot_parameters() {
    let size = json(&["size", "cma", "--per-node"], NODES);
    assert_eq!(size["answer"]["params"], "cma=2M numa_cma=1:2M");
    let names: Vec<&str> = size["areas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|area| area["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["numa1", "reserved"]);
    for area in size["areas"].as_array().unwrap() {
        assert_eq!(number(area, "/proof/at/failed"), 0);
        assert!(number(area, "/proof/below/failed") > 0);
    }
    let notes = size["notes"].as_array().unwrap();
    assert!(
        notes
            .iter()
            .any(|note| note.as_str().unwrap().contains("cma_pernuma=2M"))
    );
    let old = json(&["size", "cma", "--engine", "linux-6.1"], NODES);
    assert_eq!(old["answer"]["params"], "cma=2M cma_pernuma=2M");
}

#[test]
fn pins_are_mappings_that_live_long() {
    let all = json(&["size", "pins", "--longer-than", "1ms"], NODES);
    let none = json(&["pins", "--longer-than", "1h"], NODES);
    assert_eq!(none["command"], "size pins");
    assert_eq!(number(&none, "/traces/0/whole/long/mappings"), 0);
    assert!(number(&all, "/traces/0/whole/long/mappings") > 0);
    let whole = &all["traces"][0]["whole"];
    assert!(number(whole, "/all/peak_bytes") <= number(whole, "/all/peak_each_bytes"));
    assert!(number(whole, "/limit_bytes") <= number(whole, "/limit_each_bytes"));
    assert!(number(whole, "/long/peak_bytes") <= number(whole, "/all/peak_bytes"));
    assert_eq!(all["closing"]["confidence"], "extrapolated");
}

#[test]
fn a_trace_without_claims_says_what_to_record() {
    for (words, says) in [
        (&["size", "cma"][..], "record the cma events"),
        (&["size", "cma", "--max", "1K"][..], "2 MiB"),
        (
            &["size", "cma", "--params", "cma=1M"][..],
            "finds cma= itself",
        ),
        (&["replay", "--params", "cma=64MB"][..], "cma= takes"),
    ] {
        is_refused(&run(words, WITHOUT), says);
    }
}

fn is_refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_setting_of_which_a_recording_says_nothing_is_refused() {
    for (params, says) in [
        ("cma=64M@0x1000-0x2000", "does not say where memory is"),
        ("cma=64M@4G", "does not say where memory is"),
        ("cma_pernuma=16M", "claims nothing from such areas"),
        ("numa_cma=0:16M", "for node 0"),
    ] {
        is_refused(&run(&["replay", "--params", params], CHURN), says);
    }
    let known = json(&["replay", "--params", "numa_cma=1:16M"], NODES);
    let areas = known["results"][0]["cma"]["areas"].as_array().unwrap();
    assert!(
        areas.iter().any(|area| area["bytes"] == 16 << 20),
        "{areas:?}"
    );
}

#[test]
fn the_same_claims_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for words in [
        &["replay"][..],
        &["size", "cma", "--per-node"][..],
        &["size", "pins"][..],
    ] {
        let page = folder.path().join("page.html");
        let shown = page.to_str().unwrap();
        let words: Vec<&str> = words.iter().chain(&["--html", shown]).copied().collect();
        let first = run(&words, CHURN);
        let once = std::fs::read(&page).unwrap();
        let again = run(&words, CHURN);
        assert!(first.stdout == again.stdout && once == std::fs::read(&page).unwrap());
        let text = String::from_utf8(once).unwrap();
        assert!(text.contains("<svg") && !text.contains("http"), "{words:?}");
    }
}
