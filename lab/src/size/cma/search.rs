//! Finds the smallest size of each area.

use std::collections::BTreeSet;

use dmakit_linux_model::cma::{BLOCK_PAGES, Place};

use crate::engine::{Engine, claim_all, with_pages};
use crate::load::Claims;
use crate::size::found::{Found, Trial};

/// The claims of one trace.
#[derive(Clone, Copy)]
pub struct Claimed<'a> {
    pub claims: &'a Claims,
}

impl Claimed<'_> {
    /// Its areas with these sizes, by name.
    pub fn places(&self, pages: impl Fn(&str) -> u64) -> Vec<Place> {
        let names = self.claims.demand.areas.iter();
        let resized = |(name, place): (&String, &Place)| with_pages(place, pages(name));
        names.zip(&self.claims.places).map(resized).collect()
    }
}

/// One size of one area on all traces.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    pub pages: u64,
    pub calls: u64,
    pub failed: u64,
    /// The greatest of the traces'.
    pub high_water_pages: u64,
}

impl Trial for Tried {
    fn failed(&self) -> u64 {
        self.failed
    }
}

/// What was found for one area.
#[derive(Clone, Debug)]
pub struct AreaFound {
    pub name: String,
    pub node: Option<u32>,
    pub found: Found<Tried>,
}

/// Tries sizes, which are whole pageblocks: of those that hold the high water each up to a quarter
/// more, and doubles beyond; the one just below; and some far below, for the curve. No smaller size
/// can serve, as what is in use does not depend on the size until something fails.
///
/// Claims of different areas do not meet, so all areas are tried at once.
pub fn search(
    claimed: &[Claimed<'_>],
    engine: Engine,
    pages_max: u64,
    mut tell: impl FnMut(u64),
) -> Vec<AreaFound> {
    let mut areas: Vec<AreaFound> = Vec::new();
    for one in claimed {
        let places = one.claims.demand.areas.iter().zip(&one.claims.places);
        for (name, place) in places {
            if !areas.iter().any(|area| area.name == *name) {
                areas.push(AreaFound {
                    name: name.clone(),
                    node: place.node,
                    found: Found::new(Vec::new()),
                });
            }
        }
    }
    areas.sort_by(|a, b| a.name.cmp(&b.name));
    let largest = try_one(claimed, &areas, engine, pages_max);
    let mut sizes = BTreeSet::new();
    for area in &largest {
        sizes.extend(candidates(area.high_water_pages.div_ceil(BLOCK_PAGES)));
    }
    let mut tried: Vec<Vec<Tried>> = vec![Vec::new(); areas.len()];
    for blocks in sizes {
        let pages = blocks * BLOCK_PAGES;
        if pages > pages_max {
            break;
        }
        tell(pages);
        let all = try_one(claimed, &areas, engine, pages);
        for (list, one) in tried.iter_mut().zip(all) {
            list.push(one);
        }
    }
    for (area, tried) in areas.iter_mut().zip(tried) {
        area.found = Found::new(tried);
    }
    areas
}

/// Pageblocks to try for a high water of so many.
fn candidates(high: u64) -> impl Iterator<Item = u64> {
    let below = [16, 8, 4, 2].map(|part| high / part);
    let near = high.saturating_sub(1)..=high + high / 4 + 4;
    let far = [2, 4, 8].map(|times| high.max(1) * times);
    below.into_iter().chain(near).chain(far)
}

/// Every area at this size.
fn try_one(claimed: &[Claimed<'_>], areas: &[AreaFound], engine: Engine, pages: u64) -> Vec<Tried> {
    let nothing = Tried {
        pages,
        calls: 0,
        failed: 0,
        high_water_pages: 0,
    };
    let mut all = vec![nothing; areas.len()];
    for one in claimed {
        let report = claim_all(one.claims, engine, &one.places(|_| pages), 0);
        let demand = &one.claims.demand;
        for holding in &demand.holdings {
            // A claim from before the recording is one too.
            let name = &demand.areas[holding.area as usize];
            let place = areas.iter().position(|area| area.name == *name);
            place.into_iter().for_each(|place| all[place].calls += 1);
        }
        for (name, report) in demand.areas.iter().zip(&report.areas) {
            let Some(place) = areas.iter().position(|area| area.name == *name) else {
                continue;
            };
            let sum = &mut all[place];
            sum.calls += report.counts.calls;
            sum.failed += report.counts.failed + report.holdings_refused;
            sum.high_water_pages = sum.high_water_pages.max(report.counts.high_water_pages);
        }
    }
    all
}
