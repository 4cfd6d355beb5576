//! Areas cut out of memory at boot.

mod early;
#[cfg(test)]
mod tests;

use dmakit_addr::PAGE_BYTES;
use dmakit_cma::{
    AreaParams, AreaRequest, CmaPernumaParam, HugetlbCmaParam, NumaCmaParam, Outcome, PerNode,
    Purpose, Reservation, Reserved, reserve,
};
use dmakit_phys::MemoryMap;
use dmakit_sim::Machine;
use serde::Serialize;

use super::board;
use crate::quantity::bytes;
use crate::scenario::check::CheckName;
use crate::scenario::page::{CarvingTable, Page};
use crate::scenario::params;
use crate::scenario::report::{Detail, RunReport};

/// What a boot did.
#[derive(Clone, Debug, Serialize)]
pub struct Boot {
    /// As asked.
    pub params: String,
    /// The same after rounding, and without what found no room.
    pub effective: String,
    /// In the order in which they chose.
    pub areas: Vec<AreaRow>,
}

/// One area that was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct AreaRow {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<usize>,
    pub bytes: u64,
    /// The first byte of each of its ranges.
    pub starts: Vec<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Boots, and looks at what was set aside.
pub fn run(
    page: &Page,
    table: &CarvingTable,
    seed: u64,
    report: &mut RunReport,
) -> anyhow::Result<()> {
    let machine = board::machine(page, seed)?;
    let asked = &page.areas;
    let requests = asked.requests(&board::map(&machine, None)?, board::low_limit());
    let carved = carve(&machine, &requests)?;
    let effective = effective(asked, &carved);
    expected(table, &carved, report);
    on_their_nodes(&machine, &carved, report);
    others_left(&machine, &carved, report)?;
    same_again(&machine, &effective, &carved, report)?;
    report
        .counters
        .insert("areas", names(&carved, true).count() as u64);
    report.detail = Some(Detail::Boot(Boot {
        params: params::written(asked),
        effective: params::written(&effective),
        areas: carved.iter().map(row).collect(),
    }));
    early::run(page, table, seed, carved, report)
}

/// Carves out of a fresh map of the machine.
fn carve(machine: &Machine, requests: &[AreaRequest]) -> anyhow::Result<Vec<Reservation>> {
    let mut map: MemoryMap = board::map(machine, None)?;
    let limits = [board::low_limit()];
    Ok(reserve(&mut map, &limits, requests.iter().copied()))
}

fn reserved(reservation: &Reservation) -> Option<&Reserved> {
    match &reservation.outcome {
        Outcome::Reserved(reserved) => Some(reserved),
        _ => None,
    }
}

/// The names of areas that are there, or that found no room.
fn names(carved: &[Reservation], are_there: bool) -> impl Iterator<Item = String> + '_ {
    let wanted = move |one: &&Reservation| match &one.outcome {
        Outcome::Reserved(_) => are_there,
        Outcome::Failed(_) => !are_there,
        Outcome::DefaultServes | Outcome::NotNeeded => false,
    };
    carved
        .iter()
        .filter(wanted)
        .map(|one| one.request.purpose.to_string())
}

/// The areas, and their order, are those that the page expects.
fn expected(table: &CarvingTable, carved: &[Reservation], report: &mut RunReport) {
    for (wanted, are_there) in [(&table.reserved, true), (&table.failed, false)] {
        let found: Vec<String> = names(carved, are_there).collect();
        let what = if are_there { "there" } else { "without room" };
        let failure = (found != *wanted)
            .then(|| format!("{what} are {}, expected {}", list(&found), list(wanted)));
        report.trial(CheckName::Order, failure);
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// Every frame of an area lies on the node that was asked for.
fn on_their_nodes(machine: &Machine, carved: &[Reservation], report: &mut RunReport) {
    for one in carved {
        let (Some(reserved), Some(wanted)) = (reserved(one), one.request.node) else {
            continue;
        };
        let frames = reserved.ranges().iter().filter_map(|range| range.bytes());
        let ends = frames.flat_map(|range| [Some(range.start()), range.last()]);
        let strays = ends
            .flatten()
            .find(|end| machine.node_of(*end) != Some(wanted));
        report.trial(
            CheckName::ExactNode,
            strays.map(|at| format!("{} has {at}, not on {wanted}", one.request.purpose)),
        );
    }
}

/// What found no room changed nothing for the others: without it they come out the same.
fn others_left(
    machine: &Machine,
    carved: &[Reservation],
    report: &mut RunReport,
) -> anyhow::Result<()> {
    let failed = carved
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Failed(_)));
    for failed in failed {
        let others = carved.iter().filter(|one| *one != failed);
        let requests: Vec<AreaRequest> = others.clone().map(|one| one.request).collect();
        let without = carve(machine, &requests)?;
        let same = without.iter().eq(others);
        let failure = (!same).then(|| {
            format!(
                "without {}, other areas come out differently",
                failed.request.purpose
            )
        });
        report.trial(CheckName::OthersLeft, failure);
    }
    Ok(())
}

/// The effective line asks for what came out.
fn same_again(
    machine: &Machine,
    effective: &AreaParams,
    carved: &[Reservation],
    report: &mut RunReport,
) -> anyhow::Result<()> {
    let line = params::written(effective);
    let read = params::read(&line, effective.gigantic)?;
    let requests = read.requests(&board::map(machine, None)?, board::low_limit());
    let again = carve(machine, &requests)?;
    let same = again
        .iter()
        .filter_map(reserved)
        .eq(carved.iter().filter_map(reserved));
    let failure = (!same).then(|| format!("'{line}' gives other areas"));
    report.trial(CheckName::BootLine, failure);
    Ok(())
}

/// The parameters with the sizes that areas have got.
fn effective(asked: &AreaParams, carved: &[Reservation]) -> AreaParams {
    let size = |purpose: Purpose| {
        let mut areas = carved.iter().filter_map(reserved);
        let area = areas.find(|area| area.purpose() == purpose);
        area.map(|area| area.frames() * PAGE_BYTES)
    };
    let per_node = carved.iter().filter_map(reserved).find_map(|area| {
        let is_per_node = matches!(area.purpose(), Purpose::PerNode(_));
        is_per_node.then(|| area.frames() * PAGE_BYTES)
    });
    let listed = |sizes: &[(dmakit_addr::NodeId, u64)], purpose: fn(_) -> Purpose| {
        let kept = sizes.iter().map(|(node, _)| *node);
        kept.filter_map(|node| Some((node, size(purpose(node))?)))
            .collect()
    };
    let mut params = asked.clone();
    params.cma = asked.cma.map(|mut cma| {
        cma.size = size(Purpose::Default).unwrap_or(0);
        cma
    });
    params.per_node = match per_node {
        Some(size) => PerNode::Sized(CmaPernumaParam { size }),
        None => PerNode::Off,
    };
    params.numa_cma = asked.numa_cma.as_ref().map(|param| NumaCmaParam {
        sizes: listed(&param.sizes, Purpose::Listed),
    });
    params.hugetlb_cma = asked.hugetlb_cma.as_ref().map(|param| match param {
        HugetlbCmaParam::Spread(total) => HugetlbCmaParam::Spread(*total),
        HugetlbCmaParam::Listed(sizes) => HugetlbCmaParam::Listed(listed(sizes, Purpose::Gigantic)),
    });
    params.numa_cma = params.numa_cma.filter(|param| !param.sizes.is_empty());
    params.hugetlb_cma = params
        .hugetlb_cma
        .filter(|param| !matches!(param, HugetlbCmaParam::Listed(sizes) if sizes.is_empty()));
    params
}

fn row(one: &Reservation) -> AreaRow {
    let area = reserved(one);
    let ranges = area.map(Reserved::ranges).unwrap_or_default();
    AreaRow {
        name: one.request.purpose.to_string(),
        node: area
            .map(Reserved::node)
            .or(one.request.node)
            .map(|node| node.index()),
        bytes: area.map_or(one.request.bytes, |area| area.frames() * PAGE_BYTES),
        starts: ranges
            .iter()
            .map(|range| format!("{:#x}", range.start().raw() * PAGE_BYTES))
            .collect(),
        failed: match &one.outcome {
            Outcome::Reserved(_) => None,
            Outcome::DefaultServes => Some("served by the default area".to_owned()),
            Outcome::NotNeeded => Some("spread over other nodes".to_owned()),
            Outcome::Failed(reason) => Some(reason.to_string()),
        },
    }
}

/// For people.
pub fn table(boot: &Boot) -> crate::output::Table {
    let mut table = crate::output::Table::new(&["area", "node", "size", "at"]);
    for area in &boot.areas {
        let node = area.node.map_or("-".to_owned(), |node| node.to_string());
        let at = match &area.failed {
            Some(_) => "no room".to_owned(),
            None => area.starts.join(" "),
        };
        table.row(vec![
            area.name.as_str().into(),
            node.into(),
            bytes(area.bytes).into(),
            at.into(),
        ]);
    }
    table
}
