//! `compare --pools` as it is typed, on the captures that the project keeps.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const FORCED: &str = "nvme-swiotlb-force-6.12.txt.zst";
const SMALL: &str = "nvme-swiotlb-small-6.12.txt.zst";
const GROWING: &str = "uas-swiotlb-dynamic-small.txt.zst";
const ATTEMPTS: &str = "nvme-swiotlb-force-6.1.txt.zst";

fn compare(words: &[&str], trace: &str) -> Output {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures");
    Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .args(["compare", "--quiet"])
        .args(words)
        .arg(captures.join(trace))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number at {path}"))
}

#[test]
fn a_lent_area_serves_what_a_fixed_pool_of_its_size_serves() {
    for trace in [FORCED, SMALL, GROWING] {
        let output = compare(&["--pools", "16M", "--json"], trace);
        assert_eq!(output.status.code(), Some(0), "{trace}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(number(&report, "/schema"), 1);
        let [fixed, growing, area] = [0, 1, 2].map(|index| &report["results"][index]);
        let size = number(&report, "/pool_bytes");
        for result in [fixed, growing, area] {
            assert_eq!(number(result, "/failed"), 0, "{trace}");
            for key in ["/bytes_copied", "/mappings"] {
                assert_eq!(number(result, key), number(fixed, key), "{trace} {key}");
            }
            let mean = number(result, "/set_aside_mean_bytes");
            assert!(mean <= number(result, "/set_aside_peak_bytes") && mean > 0);
        }
        assert_eq!(number(fixed, "/set_aside_mean_bytes"), size);
        assert!(fixed["lending"].is_null() && growing["lending"].is_null());
        // What is set aside and what is lent is all of the area, and never more.
        let lent = number(area, "/lending/movable_mean_bytes");
        let held = number(area, "/set_aside_mean_bytes");
        assert!(lent > held && lent + held <= size, "{trace}: {lent} {held}");
        let least = number(area, "/lending/movable_least_bytes");
        assert!(least + number(area, "/set_aside_peak_bytes") <= size);
        // Every step was served by what had been taken back before.
        assert_eq!(number(area, "/lending/reclaims_in_need"), 0);
        assert!(number(area, "/lending/reclaims_ahead") > 0);
        assert!(number(area, "/growth_steps") > 0);
    }
}

#[test]
fn an_area_that_is_too_small_fails_and_says_so() {
    let output = compare(&["--pools", "4M"], FORCED);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is too small for the pool"), "{text}");
}

#[test]
fn the_answer_is_the_same_every_time() {
    let words = ["--pools", "16M", "--json"];
    let first = compare(&words, GROWING).stdout;
    assert!(!first.is_empty());
    assert_eq!(first, compare(&words, GROWING).stdout);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    for (words, trace) in [
        (&["--pools", "16M"][..], ATTEMPTS),
        (&["--pools", "2G"], FORCED),
        (&["--pools", "16M", "--engine", "linux-6.12"], FORCED),
        (&["--pools", "16M", "--modes", "strict"], FORCED),
    ] {
        let output = compare(words, trace);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
