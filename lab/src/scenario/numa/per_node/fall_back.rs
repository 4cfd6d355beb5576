//! In which order memory is given out as room runs out.

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES, PfnRange};
use dmakit_cma::Purpose;
use dmakit_platform::{Segment, SegmentRequest, TableMemory};
use dmakit_sim::Machine;
use serde::Serialize;

use super::{Coherent, RunAreas, source};
use crate::scenario::check::CheckName;
use crate::scenario::numa::board;
use crate::scenario::page::CoherentTable;
use crate::scenario::report::RunReport;

/// What one asker got, until pages served.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub who: String,
    pub bytes: u64,
    /// How many in a row came from where.
    pub served: Vec<(u64, String)>,
}

/// Somebody who asks.
struct Asker {
    who: String,
    request: SegmentRequest,
    /// The areas that he comes to, in order; pages stand behind them.
    order: Vec<Purpose>,
}

/// Allocations from pages after which nothing new is seen.
const PAGES_SEEN: u64 = 4;

/// Takes all that there is, once for each kind of asker, and gives it back.
pub fn run(
    machine: &Machine,
    areas: &RunAreas<'_>,
    coherent: &Coherent<'_>,
    table: &CoherentTable,
    report: &mut RunReport,
) -> anyhow::Result<Vec<Row>> {
    let askers = askers(machine, table).into_iter();
    askers
        .map(|asker| one(machine, areas, coherent, asker, report))
        .collect()
}

fn one(
    machine: &Machine,
    areas: &RunAreas<'_>,
    coherent: &Coherent<'_>,
    asker: Asker,
    report: &mut RunReport,
) -> anyhow::Result<Row> {
    let mut held = Vec::new();
    let served = exhaust(machine, areas, coherent, &asker, &mut held, report);
    held.into_iter()
        .for_each(|segment| coherent.free_table(segment));
    Ok(Row {
        who: asker.who,
        bytes: asker.request.len,
        served: served?,
    })
}

/// The order of seed measurements: the node's own area, the listed one, the default one; whoever
/// reaches 4 GiB or less, or is on no node, comes to the default area at once; a single page uses
/// no area.
fn askers(machine: &Machine, table: &CoherentTable) -> Vec<Asker> {
    let request = |len, node, limit| SegmentRequest {
        len,
        align: PAGE_BYTES,
        node,
        limit,
    };
    let len = table.block.0;
    let nodes = (0..machine.nodes() as u16).map(NodeId::new);
    let wide = nodes.clone().map(|node| Asker {
        who: format!("node {}", node.index()),
        request: request(len, Some(node), DmaMask::ALL),
        order: vec![
            Purpose::PerNode(node),
            Purpose::Listed(node),
            Purpose::Default,
        ],
    });
    let last = nodes.max();
    let others = [
        Asker {
            who: "32 address bits".to_owned(),
            request: request(len, last, board::low_limit()),
            order: vec![Purpose::Default],
        },
        Asker {
            who: "no node".to_owned(),
            request: request(len, None, DmaMask::ALL),
            order: vec![Purpose::Default],
        },
        Asker {
            who: "a single page".to_owned(),
            request: request(PAGE_BYTES, last, DmaMask::ALL),
            order: Vec::new(),
        },
    ];
    wide.chain(others).collect()
}

fn exhaust(
    machine: &Machine,
    areas: &RunAreas<'_>,
    coherent: &Coherent<'_>,
    asker: &Asker,
    held: &mut Vec<Segment>,
    report: &mut RunReport,
) -> anyhow::Result<Vec<(u64, String)>> {
    let mut room: Vec<(Option<Purpose>, u64)> = asker
        .order
        .iter()
        .map(|purpose| (Some(*purpose), fitting(areas, *purpose, &asker.request)))
        .chain([(None, PAGES_SEEN)])
        .collect();
    let mut served: Vec<(u64, String)> = Vec::new();
    while let Some(next) = room.iter_mut().find(|(_, left)| *left > 0) {
        next.1 -= 1;
        let expected = next.0;
        let segment = coherent.allocate_table(&asker.request)?;
        let start = segment.range().frames().start();
        let found = source(areas, start);
        let node = machine.node_of(segment.range().start());
        held.push(segment);
        let name = name(found);
        let mut failure = (found != expected)
            .then(|| format!("{} got {name}, not {}", asker.who, self::name(expected)));
        if found.is_none() && asker.request.limit == DmaMask::ALL {
            let nearest = nearest(machine, areas, asker.request.node);
            let is_near = nearest.is_none() || node == nearest;
            failure = failure
                .or_else(|| (!is_near).then(|| format!("{} got pages of {node:?}", asker.who)));
        }
        report.trial(CheckName::FallBackOrder, failure);
        match served.last_mut().filter(|(_, last)| *last == name) {
            Some((count, _)) => *count += 1,
            None => served.push((1, name)),
        }
    }
    Ok(served)
}

fn name(purpose: Option<Purpose>) -> String {
    purpose.map_or("pages".to_owned(), |purpose| purpose.to_string())
}

/// How many such requests fit into an area that nobody uses, one beside the other.
fn fitting(areas: &RunAreas<'_>, purpose: Purpose, request: &SegmentRequest) -> u64 {
    let Some(area) = areas.find(purpose) else {
        return 0;
    };
    let frames = request.len.div_ceil(PAGE_BYTES);
    let reached = |range: &&PfnRange| {
        let bytes = range.bytes();
        bytes.is_some_and(|bytes| request.limit.reaches(&bytes))
    };
    let ranges = areas.ranges(area).iter().filter(reached);
    ranges.map(|range| range.len() / frames).sum()
}

/// The nearest node that has memory left.
fn nearest(machine: &Machine, areas: &RunAreas<'_>, from: Option<NodeId>) -> Option<NodeId> {
    let from = from?;
    let nodes = (0..machine.nodes() as u16).map(NodeId::new);
    let with_room = nodes.filter(|node| areas.memory().allocator().free_on(*node) > 0);
    with_room.min_by_key(|node| machine.distance(from, *node))
}

#[cfg(test)]
mod tests {
    use dmakit_cma::{CoherentMemory, DeviceArea, InactiveAreas};
    use dmakit_phys::AttachedRam;

    use super::super::WAITING;
    use super::*;
    use crate::scenario::numa::controls::{SEED, failures, page, report};
    use crate::scenario::numa::system::{SEGMENTS, System};
    use crate::scenario::page::Workload;

    #[test]
    fn memory_from_elsewhere_than_the_next_in_the_order_is_noticed() {
        let page = page("per-node-cma");
        let Workload::Coherent(table) = &page.workload else {
            panic!("{:?}", page.workload);
        };
        let mut report = report(&page);
        let system = System::boot(&page, &page.areas, SEED).unwrap();
        let (areas, _) = InactiveAreas::new(system.reserved).activate(&system.memory);
        let machine = system.machine.clone();
        let allocator = system.memory.allocator();
        let ram = AttachedRam::new(machine.clone(), allocator, system.ram, SEGMENTS);
        let coherent =
            CoherentMemory::new(machine.clone(), &areas, &ram, DeviceArea::None, WAITING);
        let mut judge = |change: fn(&mut Vec<Purpose>)| {
            let mut asker = askers(&machine, table).swap_remove(1);
            change(&mut asker.order);
            one(&machine, &areas, &coherent, asker, &mut report).unwrap();
            failures(&report, CheckName::FallBackOrder)
        };
        assert_eq!(judge(|_| {}), 0);
        let swapped = judge(|order| order.swap(0, 2));
        assert!(swapped > 0);
        assert!(judge(|order| order.truncate(1)) > swapped);
    }
}
