//! `dmakit size its` as it is typed.

use std::process::{Command, Output, Stdio};

fn dmakit(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dmakit"))
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(words: &str, status: i32) -> String {
    let output = dmakit(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{words}: {error}");
    assert!(error.is_empty(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// 20 bits of device IDs, as the machine of a public boot log has: "Devices Table too large, reduce
/// ids 20->19 ... allocated 524288 Devices (flat, esz 8, psz 64K)".
const TYPER: &str = "0x1f00026fb1";

#[test]
fn a_public_boot_log_loses_the_ids_that_are_said_here() {
    let text = text(&format!("size its --typer {TYPER} --flat-only"), 0);
    // Lines are folded to the terminal's width.
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for says in [
        "4 KiB << 10 = 4 MiB at most",
        "keeps 524,288 IDs, 524,288 (50.0 %) are lost",
        "1,048,576 IDs x 8 B = 8 MiB",
    ] {
        assert!(words.contains(says), "{text}");
    }
    let closing = text.rsplit("\n\n").next().unwrap_or_default();
    let labels = closing.lines().filter(|line| !line.starts_with("   "));
    let labels: Vec<_> = labels
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        labels,
        ["setting", "confidence", "why", "reproduce"],
        "{text}"
    );
}

#[test]
fn the_reservation_holds_the_table() {
    let setting = |words: &str| {
        let text = text(&format!("its --typer {TYPER} --json {words}"), 0);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["command"], "size its");
        (
            json["closing"]["setting"].as_str().unwrap().to_owned(),
            json["flat"]["bytes"].as_u64().unwrap(),
        )
    };
    assert_eq!(setting("--flat-only"), ("cma_pernuma=8M".into(), 8 << 20));
    let on_node = setting("--flat-only --node 1 --devices 0x90001");
    assert_eq!(on_node, ("numa_cma=1:8M".into(), 0x49_0000));
    assert_eq!(setting("").0, "two levels, no reservation");
    assert_eq!(setting("--max-order 11").0, "flat, no reservation");
    assert_eq!(setting("--devices 65536").0, "flat, no reservation");
}

#[test]
fn more_devices_than_the_its_has_are_an_error() {
    let output = dmakit(&format!("size its --typer {TYPER} --devices 1048577"));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        error,
        "dmakit: --devices 1048577: GITS_TYPER 0x1f00026fb1 has 20 bits of device IDs, \
         1,048,576 at most\n"
    );
}

#[test]
fn ids_that_no_table_serves_exit_1() {
    // 32 bits, entries of 32 bytes, pages of 4 KiB: two levels end at 2^24.
    let text = text("its --typer 0x3ffb1 --entry 32 --its-page 4K", 1);
    assert!(text.contains("setting     none"), "{text}");
    assert!(text.contains("16,777,216"), "{text}");
}

#[test]
fn what_is_typed_wrong_is_one_line() {
    for (words, says) in [
        ("size its", "--typer"),
        ("size its --typer zz", "'zz' is not a number"),
        ("size its --typer 0", "no physical LPIs"),
        (
            "size its --typer 0x1 --its-page 8K",
            "expected 4K, 16K or 64K",
        ),
        ("size its --typer 0x1 --page 3K", "expected 4K, 16K or 64K"),
        ("size its --typer 0x1 --devices 0", "at least one"),
        ("size its --typer 0x1 --entry 33", "33"),
    ] {
        let output = dmakit(words);
        assert_eq!(output.status.code(), Some(2), "{words}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(says), "{words}: {error}");
    }
}
