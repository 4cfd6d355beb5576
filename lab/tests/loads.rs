//! `replay` and `size` as they are typed, on the captures that the project keeps.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const FORCED: &str = "nvme-swiotlb-force-6.12.txt.zst";
const SMALL: &str = "nvme-swiotlb-small-6.12.txt.zst";
const NATURAL: &str = "net-e1000-32bit-6.12.txt.zst";
const GROWING: &str = "uas-swiotlb-dynamic-small.txt.zst";
const DIRECT: &str = "nvme-direct-6.12.txt.zst";
const ATTEMPTS: &str = "nvme-swiotlb-force-6.1.txt.zst";
const PROBED: &str = "nvme-swiotlb-small-6.1-kprobe.txt.zst";

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../captures")
        .join(name)
}

fn dmakit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmakit"));
    command.args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str], trace: &str) -> Output {
    dmakit(words).arg(capture(trace)).output().unwrap()
}

fn json(words: &[&str], trace: &str) -> Value {
    let output = dmakit(words)
        .arg("--json")
        .arg(capture(trace))
        .output()
        .unwrap();
    assert_ne!(
        output.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number at {path}"))
}

/// Exit 2, one line on standard error, nothing on standard output.
fn is_refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error}");
    assert!(output.stdout.is_empty());
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_models_high_water_is_the_kernels() {
    let (mut phases, mut equal) = (0, 0);
    for trace in [FORCED, SMALL, NATURAL, GROWING] {
        let report = json(&["replay"], trace);
        let kernel = report
            .pointer("/kernel/phases")
            .and_then(Value::as_array)
            .unwrap();
        let ours = report
            .pointer("/results/0/phases")
            .and_then(Value::as_array)
            .unwrap();
        assert_eq!(kernel.len(), ours.len());
        for (kernel, ours) in kernel.iter().zip(ours) {
            assert_eq!(kernel["name"], ours["name"]);
            let (counted, said) = (
                number(kernel, "/high_water_slots"),
                number(ours, "/high_water_slots"),
            );
            phases += 1;
            if counted == said {
                equal += 1;
                continue;
            }
            let interval = &ours["high_water_interval"];
            let inside = (number(interval, "/0")..=number(interval, "/1")).contains(&counted);
            assert!(
                inside,
                "{trace} {}: {counted} outside {interval}",
                ours["name"]
            );
            assert!(ours["interval_reason"].is_string());
        }
    }
    assert!(equal * 100 >= phases * 95, "{equal} of {phases}");
}

#[test]
fn small_pools_fail_where_the_kernel_failed() {
    for trace in [SMALL, PROBED] {
        let report = json(&["replay"], trace);
        let own = report.pointer("/results/0").unwrap();
        assert!(number(own, "/failed") > 0, "{trace}");
        let parts = number(own, "/failed_visible") + number(own, "/failed_silent");
        assert_eq!(parts, number(own, "/failed"));
        assert_eq!(run(&["replay"], trace).status.code(), Some(1));
    }
    let ample = json(&["replay"], FORCED);
    assert_eq!(number(&ample, "/results/0/failed"), 0);
    assert_eq!(run(&["replay"], FORCED).status.code(), Some(0));
}

#[test]
fn our_pool_serves_every_capture_whole_in_no_more_than_the_incumbent_needs() {
    for trace in [FORCED, SMALL, NATURAL, PROBED] {
        let report = json(&["size", "swiotlb"], trace);
        let ours = report.pointer("/answers/0").unwrap();
        assert_eq!(ours["engine"], "dmakit");
        for count in ["high_water_slots", "pool_bytes_peak"] {
            let (theirs, ours) = (
                number(&report["answer"], &format!("/{count}")),
                number(&ours["answer"], &format!("/{count}")),
            );
            assert!(ours <= theirs, "{trace} {count}: {ours} > {theirs}");
        }
        assert_eq!(number(ours, "/growing/failed"), 0, "{trace}");
    }
}

#[test]
fn a_size_is_proved_by_replay_at_it_and_below() {
    for trace in [FORCED, SMALL, NATURAL, PROBED] {
        for engine in ["linux-6.12", "dmakit"] {
            let report = json(&["size", "swiotlb", "--engine", engine], trace);
            let params = report
                .pointer("/answer/params")
                .and_then(Value::as_str)
                .unwrap();
            let at = json(&["replay", "--engine", engine, "--params", params], trace);
            assert_eq!(number(&at, "/results/0/failed"), 0, "{trace} {params}");
            assert_eq!(
                at.pointer("/results/0/params"),
                report.pointer("/answer/params")
            );

            let (slots, below) = (
                number(&report, "/answer/slots"),
                number(&report, "/proof/below/slots"),
            );
            assert!(below < slots);
            let areas = number(&report, "/answer/areas");
            let smaller = format!("swiotlb={below},{areas}");
            let failing = json(&["replay", "--engine", engine, "--params", &smaller], trace);
            let failed = number(&failing, "/results/0/failed");
            assert_eq!(
                number(&failing, "/results/0/pool/slots"),
                below,
                "not effective"
            );
            assert_eq!(
                failed,
                number(&report, "/proof/below/failed"),
                "{trace} {engine}"
            );
            assert!(failed > 0, "{trace} {engine} {smaller}");
        }
    }
}

#[test]
fn several_traces_get_the_setting_that_serves_all() {
    let alone: Vec<u64> = [FORCED, NATURAL]
        .iter()
        .map(|trace| {
            number(
                &json(&["size", "swiotlb", "--engine", "linux-6.12"], trace),
                "/answer/slots",
            )
        })
        .collect();
    assert_ne!(alone[0], alone[1]);
    let output = dmakit(&["size", "swiotlb", "--engine", "linux-6.12", "--json"])
        .args([capture(NATURAL), capture(FORCED)])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        Some(number(&report, "/answer/slots")),
        alone.into_iter().max()
    );
    assert_eq!(report["traces"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_trace_of_attempts_says_what_it_cannot_know() {
    let report = json(&["replay"], ATTEMPTS);
    let own = report.pointer("/results/0").unwrap();
    assert_eq!(number(own, "/mappings"), 18_792);
    for unknown in ["failed", "high_water_slots", "pool_bytes_peak"] {
        assert!(own[unknown].is_null(), "{unknown}");
    }
    assert!(!own["unknown"].as_array().unwrap().is_empty());
    let size = json(&["size", "swiotlb"], ATTEMPTS);
    assert!(size["answer"].is_null() && size["proof"].is_null());
    assert!(size["reason"].as_str().unwrap().contains("attempts only"));
}

#[test]
fn where_nothing_is_bounced_force_asks_what_would_be() {
    let report = json(&["replay", "--engine", "linux-6.12"], DIRECT);
    assert_eq!(number(&report, "/results/0/mappings"), 0);
    let none = json(&["size", "swiotlb", "--engine", "linux-6.12"], DIRECT);
    assert_eq!(number(&none, "/answer/slots"), 0);
    assert!(none.pointer("/proof/below_reason").unwrap().is_string());

    let forced = json(
        &[
            "size",
            "swiotlb",
            "--engine",
            "linux-6.12",
            "--params",
            "swiotlb=force",
        ],
        DIRECT,
    );
    assert!(number(&forced, "/answer/slots") > 0);
    assert!(number(&forced, "/proof/below/failed") > 0);
    assert_eq!(forced["confidence"], "extrapolated");
}

#[test]
fn json_has_the_fields_that_it_promises() {
    let replay = json(&["replay"], SMALL);
    assert_eq!(number(&replay, "/schema"), 1);
    assert_eq!(replay["command"], "replay");
    assert_eq!(replay.pointer("/trace/path").unwrap(), SMALL);
    for field in ["events", "lost", "truncated", "unmatched"] {
        number(&replay, &format!("/trace/{field}"));
    }
    for field in [
        "mappings",
        "failed",
        "failed_silent",
        "high_water_slots",
        "high_water_bytes",
        "pool_bytes_peak",
        "bytes_copied",
        "slots_probed",
    ] {
        number(&replay, &format!("/results/0/{field}"));
    }
    for field in ["engine", "params", "confidence"] {
        assert!(
            replay
                .pointer(&format!("/results/0/{field}"))
                .unwrap()
                .is_string(),
            "{field}"
        );
    }
    let engines: Vec<&Value> = replay["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| &result["engine"])
        .collect();
    assert_eq!(engines, ["linux-6.12", "dmakit"]);
    for field in ["setting", "confidence", "why", "reproduce"] {
        assert!(replay["closing"][field].is_string(), "{field}");
    }

    let size = json(&["size", "swiotlb"], SMALL);
    for field in ["slots", "areas", "bytes"] {
        number(&size, &format!("/answer/{field}"));
    }
    assert!(size.pointer("/curve/0/ratio").unwrap().is_number());
    for context in ["hard_irq", "soft_irq", "preempt_off", "sleepable"] {
        number(&size, &format!("/contexts/{context}/slots"));
    }
    assert!(size.pointer("/held_out/says").unwrap().is_string());
}

#[test]
fn the_same_input_gives_the_same_bytes_from_any_folder() {
    let folder = Folder::new("elsewhere");
    for name in [NATURAL, "net-e1000-32bit-6.12.toml"] {
        fs::copy(capture(name), folder.0.join(name)).unwrap();
    }
    for words in [&["replay"][..], &["size", "swiotlb"][..]] {
        for form in [&["--json"][..], &[][..]] {
            let words: Vec<&str> = words.iter().chain(form).copied().collect();
            let page = folder.0.join("page.html");
            let here = dmakit(&words).arg(capture(NATURAL)).output().unwrap();
            let there = dmakit(&words)
                .args([NATURAL, "--html", "page.html"])
                .current_dir(&folder.0)
                .output()
                .unwrap();
            assert!(here.stdout == there.stdout, "{words:?}");
            let first = fs::read(&page).unwrap();
            let again = dmakit(&words)
                .arg(capture(NATURAL))
                .arg("--html")
                .arg(&page)
                .output()
                .unwrap();
            assert!(here.stdout == again.stdout);
            assert!(first == fs::read(&page).unwrap());
        }
    }
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let folder = Folder::new("page");
    for words in [&["replay"][..], &["size", "swiotlb"][..]] {
        let page = folder.0.join("page.html");
        let status = dmakit(words)
            .arg(capture(FORCED))
            .arg("--html")
            .arg(&page)
            .output()
            .unwrap();
        assert_eq!(status.status.code(), Some(0));
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("<!DOCTYPE html>") && text.contains("<svg"));
        for outside in ["http:", "https:", "src=", "url(", "<script", "@import"] {
            assert!(!text.contains(outside), "{outside}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_in_one_line() {
    let folder = Folder::new("refused");
    let mut whole = Vec::new();
    fs::File::open(capture(NATURAL))
        .unwrap()
        .read_to_end(&mut whole)
        .unwrap();
    let long = [&b"x".repeat(3 << 20)[..], b"\n"].concat();
    let cases: [(&str, &[u8]); 6] = [
        ("cut.zst", &whole[..whole.len() - 1000]),
        ("empty", b""),
        ("binary", &[0, 159, 146, 150, 7, 0, 255, 1]),
        ("long-line", &long),
        (
            "prose",
            b"It was a dark and stormy night.\nNothing was traced.\n",
        ),
        (
            "log",
            b"[    0.1] software IO TLB: area num 2.\n[    0.2] usb 1-1: new device\n",
        ),
    ];
    for (name, bytes) in cases {
        let path = folder.file(name, bytes);
        for words in [&["replay"][..], &["size", "swiotlb"][..]] {
            is_refused(&dmakit(words).arg(&path).output().unwrap(), name);
        }
    }
    is_refused(
        &dmakit(&["replay"])
            .arg(folder.0.join("absent"))
            .output()
            .unwrap(),
        "absent",
    );
    let cut = folder.0.join("cut.zst");
    let tolerated = dmakit(&["replay", "--tolerate-truncation", "--json"])
        .arg(&cut)
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&tolerated.stdout).unwrap();
    assert_eq!(report.pointer("/trace/cut"), Some(&Value::Bool(true)));
}

#[test]
fn a_wrong_word_names_the_nearest_right_one() {
    for (params, says) in [
        ("swoitlb=4096", "swiotlb"),
        ("swiotlb=8M", "swiotlb=4096"),
        ("swiotlb=4096,2,forse", "forse"),
        ("iommu.stricd=1", "iommu.strict"),
    ] {
        is_refused(&run(&["replay", "--params", params], NATURAL), says);
    }
    is_refused(
        &run(&["replay", "--engine", "linux-6.13"], NATURAL),
        "linux-6.12",
    );
    is_refused(&run(&["size", "swiotlb", "--max", "3X"], NATURAL), "3X");
}

#[test]
fn force_stays_unless_noforce_is_given() {
    let params = |words: &[&str]| {
        let report = json(
            &[&["replay", "--engine", "linux-6.12"], words].concat(),
            SMALL,
        );
        report
            .pointer("/results/0/params")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(params(&[]), "swiotlb=512,2,force");
    assert_eq!(
        params(&["--params", "swiotlb=4000"]),
        "swiotlb=4096,2,force"
    );
    assert_eq!(params(&["--params", "swiotlb=noforce"]), "swiotlb=noforce");
    let only = params(&["--params-only", "--params", "swiotlb=1024,1,force"]);
    assert_eq!(only, "swiotlb=1024,1,force");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = dmakit(&["replay", "--json"])
        .arg(capture(FORCED))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

#[test]
fn standard_input_is_read_without_a_sidecar() {
    let mut child = dmakit(&["replay", "-", "--json", "--engine", "linux-6.12"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = fs::read(capture(FORCED)).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&report, "/results/0/mappings"), 20_856);
    assert_eq!(number(&report, "/results/0/high_water_slots"), 3_238);
}
