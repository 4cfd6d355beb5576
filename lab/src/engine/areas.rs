//! Contiguous areas of an engine.

use dmakit_addr::PAGE_BYTES;
use dmakit_cma::ClaimMap;
use dmakit_linux_model::CommandLine;
use dmakit_linux_model::cma::{
    self, LinuxAreas, Memory, Params, Place, PlaceSource, Replay, Report, Wish,
};

use super::Engine;
use crate::load::{Claims, named_pages};

/// This project's areas: the code that ships, without the locks.
struct OwnAreas(Vec<ClaimMap>);

impl OwnAreas {
    fn new(places: &[Place]) -> Self {
        let map = |place: &Place| ClaimMap::new(place.base, units(place.pages));
        Self(places.iter().map(map).collect())
    }
}

/// What does not fit is more than any area has, and fails as such.
fn units(pages: u64) -> u32 {
    u32::try_from(pages).unwrap_or(u32::MAX)
}

impl Memory for OwnAreas {
    /// Busy places are those that the kernel tried; ours would try others, or none.
    fn claim(&mut self, area: usize, wish: Wish, _busy: u32) -> Option<u64> {
        let claimed = self.0[area].claim(units(wish.pages), wish.align_order);
        claimed.ok().map(u64::from)
    }

    fn claim_at(&mut self, area: usize, at: u64, pages: u64) -> bool {
        self.0[area].claim_at(units(at), units(pages))
    }

    fn release(&mut self, area: usize, at: u64, pages: u64) {
        // The driver gives back what it claimed, once.
        let released = self.0[area].release(units(at), units(pages));
        debug_assert!(released.is_ok());
    }

    fn free(&self, area: usize) -> (u64, u64) {
        let longest = self.0[area].free_runs().map(|(_, units)| units).max();
        (
            u64::from(self.0[area].free()),
            u64::from(longest.unwrap_or(0)),
        )
    }
}

/// Replays claims on areas at `places`.
pub fn claim_all(claims: &Claims, engine: Engine, places: &[Place], samples_max: usize) -> Report {
    let what = Replay {
        demand: &claims.demand,
        recorded: &claims.recorded,
        places,
        held_before: &claims.agreement.held_before,
        samples_max,
    };
    match engine {
        Engine::Dmakit => cma::replay(&what, &mut OwnAreas::new(places)),
        Engine::Linux(_) => cma::replay(&what, &mut LinuxAreas::new(places)),
    }
}

/// The areas with the sizes that `line` gives them, where it gives other ones than the trace was
/// recorded on.
///
/// # Errors
/// A size that the kernel would misread; a place, of which a recording says nothing; an area from
/// which nothing was claimed, as the claims would have to come from elsewhere.
pub fn resized(
    claims: &Claims,
    booted: &CommandLine,
    line: &CommandLine,
) -> anyhow::Result<Vec<Place>> {
    let booted: Params = booted.cma().unwrap_or_default();
    let asked = line.cma()?;
    check_asked(claims, &booted, &asked)?;
    let names = claims.demand.areas.iter();
    let place = |(name, place): (&String, &Place)| {
        let (was, is) = (named_pages(&booted, name), named_pages(&asked, name));
        match is {
            Some(pages) if was != is => with_pages(place, pages),
            _ => place.clone(),
        }
    };
    Ok(names.zip(&claims.places).map(place).collect())
}

fn check_asked(claims: &Claims, booted: &Params, asked: &Params) -> anyhow::Result<()> {
    let place = |params: &Params| params.default.map(|area| (area.base, area.end));
    if asked
        .default
        .is_some_and(|area| (area.base, area.end) != (None, None))
        && place(asked) != place(booted)
    {
        anyhow::bail!(
            "cma= with a place: a recording does not say where memory is, so claims are replayed in \
             an area of that size anywhere; give the size alone"
        );
    }
    let unclaimed =
        |name: &dyn Fn(&str) -> bool| !claims.demand.areas.iter().any(|area| name(area));
    let elsewhere = "`dmakit size cma --per-node` moves claims to the areas of nodes";
    if asked.per_node != booted.per_node && unclaimed(&|area| area.starts_with("pernuma")) {
        anyhow::bail!("cma_pernuma=: this trace claims nothing from such areas; {elsewhere}");
    }
    for (node, _) in asked
        .nodes
        .iter()
        .filter(|asked| !booted.nodes.contains(asked))
    {
        if unclaimed(&|area| area.starts_with("numa") && cma::node_of(area) == Some(*node)) {
            anyhow::bail!(
                "numa_cma= for node {node}: this trace claims nothing from such an area; {elsewhere}"
            );
        }
    }
    Ok(())
}

/// The same area, larger or smaller.
pub fn with_pages(place: &Place, pages: u64) -> Place {
    Place {
        pages,
        source: PlaceSource::Addresses,
        ..place.clone()
    }
}

/// Bytes of pages.
pub fn page_bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES)
}
