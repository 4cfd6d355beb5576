//! The command as it is typed: what it prints where, and how it ends.

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn dmakit(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmakit"));
    command
        .args(words)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

fn fed(words: &[&str], input: &[u8]) -> Output {
    let mut child = dmakit(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its input may stop reading it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Exit 2, one line on standard error, nothing on standard output.
fn is_refused(output: &Output, says: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(says), "{error}");
    assert!(output.stdout.is_empty());
}

const FULL: &str =
    "x 0:1: swiotlb buffer is full (sz: 524288 bytes), total 32768 (slots), used 2 (slots)\n";

#[test]
fn refused_input_is_one_line() {
    is_refused(&fed(&["diagnose"], b""), "empty");
    is_refused(
        &fed(&["diagnose", "--json"], &[0; 5000]),
        "standard input:1: binary data",
    );
    is_refused(
        &fed(&["diagnose"], &[b'x'; 200_000]),
        "standard input:1: longer than",
    );
    is_refused(
        &dmakit(&["diagnose", "/nonexistent/log"]).output().unwrap(),
        "/nonexistent/log",
    );
    is_refused(&dmakit(&["diagnose", "/"]).output().unwrap(), "directory");
}

#[test]
fn wrong_usage_is_one_line() {
    is_refused(&dmakit(&[]).output().unwrap(), "diagnose");
    is_refused(&dmakit(&["diagnos"]).output().unwrap(), "'diagnose'");
    is_refused(
        &dmakit(&["diagnose", "--jsn"]).output().unwrap(),
        "'--json'",
    );
    is_refused(&dmakit(&["completions", "tcsh"]).output().unwrap(), "bash");
    is_refused(&dmakit(&["man", "replai"]).output().unwrap(), "replai");
}

#[test]
fn an_answer_is_on_standard_output_only() {
    for words in [["diagnose", "-"], ["diagnose", "--json"]] {
        let output = fed(&words, FULL.as_bytes());
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains("request-above-segment-cap"));
    }
}

#[test]
fn nothing_found_is_an_answer() {
    let output = fed(&["diagnose"], b"[    0.000000] Linux version 6.12.0\n");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Nothing found"));
}

#[test]
fn colour_is_only_where_it_is_asked_for() {
    let has_escape = |words: &[&str]| fed(words, FULL.as_bytes()).stdout.contains(&0x1b);
    assert!(!has_escape(&["diagnose"]));
    assert!(!has_escape(&["diagnose", "--color", "never"]));
    assert!(has_escape(&["diagnose", "--color", "always"]));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = dmakit(&["man", "diagnose"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn completions_and_pages_name_the_commands() {
    for words in [
        ["completions", "bash"],
        ["completions", "zsh"],
        ["man", "diagnose"],
    ] {
        let output = dmakit(&words).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("diagnose"));
    }
}

#[test]
fn the_folder_does_not_show() {
    let folder = std::env::temp_dir().join(format!("dmakit-cli-{}", std::process::id()));
    let mut answers = Vec::new();
    for place in ["a", "b/c"] {
        let place = folder.join(place);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("boot.log"), FULL).unwrap();
        for words in [
            vec!["diagnose", "boot.log"],
            vec!["diagnose", "--json", "boot.log"],
        ] {
            answers.push(dmakit(&words).current_dir(&place).output().unwrap().stdout);
            let whole = place.join("boot.log");
            let words: Vec<&str> = words[..words.len() - 1].to_vec();
            answers.push(dmakit(&words).arg(whole).output().unwrap().stdout);
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let (text, json): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| !a.starts_with(b"{"));
    assert!(text.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(json.windows(2).all(|pair| pair[0] == pair[1]));
}
