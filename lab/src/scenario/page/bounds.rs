//! What numbers of a scenario may be.

use serde::Deserialize;
use serde::de::Error as _;

use crate::quantity::parse_size;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const ROUNDS_MAX: u64 = 1_000_000_000;

/// A number of bytes: `4096`, `"4K"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Typed {
            Number(u64),
            Text(String),
        }
        match Typed::deserialize(deserializer)? {
            Typed::Number(bytes) => Ok(Self(bytes)),
            Typed::Text(text) => parse_size(&text).map(Self).map_err(D::Error::custom),
        }
    }
}

pub(super) fn in_range(what: &str, value: u64, low: u64, high: u64) -> anyhow::Result<()> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => anyhow::bail!("{what} is {value}, expected {low} to {high}"),
    }
}

pub(super) fn multiple(what: &str, value: u64, of: u64) -> anyhow::Result<()> {
    match value % of {
        0 => Ok(()),
        _ => anyhow::bail!("{what} is {value}, expected a multiple of {of}"),
    }
}
