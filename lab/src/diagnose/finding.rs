//! One answer: a line, its cause, what proves it and what to do.

use serde::Serialize;

use super::cause::{Cause, Certainty};
use super::evidence::Seen;

/// A cause with its reasons. The fields' names are those of the JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The line it is about, counted from 1.
    pub line: u64,
    /// That line's message.
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How many lines say the same.
    pub count: u64,
    pub cause: Cause,
    pub certainty: Certainty,
    /// The numbers that prove or support the cause.
    pub arithmetic: String,
    /// What fixes it.
    pub fix: Vec<String>,
    /// What people try and does not help.
    pub not_helping: Vec<String>,
}

impl Finding {
    /// A finding about `seen`, without advice yet.
    pub fn new(seen: &Seen, cause: Cause, certainty: Certainty, arithmetic: String) -> Self {
        Self {
            line: seen.line,
            text: seen.text.clone(),
            device: seen.device.clone(),
            count: 1,
            cause,
            certainty,
            arithmetic,
            fix: Vec::new(),
            not_helping: Vec::new(),
        }
    }

    /// Says how many lines it stands for.
    pub fn counted(mut self, count: usize) -> Self {
        self.count = count as u64;
        self
    }

    /// Adds what fixes it.
    pub fn fixed_by<const N: usize>(mut self, advice: [&str; N]) -> Self {
        self.fix.extend(advice.map(str::to_owned));
        self
    }

    /// Adds what does not help.
    pub fn not_helped_by<const N: usize>(mut self, advice: [&str; N]) -> Self {
        self.not_helping.extend(advice.map(str::to_owned));
        self
    }
}

/// Best first: by certainty, a failure before what only looks like one, a
/// named cause before `other`, then by line.
pub fn rank(findings: &mut [Finding]) {
    findings.sort_by_key(|f| (f.certainty, f.cause == Cause::Harmless, f.line));
}
