//! What numbers of a scenario may be.

use std::fmt;

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

impl fmt::Display for Size {
    /// As a page has it: in the largest unit of which it is a multiple.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("G", 30), ("M", 20), ("K", 10)];
        let whole = |&(_, shift): &(&str, u32)| self.0 > 0 && self.0 % (1 << shift) == 0;
        match units.into_iter().find(whole) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}

/// A list of `low` to `high` entries.
pub(super) fn length<T>(what: &str, list: &[T], low: usize, high: usize) -> anyhow::Result<()> {
    let count = list.len();
    let entries = if count == 1 { "entry" } else { "entries" };
    match (low..=high).contains(&count) {
        true => Ok(()),
        false => anyhow::bail!("{what} has {count} {entries}, expected {low} to {high}"),
    }
}

/// A size between two others.
pub(super) fn size_in_range(what: &str, size: Size, low: u64, high: u64) -> anyhow::Result<()> {
    match (low..=high).contains(&size.0) {
        true => Ok(()),
        false => anyhow::bail!("{what} is {size}, expected {} to {}", Size(low), Size(high)),
    }
}

/// The smaller and the larger of two sizes, in this order.
pub(super) fn ordered(what: &str, [first, second]: [Size; 2]) -> anyhow::Result<()> {
    match first.0 <= second.0 {
        true => Ok(()),
        false => anyhow::bail!("{what} begins with {first}, expected the smaller before {second}"),
    }
}

/// A size that is a multiple of another.
pub(super) fn size_multiple(what: &str, size: Size, of: u64) -> anyhow::Result<()> {
    match size.0 % of {
        0 => Ok(()),
        _ => anyhow::bail!("{what} is {size}, expected a multiple of {}", Size(of)),
    }
}

pub(super) fn in_range(what: &str, value: u64, low: u64, high: u64) -> anyhow::Result<()> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => anyhow::bail!("{what} is {value}, expected {low} to {high}"),
    }
}
