//! Comments drawn as lines: a file that needs them is two files.

use super::finding::{Finding, Report};
use super::tree::SourceFile;

/// How many equal signs in a row make a drawn line.
const DRAWN: usize = 4;

pub(super) fn check(file: &SourceFile, findings: &mut Vec<Finding>) {
    let markers: &[&str] = if file.is_rust() {
        &["//!", "///", "//"]
    } else if file.path.ends_with(".toml") || file.path.ends_with(".sh") {
        &["#"]
    } else {
        return;
    };
    for (index, line) in file.text.lines().enumerate() {
        let line = line.trim();
        let comment = markers.iter().find_map(|marker| line.strip_prefix(marker));
        if comment.is_some_and(|comment| is_banner(comment.trim())) {
            let message = "a drawn line; split the file, or let the names speak";
            Report::new(findings, &file.path, "banners").error(index + 1, message);
        }
    }
}

/// Begins or ends with a run of one drawing character.
fn is_banner(comment: &str) -> bool {
    drawn(comment.chars()) || drawn(comment.chars().rev())
}

fn drawn(mut characters: impl Iterator<Item = char>) -> bool {
    let Some(first) = characters.next().filter(|c| "=-*#~_/─━═".contains(*c)) else {
        return false;
    };
    characters.take_while(|c| *c == first).count() + 1 >= DRAWN
}
