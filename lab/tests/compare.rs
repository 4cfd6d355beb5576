//! `compare` and `size mr` as they are typed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SMMU: &str = "nvme-smmu-strict-arm64.txt.zst";
const LAZY: &str = "nvme-vtd-lazy-6.1.txt.zst";
const BENCH: &str = "mapbench-vtd-lazy.txt.zst";
const DIRECT: &str = "nvme-direct-6.12.txt.zst";
const ATTEMPTS: &str = "nvme-swiotlb-force-6.1.txt.zst";

/// Two buffers of a page and one that crosses into the next page, behind an IOMMU.
const SMALL: &str = "\
fio-7 [000] ..... 1.000000: dma_map_page: 0000:00:01.0 dir=TO_DEVICE dma_addr=fffff000 size=4096 phys_addr=2000000 attrs=
fio-7 [000] ..... 1.000010: dma_map_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=ffffe000 size=4096 phys_addr=2001000 attrs=
fio-7 [000] ..... 1.000020: dma_map_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=ffffc800 size=4096 phys_addr=3000800 attrs=
fio-7 [000] ..... 1.000030: dma_unmap_page: 0000:00:01.0 dir=TO_DEVICE dma_addr=fffff000 size=4096 attrs=
fio-7 [000] ..... 1.000040: dma_unmap_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=ffffe000 size=4096 attrs=
fio-7 [000] ..... 1.000050: dma_unmap_page: 0000:00:01.0 dir=FROM_DEVICE dma_addr=ffffc800 size=4096 attrs=
";

fn dmakit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmakit"));
    command.args(words).stdin(Stdio::null());
    command
}

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../captures")
        .join(name)
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
    parsed(&output)
}

fn parsed(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn fed(words: &[&str], input: &str) -> Output {
    let mut child = dmakit(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path}"))
}

/// One engine's row of one mode.
fn row<'a>(report: &'a Value, engine: &str, mode: &str) -> &'a Value {
    let rows = report["results"].as_array().unwrap();
    let found = rows
        .iter()
        .find(|row| row["engine"] == engine && row["mode"] == mode);
    found.unwrap_or_else(|| panic!("no {engine} {mode}"))
}

/// Exit 2, one line on standard error, nothing on standard output.
fn is_refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error}");
    assert!(output.stdout.is_empty());
}

#[test]
fn the_model_gives_what_the_kernel_recorded() {
    for trace in [SMMU, LAZY, BENCH] {
        let report = json(&["compare", "--modes", "strict"], trace);
        let agreement = &report["agreement"];
        let (recorded, equal) = (number(agreement, "/recorded"), number(agreement, "/equal"));
        assert!(equal >= recorded * 0.99, "{trace}: {equal} of {recorded}");
        let reasons = agreement["reasons"].as_array().unwrap();
        let differing: f64 = reasons.iter().map(|reason| number(reason, "/count")).sum();
        assert_eq!(equal + differing, recorded, "{trace}");
        let listed = agreement["differences"].as_array().unwrap().len() as f64;
        assert_eq!(listed, differing.min(100.0), "{trace}");
    }
}

#[test]
fn what_a_mode_promises_shows_in_its_counts() {
    for trace in [SMMU, LAZY, DIRECT] {
        let report = json(&["compare"], trace);
        let linux = report["results"][0]["engine"].as_str().unwrap().to_owned();
        for engine in [linux.as_str(), "dmakit"] {
            let of = |mode: &str, path: &str| number(row(&report, engine, mode), path);
            // A sync for each unmap; what was left mapped has none.
            let unmaps = of("strict", "/totals/syncs");
            assert!(unmaps > 0.98 * number(&report, "/ios"), "{trace} {engine}");
            assert_eq!(of("strict", "/totals/exposed_page_us"), 0.0);
            assert!(of("lazy", "/totals/exposed_page_us") > 0.0);
            assert!(of("lazy", "/totals/syncs") * 5.0 < unmaps);
            assert!(of("bounce", "/totals/bytes_copied") >= number(&report, "/bytes"));
            assert_eq!(of("bounce", "/totals/failed"), 0.0);
            assert_eq!(of("passthrough", "/totals/iova_operations"), 0.0);
            let free = &row(&report, engine, "passthrough")["totals"]["exposed_page_us"];
            assert!(free.is_null(), "nothing keeps a device out");
            assert!(of("lazy", "/time_per_io/ns") < of("strict", "/time_per_io/ns"));
        }
        let batched = row(&report, "dmakit", "batched");
        assert_eq!(number(batched, "/totals/exposed_page_us"), 0.0);
        let strict = row(&report, "dmakit", "strict");
        assert!(number(batched, "/totals/syncs") < 0.7 * number(strict, "/totals/syncs"));
    }
}

#[test]
fn a_trace_without_an_iommu_is_asked_what_one_would_cost() {
    let report = json(&["compare", "--modes", "lazy,strict"], DIRECT);
    assert!(report["agreement"].is_null());
    assert_eq!(report["results"].as_array().unwrap().len(), 4);
    assert_eq!(report["closing"]["confidence"], "modelled");
}

#[test]
fn constants_are_named_and_what_they_cannot_tell_is_said() {
    let report = json(&["compare", "--modes", "strict"], DIRECT);
    for constant in report["constants"].as_array().unwrap() {
        assert!(!constant["source"].as_str().unwrap().is_empty());
        assert!(number(constant, "/low_ns") <= number(constant, "/ns"));
        assert!(number(constant, "/ns") <= number(constant, "/high_ns"));
    }
    for row in report["check"]["rows"].as_array().unwrap() {
        let (low, high) = (number(row, "/low"), number(row, "/high"));
        let half = (high - low) / (high + low);
        assert_eq!(row["predicted"].is_number(), half <= 0.25, "{row}");
        assert!(!row["reason"].as_str().unwrap().is_empty());
    }
}

/// Counted by hand: three mappings of 1, 1 and 2 pages; the first makes three tables, the third is
/// in the same; each page is an entry written and one cleared. The first of the 1-page sizes to
/// come back serves nobody.
#[test]
fn a_small_load_is_counted_as_by_hand() {
    let words = [
        "compare",
        "-",
        "--engine",
        "linux-6.12",
        "--engine",
        "dmakit",
    ];
    let output = fed(&words, SMALL);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let table: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "Per I/O")
        .take_while(|line| !line.is_empty())
        .collect();
    assert_eq!(
        table.join("\n"),
        "\
Per I/O
  engine and mode         IOVA ops  cached  stores  commands  syncs   copied
  linux-6.12 passthrough         0       -       0         0      0      0 B
  linux-6.12 lazy             2.00   0.0 %    3.67      0.33   0.33      0 B
  linux-6.12 strict           2.00   0.0 %    3.67      1.00   1.00      0 B
  linux-6.12 bounce              0       -       0         0      0  6.7 KiB
  dmakit passthrough             0       -       0         0      0      0 B
  dmakit lazy                 2.00   0.0 %    3.67      0.33   0.33      0 B
  dmakit strict               2.00   0.0 %    3.67      1.00   1.00      0 B
  dmakit batched              2.00   0.0 %    3.67      0.33   0.33      0 B
  dmakit bounce                  0       -       0         0      0  6.7 KiB"
    );
}

#[test]
fn the_same_input_gives_the_same_bytes_and_the_line_reproduces_it() {
    let first = run(&["compare", "--modes", "lazy,batched"], BENCH);
    let again = run(&["compare", "--modes", "lazy,batched"], BENCH);
    assert_eq!(first.stdout, again.stdout);
    let text = String::from_utf8(first.stdout).unwrap();
    let line = "reproduce   dmakit compare mapbench-vtd-lazy.txt.zst --modes lazy,batched";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_page_holds_everything_itself() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("compare.html");
    let words = ["compare", "--html", page.to_str().unwrap()];
    assert_eq!(run(&words, DIRECT).status.code(), Some(0));
    let html = std::fs::read_to_string(page).unwrap();
    assert!(html.contains("<svg"));
    for outside in ["<script", "src=", "href=", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn what_cannot_be_compared_is_one_line() {
    is_refused(&run(&["compare"], ATTEMPTS), "no calls of the mapping API");
    is_refused(&run(&["compare", "--modes", "stict"], DIRECT), "'strict'");
    is_refused(
        &run(&["compare", "--params", "swiotbl=force"], DIRECT),
        "swiotlb",
    );
}

const REGION: [&str; 6] = ["100MB", "--iova", "36", "--steps", "4000", "--json"];

#[test]
fn a_region_is_sixteen_bytes_where_it_is_one_block() {
    let words: Vec<&str> = ["size", "mr"].into_iter().chain(REGION).collect();
    let report = parsed(&dmakit(&words).output().unwrap());
    let ways = report["device"].as_array().unwrap();
    let (small, whole) = (&ways[0], ways.last().unwrap());
    assert_eq!(number(small, "/mapping_bytes"), 195_320.0);
    assert_eq!(number(small, "/piece_bytes"), 4096.0);
    assert_eq!(number(whole, "/mapping_bytes"), 16.0);
    assert_eq!(number(whole, "/piece_bytes"), f64::from(128 << 20));
    assert_eq!(number(whole, "/saved_bytes"), 195_304.0);
    assert_eq!(number(small, "/chance_percent"), 100.0);
    assert_eq!(number(&report, "/iommu/0/leaves"), 24_415.0);

    let alias: Vec<&str> = ["mr"].into_iter().chain(REGION).collect();
    assert_eq!(parsed(&dmakit(&alias).output().unwrap()), report);
}

#[test]
fn a_fuller_space_has_no_more_blocks() {
    let chance = |fill: &str| {
        let words = [
            "mr", "100MB", "--iova", "34", "--steps", "4000", "--json", "--fill", fill,
        ];
        let report = parsed(&dmakit(&words).output().unwrap());
        let ways = report["device"].as_array().unwrap();
        number(ways.last().unwrap(), "/chance_percent_any")
    };
    assert_eq!(chance("0"), 100.0);
    assert!(chance("98") < 100.0);
}

#[test]
fn a_region_that_is_none_is_one_line() {
    is_refused(&dmakit(&["mr", "0"]).output().unwrap(), "expected 1 byte");
    is_refused(
        &dmakit(&["mr", "1M", "--iova", "20"]).output().unwrap(),
        "20 bits",
    );
    is_refused(
        &dmakit(&["mr", "1M", "--leaf", "5K"]).output().unwrap(),
        "power of two",
    );
}
