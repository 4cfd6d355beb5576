//! What a rule has to say about a place.

use std::fmt;

/// Whether a finding fails the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    Error,
    /// Listed, so that it is seen; does not fail.
    Note,
}

/// One complaint: where, by which rule, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    pub(crate) path: String,
    /// Line from 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Error => "",
            Weight::Note => "note: ",
        };
        write!(f, "{weight}{}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}: {}", self.rule, self.message)
    }
}

/// Collects findings of one rule about one file.
pub(crate) struct Report<'a> {
    findings: &'a mut Vec<Finding>,
    path: &'a str,
    rule: &'static str,
}

impl<'a> Report<'a> {
    pub(crate) fn new(findings: &'a mut Vec<Finding>, path: &'a str, rule: &'static str) -> Self {
        Self {
            findings,
            path,
            rule,
        }
    }

    pub(crate) fn error(&mut self, line: usize, message: impl Into<String>) {
        self.push(Weight::Error, line, message.into());
    }

    pub(crate) fn note(&mut self, line: usize, message: impl Into<String>) {
        self.push(Weight::Note, line, message.into());
    }

    fn push(&mut self, weight: Weight, line: usize, message: String) {
        let path = self.path.to_owned();
        self.findings.push(Finding {
            weight,
            path,
            line,
            rule: self.rule,
            message,
        });
    }
}
