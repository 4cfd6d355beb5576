//! `[FAILED TO PARSE] field=value …`: what `trace-cmd` and perf print for an event whose print
//! format is beyond them (6.12.95's `dma_map_sg` is). Everything is still there, as raw fields.

use std::borrow::Cow;

use super::body::Vocabulary;
use super::fields::{Expected, decimal, hex};
use crate::Body;
use crate::record::{self, Record};

pub(super) const MARK: &str = "[FAILED TO PARSE]";

/// What to have instead of raw fields alone.
pub(super) const BARE: Expected = "the text of events, as trace-cmd report prints it without -R";

/// Whether these are the raw fields of an event that could be printed otherwise (`trace-cmd report
/// -R`). Whether an address is hexadecimal there depends on the version of `trace-cmd`, so they are
/// not read.
pub(super) fn is_bare(text: &str) -> bool {
    text.starts_with("device=") || text.starts_with("dev_name=")
}

pub(super) fn parse(name: &str, text: &str, words: &mut Vocabulary) -> Result<Body, Expected> {
    let fields = split(text.strip_prefix(MARK).unwrap_or(text))?;
    match record::body(name, &RawFields(fields), words)? {
        Some(body) => Ok(body),
        None => Ok(Body::Other(words.name(name))),
    }
}

struct RawFields<'a>(Vec<(&'a str, &'a str)>);

fn split(text: &str) -> Result<Vec<(&str, &str)>, Expected> {
    const EXPECTED: Expected = "field=value pairs after [FAILED TO PARSE]";
    let mut fields = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').ok_or(EXPECTED)?;
        let end = if value.starts_with("ARRAY[") {
            value.find(']').ok_or(EXPECTED)? + 1
        } else {
            value.find(' ').unwrap_or(value.len())
        };
        let (value, after) = value.split_at(end);
        fields.push((key, value));
        rest = after.trim_start();
    }
    Ok(fields)
}

impl RawFields<'_> {
    fn value(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| *key == field)
            .map(|(_, value)| *value)
    }
}

impl Record for RawFields<'_> {
    fn number(&self, field: &str) -> Option<u64> {
        let value = self.value(field)?;
        match value.strip_prefix('-') {
            Some(negative) => decimal(negative).map(u64::wrapping_neg),
            None if value.starts_with("0x") => hex(value),
            None => decimal(value),
        }
    }

    fn text(&self, field: &str) -> Option<Cow<'_, str>> {
        self.value(field).map(Cow::Borrowed)
    }

    /// Bytes in the order of memory; a machine of the other byte order cannot be told, so little
    /// endian is taken. Only lengths are narrower than eight bytes.
    fn list(&self, field: &str) -> Option<Vec<u64>> {
        let inner = self
            .value(field)?
            .strip_prefix("ARRAY[")?
            .strip_suffix(']')?;
        let mut bytes = Vec::new();
        for byte in inner.split(',').map(str::trim).filter(|b| !b.is_empty()) {
            bytes.push(u8::try_from(hex(byte)?).ok()?);
        }
        let width = if field == "lengths" { 4 } else { 8 };
        if bytes.len() % width != 0 {
            return None;
        }
        let number = |piece: &[u8]| {
            let all = piece.iter().rev();
            all.fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        Some(bytes.chunks(width).map(number).collect())
    }
}
