//! The four lines that end every answer.

use serde::Serialize;

use super::text::{Look, Tone};

/// How well an answer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, reason = "one scale for every command")]
pub enum Confidence {
    /// Follows from the input by arithmetic.
    Exact,
    /// The model behind it was checked against a real kernel or device model.
    Validated,
    /// Comes from a model that was not checked on this kind of input.
    Modelled,
    /// Goes beyond what the input shows.
    Extrapolated,
}

impl Confidence {
    /// The word printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Validated => "validated",
            Self::Modelled => "modelled",
            Self::Extrapolated => "extrapolated",
        }
    }
}

/// Setting, confidence, why, reproduce.
#[derive(Clone, Debug, Serialize)]
pub struct Closing {
    /// What to set, or what to do.
    pub setting: String,
    pub confidence: Confidence,
    pub why: String,
    /// A command line that gives this answer again.
    pub reproduce: String,
}

impl Closing {
    /// The lines for people.
    pub fn render(&self, look: Look) -> String {
        let rows = [
            ("setting", self.setting.as_str()),
            ("confidence", self.confidence.word()),
            ("why", self.why.as_str()),
            ("reproduce", self.reproduce.as_str()),
        ];
        let mut text = String::new();
        for (label, value) in rows {
            text.push_str(&look.field(label, 10, Tone::Dim, value));
        }
        text
    }
}
