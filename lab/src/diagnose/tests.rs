//! The reports of `lab/corpus` as a table, and the same reports mutated.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use serde::Deserialize;

use super::cause::Certainty;
use super::evidence::Evidence;
use super::finding::Finding;
use super::rules::conclude;
use crate::args::Format;
use crate::input::Source;
use crate::output::{Look, Show};

/// One labelled report.
#[derive(Deserialize)]
struct Label {
    file: String,
    cause: String,
    provable: bool,
    #[serde(default)]
    accept: Vec<String>,
    #[serde(default)]
    forbid: Vec<String>,
}

#[derive(Deserialize)]
struct Labels {
    report: Vec<Label>,
}

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn labels() -> Vec<Label> {
    let text = std::fs::read_to_string(corpus().join("labels.toml")).unwrap();
    toml::from_str::<Labels>(&text).unwrap().report
}

fn report(label: &Label) -> Vec<u8> {
    std::fs::read(corpus().join(&label.file)).unwrap()
}

fn findings(text: &[u8]) -> Vec<Finding> {
    conclude(&Evidence::read(Cursor::new(text)).unwrap()).0
}

/// One line per report: what was asked, what was answered.
fn table(rows: &[(Label, Vec<Finding>)]) -> String {
    let row = |(label, found): &(Label, Vec<Finding>)| {
        let answers: Vec<String> = found
            .iter()
            .map(|f| format!("{}:{}", f.cause.name(), f.certainty.word()))
            .collect();
        let provable = if label.provable { "provable" } else { "-" };
        format!(
            "{:<40} {:<32} {provable:<9} {}\n",
            label.file,
            label.cause,
            answers.join(" ")
        )
    };
    rows.iter().map(row).collect()
}

fn answered() -> Vec<(Label, Vec<Finding>)> {
    labels()
        .into_iter()
        .map(|label| {
            let found = findings(&report(&label));
            (label, found)
        })
        .collect()
}

/// Not wrong, and not more than the report proves: a forbidden cause, a named
/// cause where none fits, or one that the label does not accept.
#[test]
fn nothing_wrong_is_called_certain() {
    let rows = answered();
    for (label, found) in &rows {
        for finding in found.iter().filter(|f| f.certainty == Certainty::Certain) {
            let name = finding.cause.name();
            let is_accepted = name == label.cause || label.accept.iter().any(|a| a == name);
            let is_forbidden = label.forbid.iter().any(|f| f == name);
            let is_named_in_other = label.cause == "other" && name != "other";
            let is_unprovable = name == label.cause && !label.provable;
            assert!(
                is_accepted && !is_forbidden && !is_named_in_other && !is_unprovable,
                "{}: {name} is not certain\n{}",
                label.file,
                table(&rows)
            );
        }
    }
}

#[test]
fn provable_reports_are_certain_and_ranked_first() {
    let rows = answered();
    for (label, found) in rows
        .iter()
        .filter(|(l, _)| l.provable && l.cause != "other")
    {
        let first = found.first().map(|f| (f.cause.name(), f.certainty));
        assert_eq!(
            first,
            Some((label.cause.as_str(), Certainty::Certain)),
            "{}\n{}",
            label.file,
            table(&rows)
        );
    }
}

#[test]
fn no_forbidden_cause_is_listed() {
    let rows = answered();
    for (label, found) in &rows {
        for finding in found {
            let name = finding.cause.name();
            assert!(
                !label.forbid.iter().any(|f| f == name),
                "{}: {name}\n{}",
                label.file,
                table(&rows)
            );
        }
    }
}

#[test]
fn every_report_is_answered() {
    for (label, found) in answered() {
        assert!(!found.is_empty(), "{}", label.file);
        for finding in found {
            assert!(!finding.arithmetic.is_empty(), "{}", label.file);
            assert!(!finding.text.is_empty(), "{}", label.file);
        }
    }
}

/// The same report as another program shows it gives the same causes.
#[test]
fn the_answer_does_not_depend_on_the_prefix() {
    for label in labels() {
        let text = String::from_utf8(report(&label)).unwrap();
        let causes = |text: &str| -> Vec<(&str, Certainty)> {
            let found = findings(text.as_bytes());
            found
                .iter()
                .map(|f| (f.cause.name(), f.certainty))
                .collect()
        };
        let plain = causes(&text);
        for prefix in [
            "> ",
            "<4>",
            "Jul 29 14:38:52 host kernel: ",
            "2025-07-29T14:38:52+0200 host kernel: ",
        ] {
            // A prefix on every line also ends the joining of wrapped lines,
            // so only reports that have prefixes themselves can be compared.
            if prefix != "> " && !text.lines().all(|l| l.starts_with('[')) {
                continue;
            }
            let shown: String = text.lines().map(|l| format!("{prefix}{l}\r\n")).collect();
            assert_eq!(causes(&shown), plain, "{} with {prefix:?}", label.file);
        }
    }
}

#[test]
fn two_runs_give_the_same_bytes() {
    for label in labels() {
        let source = Source::File(corpus().join(&label.file));
        for show in [Show::Json, Show::Text(Look::plain())] {
            let once = super::command(&source, None, show).unwrap().0;
            let again = super::command(&source, None, show).unwrap().0;
            assert_eq!(once, again, "{}", label.file);
        }
    }
}

#[test]
fn json_has_the_promised_fields() {
    let source = Source::File(corpus().join("N09-sev-bounce-notice.txt"));
    let (bytes, _) = super::command(&source, Some(Format::Log), Show::Json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["command"], "diagnose");
    let first = &json["findings"][0];
    for key in [
        "line",
        "cause",
        "certainty",
        "arithmetic",
        "fix",
        "not_helping",
    ] {
        assert!(!first[key].is_null(), "{key}");
    }
    for key in ["setting", "confidence", "why", "reproduce"] {
        assert!(json["closing"][key].is_string(), "{key}");
    }
}

#[test]
fn a_log_without_failures_says_what_was_looked_for() {
    let found =
        findings(b"[    0.000000] Linux version 6.12.0\n[    1.000000] usb 1-1: new device\n");
    assert!(found.is_empty());
}

/// xorshift64*; the seed is printed when a mutant fails.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

/// One change of the kind that logs suffer, or that a hostile one has.
fn mutate(text: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(text.len());
    match random.below(7) {
        0 => text.truncate(at),
        1 => text[at] = u8::try_from(random.below(256)).unwrap_or(0),
        2 => {
            text.insert(at, b'\n');
        }
        3 => {
            let end = at + random.below(text.len() - at);
            text.drain(at..end);
        }
        4 => {
            let from = random.below(other.len());
            let piece = &other[from..from + random.below(other.len() - from)];
            text.splice(at..at, piece.iter().copied());
        }
        // The largest number that is read, and one more digit.
        5 => {
            text.splice(at..at, *b"18446744073709551615");
        }
        _ => {
            let digits: Vec<usize> = (0..text.len())
                .filter(|i| text[*i].is_ascii_hexdigit())
                .collect();
            for _ in 0..8 {
                if let Some(digit) = digits.get(random.below(digits.len())) {
                    text[*digit] = *b"0f9"[random.below(3)..].first().unwrap_or(&b'0');
                }
            }
        }
    }
    if text.is_empty() {
        text.push(b'\n');
    }
}

/// `DMAKIT_STEPS` multiplies the number of mutants.
#[test]
fn no_mutant_of_a_report_panics() {
    let times: u64 = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let reports: Vec<Vec<u8>> = labels().iter().map(report).collect();
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=4000 * times {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut text = reports[random.below(reports.len())].clone();
        for _ in 0..=random.below(6) {
            let other = &reports[random.below(reports.len())];
            mutate(&mut text, other, &mut random);
        }
        let outcome = std::panic::catch_unwind(|| match Evidence::read(Cursor::new(&text)) {
            Ok(evidence) => conclude(&evidence)
                .0
                .first()
                .map_or("none", |f| f.cause.name()),
            Err(_) => "refused",
        });
        let answer =
            outcome.unwrap_or_else(|_| panic!("seed {seed}: {}", String::from_utf8_lossy(&text)));
        *answers.entry(answer).or_default() += 1;
    }
    // The mutants still reach the rules.
    assert!(answers.len() > 15, "{answers:?}");
}
