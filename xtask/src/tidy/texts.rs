//! Texts that no tracked file may hold, from a list kept as data.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::finding::{Finding, Report};
use super::tree::SourceFile;

/// Texts, how they are matched, and why.
#[derive(Debug, Deserialize)]
pub(super) struct ForbiddenTexts {
    /// Files that may hold them: this list, and what other people's machines printed.
    except: Vec<String>,
    pub(super) text: Vec<ForbiddenText>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ForbiddenText {
    pub(super) find: String,
    pub(super) reason: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// The beginning of an absolute path.
    Path,
    /// A word by itself, in exactly these letters.
    Word,
    /// Anywhere, in any case.
    Phrase,
}

impl ForbiddenTexts {
    /// The list that is compiled into this program.
    pub(super) fn read() -> Result<Self> {
        toml::from_str(include_str!("forbidden.toml")).context("tidy/forbidden.toml")
    }

    pub(super) fn check(&self, file: &SourceFile, findings: &mut Vec<Finding>) {
        if self
            .except
            .iter()
            .any(|beginning| file.path.starts_with(beginning))
        {
            return;
        }
        for (index, line) in file.text.lines().enumerate() {
            for text in self.text.iter().filter(|text| text.is_in(line)) {
                let message = format!("`{}`: {}", text.find, text.reason);
                Report::new(findings, &file.path, "texts").error(index + 1, message);
            }
        }
    }
}

impl ForbiddenText {
    fn is_in(&self, line: &str) -> bool {
        match self.kind {
            Kind::Phrase => line.to_lowercase().contains(&self.find.to_lowercase()),
            Kind::Path => self.occurs(line, |before, _| {
                !before.is_some_and(|c| c.is_alphanumeric() || "._-/}$".contains(c))
            }),
            Kind::Word => self.occurs(line, |before, after| {
                let joined = |c: char| c.is_alphanumeric() || c == '_';
                !before.is_some_and(joined) && !after.is_some_and(joined)
            }),
        }
    }

    fn occurs(&self, line: &str, fits: impl Fn(Option<char>, Option<char>) -> bool) -> bool {
        line.match_indices(&self.find).any(|(at, found)| {
            let before = line[..at].chars().next_back();
            let after = line[at + found.len()..].chars().next();
            fits(before, after)
        })
    }
}
