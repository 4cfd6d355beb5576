//! What a trace asks of contiguous areas.

use dmakit_linux_model::cma::{
    Agreement, Demand, Ingest, Log, Outcome, Place, Recorded, agree, places,
};
use dmakit_linux_model::{CommandLine, cma};
use dmakit_trace::Sidecar;

/// Claims of a trace, where there are any.
#[derive(Clone, Debug)]
pub struct Claims {
    pub demand: Demand,
    /// What the kernel answered; compared with, never used to predict.
    pub recorded: Recorded,
    /// Where the areas lay.
    pub places: Vec<Place>,
    /// The model beside the kernel, on the areas as they were.
    pub agreement: Agreement,
    /// The node of each client, where the sidecar knows one, and the bits of its mask.
    pub nodes: Vec<Option<Node>>,
    /// All nodes that the sidecar shows.
    pub all_nodes: Vec<u32>,
}

/// Where a device is.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub node: u32,
    pub mask_bits: u32,
}

impl Claims {
    pub(super) fn new(ingest: Ingest, sidecar: Option<&Sidecar>) -> Option<Self> {
        let (demand, recorded) = ingest.finish();
        if demand.calls.is_empty() && demand.holdings.is_empty() {
            return None;
        }
        let log = sidecar.map_or_else(Log::default, Log::new);
        let line = sidecar.and_then(|sidecar| sidecar.capture.cmdline.as_deref());
        let booted = CommandLine::parse(line.unwrap_or("")).cma();
        let booted = booted.unwrap_or_default();
        let places = places(&demand, &recorded, &log, |name| named_pages(&booted, name));
        let agreement = agree(&demand, &recorded, &places, &log.failures);
        let nodes = demand.clients.iter().map(|client| {
            let pci = sidecar.and_then(|sidecar| sidecar.pci(&client.name))?;
            Some(Node {
                node: pci.node?,
                mask_bits: pci.dma_mask_bits.unwrap_or(64),
            })
        });
        let nodes = nodes.collect();
        let mut all_nodes: Vec<u32> = sidecar
            .iter()
            .flat_map(|sidecar| &sidecar.devices.pci)
            .filter_map(|pci| pci.node)
            .chain(log.ranges.iter().filter_map(|range| range.node))
            .collect();
        all_nodes.sort_unstable();
        all_nodes.dedup();
        Some(Self {
            demand,
            recorded,
            places,
            agreement,
            nodes,
            all_nodes,
        })
    }

    /// Claims that the kernel refused, with an event or, of what is larger than the area, without.
    pub fn recorded_failed(&self) -> u64 {
        let is_failed = |outcome: &&Option<Outcome>| matches!(outcome, Some(Outcome::Failed(_)));
        let recorded = self.recorded.outcomes.iter().filter(is_failed).count();
        let silent = |call: &&u32| self.recorded.outcomes[**call as usize].is_none();
        let at_once = self.agreement.refused_at_once.iter().filter(silent);
        (recorded + at_once.count()) as u64
    }

    /// The first half, by operations. Calls that begin later are not asked at all.
    pub fn first_half(&self) -> Self {
        let mut half = self.clone();
        half.demand.ops.truncate(self.demand.ops.len() / 2);
        half
    }

    /// The same claims with those of devices moved to the area of their node, as the order of areas
    /// would have it if every node had one. What a device claims that reaches 32 bits only, or
    /// whose node neither the sidecar nor the area names, stays with the default area.
    #[must_use]
    pub fn by_node(&self) -> Self {
        let mut moved = self.clone();
        let mut names: Vec<String> = Vec::new();
        let mut index_of = |name: String| {
            let place = names.iter().position(|known| *known == name);
            place.unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            }) as u32
        };
        let area_on = |node: Option<u32>| {
            node.map_or_else(|| "reserved".to_owned(), |node| format!("numa{node}"))
        };
        for call in &mut moved.demand.calls {
            // Who was served from a node's area is on that node, whatever else is known.
            let area = &self.demand.areas[call.area as usize];
            let node = self.nodes[call.client as usize].filter(|node| node.mask_bits > 32);
            let node = cma::node_of(area).or(node.map(|node| node.node));
            call.area = index_of(area_on(node));
        }
        let mut of_area = |area: u32| {
            let name = &self.demand.areas[area as usize];
            index_of(area_on(cma::node_of(name)))
        };
        for holding in &mut moved.demand.holdings {
            holding.area = of_area(holding.area);
        }
        for (area, _) in &mut moved.agreement.held_before {
            *area = of_area(*area);
        }
        let known = self.demand.areas.iter().zip(&self.places);
        let place = |name: &String| {
            let same = known.clone().find(|(known, _)| *known == name);
            same.map_or_else(
                || Place {
                    base: 0,
                    pages: cma::BLOCK_PAGES,
                    node: cma::node_of(name),
                    source: cma::PlaceSource::Addresses,
                },
                |(_, place)| place.clone(),
            )
        };
        moved.places = names.iter().map(place).collect();
        moved.demand.areas = names;
        moved
    }

    /// Events without their partner.
    pub fn unmatched(&self) -> u64 {
        self.agreement.unfinished + self.demand.unpaired.finishes
    }
}

/// Pages that a boot line gives the area of this name; `None` where it does not say.
pub fn named_pages(params: &cma::Params, name: &str) -> Option<u64> {
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK_BYTES) * cma::BLOCK_PAGES;
    let node = cma::node_of(name);
    if name == "reserved" || name.is_empty() {
        return params.default.map(|area| blocks(area.bytes));
    }
    if name.starts_with("pernuma") {
        return params.per_node.map(blocks);
    }
    let listed = params.nodes.iter().rev();
    let mut listed = listed.filter(|(listed, _)| Some(*listed) == node);
    listed.next().map(|(_, bytes)| blocks(*bytes))
}

/// Bytes of a pageblock, of which areas are made.
pub const BLOCK_BYTES: u64 = cma::BLOCK_PAGES * dmakit_addr::PAGE_BYTES;
