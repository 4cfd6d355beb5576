//! The JSON every command prints: `schema`, `command`, the command's own
//! fields, `closing`.

use serde::Serialize;

use super::Closing;

/// Raised whenever a field changes meaning or goes away.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Envelope<'a, T> {
    schema: u32,
    command: &'a str,
    #[serde(flatten)]
    body: &'a T,
    closing: &'a Closing,
}

/// Lays the answer out, keys in declaration order, with a final newline.
///
/// # Errors
/// A body that has no JSON form (a map whose keys are not strings).
pub fn envelope<T: Serialize>(
    command: &str,
    body: &T,
    closing: &Closing,
) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(&Envelope {
        schema: SCHEMA,
        command,
        body,
        closing,
    })?;
    text.push(b'\n');
    Ok(text)
}
