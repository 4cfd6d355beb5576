//! Where the areas lie.

use super::demand::{Demand, Outcome, Recorded};
use super::{Area, BLOCK_PAGES, Log, Reserved};

/// An area that is said to be larger is damage: 1 TiB of pages.
const PAGES_MAX: u64 = 1 << 28;
/// So is one that is inferred to be, from nothing but page numbers: 4 GiB.
const INFERRED_MAX: u64 = 1 << 20;

/// Where an area lies and how large it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The number of its first page.
    pub base: u64,
    /// How many pages.
    pub pages: u64,
    /// The node it is on; `None` where that is not known or it may be anywhere.
    pub node: Option<u32>,
    /// How that is known.
    pub source: PlaceSource,
}

/// How the place of an area is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceSource {
    /// The log says it.
    Log,
    /// The least run of whole pageblocks that holds all recorded pages, and the size that the
    /// command line or the log says, where one does.
    Addresses,
}

impl Place {
    /// The area, all free.
    pub fn area(&self) -> Area {
        Area::new(self.base, self.pages, 0)
    }
}

/// Where each area of `demand` lies. Page numbers are used for this alone: which of the ranges in
/// the log is which area, and, without a log, where it begins. `sizes` tells the pages of an area
/// of this name, where the command line does.
pub fn places(
    demand: &Demand,
    recorded: &Recorded,
    log: &Log,
    sizes: impl Fn(&str) -> Option<u64>,
) -> Vec<Place> {
    let mut seen: Vec<Vec<(u64, u64)>> = vec![Vec::new(); demand.areas.len()];
    for (call, outcome) in demand.calls.iter().zip(&recorded.outcomes) {
        if let Some(Outcome::At(pfn)) = outcome {
            seen[call.area as usize].push((*pfn, call.wish.pages));
        }
    }
    for (call, busy) in demand.calls.iter().zip(&recorded.busy) {
        let tried = busy.iter().map(|pfn| (*pfn, call.wish.pages));
        seen[call.area as usize].extend(tried);
    }
    for holding in &demand.holdings {
        seen[holding.area as usize].push((holding.pfn, holding.pages));
    }
    demand
        .areas
        .iter()
        .zip(seen)
        .map(|(name, seen)| {
            logged(name, &seen, log).unwrap_or_else(|| inferred(name, &seen, log, &sizes))
        })
        .collect()
}

/// The range in the log that holds most of what was seen; among equals, the one that the name
/// means.
fn logged(name: &str, seen: &[(u64, u64)], log: &Log) -> Option<Place> {
    let node = node_of(name);
    let held = |range: &Reserved| {
        let end = range.pfn.saturating_add(range.pages);
        let is_inside = |(pfn, pages): &&(u64, u64)| *pfn >= range.pfn && pfn + pages <= end;
        seen.iter().filter(is_inside).count()
    };
    let found = log
        .ranges
        .iter()
        .filter(|range| range.pages > 0 && range.pages <= PAGES_MAX)
        .max_by_key(|range| {
            let is_named = range.name.as_deref() == Some(name);
            let lowest = std::cmp::Reverse(range.pfn);
            (held(range), is_named, range.node == node, lowest)
        })?;
    // Without any page in it, only the name can tell which range is meant.
    let is_meant = found.node == node || found.name.as_deref() == Some(name);
    if held(found) == 0 && (!seen.is_empty() || !is_meant) {
        return None;
    }
    Some(Place {
        base: found.pfn,
        pages: found.pages,
        node: found.node,
        source: PlaceSource::Log,
    })
}

fn inferred(
    name: &str,
    seen: &[(u64, u64)],
    log: &Log,
    sizes: impl Fn(&str) -> Option<u64>,
) -> Place {
    let printed = log
        .failures
        .iter()
        .filter(|failure| failure.area.as_deref().is_none_or(|area| area == name))
        .find_map(|failure| failure.area_pages);
    let told = printed.or_else(|| sizes(name)).unwrap_or(0);
    let low = seen.iter().map(|(pfn, _)| *pfn).min().unwrap_or(0);
    let high = seen.iter().map(|(pfn, pages)| pfn + pages).max();
    let base = low / BLOCK_PAGES * BLOCK_PAGES;
    let least = (high.unwrap_or(low) - base).next_multiple_of(BLOCK_PAGES);
    Place {
        base,
        pages: told
            .max(least.min(INFERRED_MAX))
            .clamp(BLOCK_PAGES, PAGES_MAX),
        node: node_of(name),
        source: PlaceSource::Addresses,
    }
}

/// The node that the name of a per-node area says.
pub fn node_of(name: &str) -> Option<u32> {
    let digits = name
        .strip_prefix("pernuma")
        .or_else(|| name.strip_prefix("numa"))?;
    digits.parse().ok()
}
