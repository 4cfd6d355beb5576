//! `dmakit run` as it is typed: exit codes and fields of the answer.

mod areas;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .arg("run")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The answer as JSON, of a run that ended with `code`.
fn answer(words: &[&str], code: i32) -> Value {
    let output = run(&[words, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.is_empty(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without what the clock says.
fn untimed(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("timing").unwrap();
    answer
}

/// Exit 2, one line on standard error, nothing on standard output.
fn is_refused(words: &[&str], says: &str) {
    let output = run(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error}");
    assert!(output.stdout.is_empty());
}

/// A built-in page with `from` replaced by `to`, in a file.
fn changed(page: &str, name: &str, from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/");
    let text = std::fs::read_to_string(format!("{place}{page}.toml")).unwrap();
    assert!(text.contains(from));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text.replace(from, to)).unwrap();
    (directory, path)
}

fn check<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let checks = answer["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn without_a_scenario_a_short_one_runs_on_the_simulated_machine() {
    let first = answer(&[], 0);
    assert_eq!(first["machine"], "sim");
    assert_eq!(first["held"], true);
    assert_eq!(check(&first, "control")["held"], true);
    assert!(first["dma_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(first["faults"], 0);
    assert_eq!(
        first["closing"]["reproduce"],
        "dmakit run cache --machine sim --seed 1"
    );
    let again = answer(&["cache", "--machine", "sim"], 0);
    assert_eq!(untimed(first), untimed(again));
}

#[test]
fn what_a_machine_cannot_do_is_refused_with_the_reason() {
    is_refused(&["smmu-nvme"], "does not run on sim: it is for qemu:virt");
    let words = ["smmu-nvme", "--machine", "qemu:q35"];
    is_refused(&words, "does not run on qemu:q35: it is for qemu:virt");
    let (from, to) = ("[\"qemu:virt\"]", "[\"qemu:q35\"]");
    let (_directory, path) = changed("smmu-edu", "pc.toml", from, to);
    let words = [path.to_str().unwrap(), "--machine", "qemu:q35"];
    is_refused(&words, "there is no driver for its IOMMU");
    is_refused(&["--machine", "qemu:vrt"], "'qemu:virt'");
    is_refused(&["no-such"], "expected a file or one of cache, disk-read");
    is_refused(&["/nonexistent/page.toml"], "/nonexistent/page.toml");
    let words = ["--machine", "qemu:virt", "--qemu", "/nonexistent/qemu"];
    is_refused(&words, "apt-get install qemu-system-arm");
    let (_directory, path) = changed("smmu-nvme", "odd.toml", "depth = 64", "depth = 99");
    let path = path.to_str().unwrap();
    is_refused(
        &[path, "--machine", "qemu:virt"],
        "disk.depth is 99, expected 1 to 64",
    );
}

#[test]
fn the_list_names_every_scenario_and_its_machines() {
    let listed = answer(&["--list"], 0);
    let rows = listed["scenarios"].as_array().unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let wanted = [
        "cache",
        "disk-read",
        "smmu-edu",
        "smmu-nvme",
        "smmu-nvme-batched",
        "smmu-nvme-lazy",
        "edu-bounce",
        "nvme-passthrough",
        "nvme-bounce",
        "per-node-cma",
        "pins-versus-cma",
        "movable-pressure",
        "boot-carving",
    ];
    assert_eq!(names, wanted);
    assert_eq!(rows[1]["machines"][0], "qemu:virt");
}

#[test]
fn a_new_user_sees_a_disk_read_through_the_smmu() {
    let words = ["--machine", "qemu:virt"];
    let first = answer(&words, 0);
    assert_eq!(first["scenario"], "disk-read");
    assert_eq!(first["held"], true);
    // And a block once more for each of 8 batches.
    assert_eq!(first["dma_bytes"], (64 << 20) + 8 * 512);
    assert_eq!(first["faults"], 0);
    assert!(first["provoked_faults"].as_u64().unwrap() > 0);
    assert_eq!(first["counters"]["transfers"], 64);
    let steps = first["translation"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 4);
    assert_eq!(steps[3]["is_leaf"], true);
    assert_eq!(
        first["translation"]["bytes"],
        first["translation"]["origin"]
    );
    assert!(!first["skipped"].as_array().unwrap().is_empty());
    assert_eq!(untimed(first), untimed(answer(&words, 0)));
    let shown = run(&words);
    assert_eq!(shown.status.code(), Some(0));
    assert!(shown.stderr.is_empty(), "progress is for terminals");
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "one translation",
        "level 3",
        "physical 0x",
        "iommu.strict=1",
        "held",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_named_scenarios_hold_on_the_device_models() {
    for (name, machine, seed) in [
        ("smmu-edu", "qemu:virt", "7"),
        ("smmu-nvme", "qemu:virt", "8"),
        ("smmu-nvme-batched", "qemu:virt", "8"),
        ("smmu-nvme-lazy", "qemu:virt", "9"),
        ("nvme-passthrough", "qemu:virt", "10"),
        ("nvme-bounce", "qemu:virt", "11"),
        ("edu-bounce", "qemu:q35", "12"),
        ("nvme-passthrough", "qemu:q35", "13"),
        ("nvme-bounce", "qemu:q35", "14"),
    ] {
        let answer = answer(&[name, "--machine", machine, "--seed", seed], 0);
        assert_eq!(answer["held"], true, "{answer}");
        assert_eq!(answer["faults"], 0);
        assert_eq!(check(&answer, "all-returned")["failed"], 0);
        let counters = &answer["counters"];
        assert_eq!(counters["maps"], counters["unmaps"]);
        let skipped = answer["skipped"].as_array().unwrap().iter();
        let says = |row: &Value| row["what"].as_str().unwrap().starts_with("translation");
        let is_skipped = skipped.filter(|row| says(row)).count() == 1;
        assert_eq!(is_skipped, answer["translation"].is_null(), "{answer}");
        let bounced = counters["bounced"].as_u64();
        match name {
            // Half of memory is out of reach, and pages are picked from all of it.
            "edu-bounce" => assert!((400..600).contains(&bounced.unwrap()), "{counters}"),
            "nvme-passthrough" => assert_eq!(bounced, Some(0)),
            "nvme-bounce" => assert_eq!(bounced, counters["maps"].as_u64()),
            _ => assert_eq!(bounced, None),
        }
    }
}

#[test]
fn without_a_scenario_a_pc_shows_a_device_that_does_not_reach_all_of_memory() {
    let words = ["--machine", "qemu:q35"];
    let first = answer(&words, 0);
    assert_eq!(first["scenario"], "edu-bounce");
    let highest = first["counters"]["highest_dma"].as_u64().unwrap();
    assert!(highest < 1 << 28, "{highest:#x}");
    assert_eq!(untimed(first), untimed(answer(&words, 0)));
}

#[test]
fn a_page_can_be_copied_from_the_program_and_run() {
    let printed = run(&["nvme-bounce", "--page"]);
    assert_eq!(printed.status.code(), Some(0));
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/nvme-bounce.toml");
    assert_eq!(printed.stdout, std::fs::read(place).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("my.toml");
    let text = String::from_utf8(printed.stdout).unwrap();
    std::fs::write(&path, text.replace("rounds = 300", "rounds = 30")).unwrap();
    let words = [path.to_str().unwrap(), "--machine", "qemu:q35"];
    assert_eq!(answer(&words, 0)["counters"]["transfers"], 30);
    is_refused(&["no-such", "--page"], "no scenario 'no-such'");
    is_refused(&["--page"], "<SCENARIO>");
}

#[test]
fn what_passthrough_does_not_promise_is_refuted() {
    let (from, to) = ("\"no-faults\", ", "\"no-stale-hits\", ");
    let (_directory, path) = changed("nvme-passthrough", "mine.toml", from, to);
    for machine in ["qemu:virt", "qemu:q35"] {
        let words = [path.to_str().unwrap(), "--machine", machine];
        let answer = answer(&words, 1);
        assert_eq!(check(&answer, "data")["held"], true);
        let refuted = check(&answer, "no-stale-hits");
        assert_eq!(refuted["failed"], refuted["tried"]);
        let failure = refuted["first_failure"].as_str().unwrap();
        assert!(failure.contains("memory has changed"), "{failure}");
    }
}

#[test]
fn what_lazy_invalidation_does_not_promise_is_refuted() {
    let (from, to) = ("\"no-stale-hits-after-flush\"", "\"no-stale-hits\"");
    let (_directory, path) = changed("smmu-nvme-lazy", "mine.toml", from, to);
    let answer = answer(&[path.to_str().unwrap(), "--machine", "qemu:virt"], 1);
    assert_eq!(answer["held"], false);
    assert_eq!(check(&answer, "data")["held"], true);
    let refuted = check(&answer, "no-stale-hits");
    assert_eq!(refuted["failed"], refuted["tried"]);
    assert!(
        refuted["first_failure"]
            .as_str()
            .unwrap()
            .contains("no fault")
    );
    let reproduce = "dmakit run mine.toml --machine qemu:virt --seed 1";
    assert_eq!(
        answer["closing"]["reproduce"], reproduce,
        "its folder does not show"
    );
}
