//! `dmakit bench` as it is typed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .arg("bench")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn answer(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn counted_rows_are_the_same_every_time_and_keep_their_bounds() {
    let first = bench(&["--counted", "--json"]);
    assert_eq!(first.stdout, bench(&["--counted", "--json"]).stdout);
    let json = answer(&first);
    assert!(json.get("timing").is_none());
    let rows = json["rows"].as_array().unwrap();
    for row in rows {
        let (count, bound) = (row["count"].as_u64(), row["bound"].as_u64());
        assert!(count.unwrap() <= bound.unwrap(), "{row}");
        assert!(count.unwrap() > 0, "{row}");
    }
    for pool in ["1MiB", "1GiB"] {
        for percent in [0, 50, 90, 99] {
            for outcome in ["served", "failing"] {
                let prefix = format!("probes/{pool}/full{percent}/");
                let name = |row: &Value| row["row"].as_str().unwrap().to_owned();
                let found = (rows.iter().map(name))
                    .any(|row| row.starts_with(&prefix) && row.ends_with(outcome));
                assert!(found, "{prefix} {outcome}");
            }
        }
    }
}

#[test]
fn a_batch_of_32_takes_a_32nd_of_the_syncs_of_strict() {
    let json = answer(&bench(&[
        "--counted",
        "--json",
        "--filter",
        "syncs_per_512",
    ]));
    let rows = json["rows"].as_array().unwrap();
    let of = |name: &str| {
        let row = rows.iter().find(|row| row["row"] == name).unwrap();
        row["count"].as_u64().unwrap()
    };
    for size in ["4KiB", "64KiB", "1MiB", "2MiB"] {
        let strict = of(&format!("syncs_per_512/strict/{size}"));
        assert_eq!(strict, 512);
        assert_eq!(of(&format!("syncs_per_512/batched32/{size}")), strict / 32);
        assert_eq!(of(&format!("syncs_per_512/lazy256/{size}")), strict / 256);
    }
}

#[test]
fn rows_of_every_layer_stand_beside_their_floors_and_the_incumbent() {
    for (row, floor, peer) in [
        ("iova/pair/1", "floor/lock-pair", 11.7),
        ("tables/4KiB/lazy", "floor/checked-stores/4KiB", 32.6),
        ("commands/1", "floor/commands/1", 66.2),
    ] {
        let json = answer(&bench(&["--json", "--quick", "--filter", row]));
        let rows = json["timing"]["rows"].as_array().unwrap();
        let found = rows.iter().find(|found| found["row"] == row).unwrap();
        assert_eq!(found["floor"]["row"], floor);
        assert_eq!(found["incumbent"]["min"], peer);
        assert!(rows.iter().any(|found| found["row"] == floor), "{row}");
    }
}

#[test]
fn a_timed_row_comes_with_its_floor_and_the_incumbent() {
    let output = bench(&[
        "--json",
        "--quick",
        "--filter",
        "search/areas2/512/full0/pair",
    ]);
    let json = answer(&output);
    let rows = json["timing"]["rows"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["row"] == "search/areas2/512/full0/pair")
        .unwrap();
    assert_eq!(row["floor"]["row"], "floor/lock-pair");
    assert_eq!(row["incumbent"]["min"], 103.0);
    let ns = |which: &str| row["ns"][which].as_f64().unwrap();
    assert!(ns("min") <= ns("median") && ns("median") <= ns("max"));
    assert!(rows.iter().any(|row| row["row"] == "floor/lock-pair"));
    // Times stand nowhere else.
    assert!(json["rows"].as_array().unwrap().is_empty());
}

/// A program that answers like an older one of these, whose one row takes `ns`.
fn other(folder: &Path, ns: &str) -> PathBuf {
    let path = folder.join("other");
    let row =
        format!(r#"{{"row":"search/areas1/65536/failing-in-4096-full50","ns":{{"median":{ns}}}}}"#);
    let script = format!("#!/bin/sh\necho '{{\"timing\":{{\"rows\":[{row}]}}}}'\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_far_slower_program_is_told_from_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = other(folder.path(), "1e9");
    let row = "search/areas1/65536/failing-in-4096-full50";
    let words = ["--json", "--quick", "--pairs", "3", "--filter", row];
    let output = bench(&[&words[..], &["--against", path.to_str().unwrap()]].concat());
    let json = answer(&output);
    let compared = &json["timing"]["against"][0];
    assert_eq!(compared["row"], row);
    assert_eq!(compared["verdict"], "faster");
    assert!(compared["effect"].as_f64().unwrap() < -0.9);
    let interval = &compared["interval"];
    assert!(interval[0].as_f64() <= interval[1].as_f64());
    assert!(compared["smallest_detectable"].as_f64().unwrap() >= 0.0);
}

#[test]
fn what_cannot_be_measured_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let silent = folder.path().join("silent");
    fs::write(&silent, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
    let silent = silent.to_str().unwrap();
    let row = "search/areas1/65536/failing";
    let cases: [(&[&str], &str); 5] = [
        (&["--filter", "nothing-like-it"], "no row's name holds"),
        (&["--against", "/no/such/program"], "no such program"),
        (&["--against", "x", "--pairs", "1"], "1 is not in 3..=100"),
        (&["--against", "x", "--counted"], "cannot be used with"),
        (
            &["--quick", "--filter", row, "--against", silent],
            "silent bench: exit status: 3",
        ),
    ];
    for (words, says) in cases {
        let output = bench(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
    }
}
