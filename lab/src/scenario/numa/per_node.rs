//! A device, its SMMU and their memory on each node.

mod fall_back;
mod node;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use dmakit_addr::NodeId;
use dmakit_cma::{
    AreaParams, Areas, CoherentMemory, DeviceArea, InactiveAreas, PerNode, Purpose, Waiting,
};
use dmakit_phys::{Account, AttachedRam, Frame};
use dmakit_sim::{Cost, Figure, Machine, Mover, NoDevices};
use serde::Serialize;

use super::judge;
use super::system::{SEGMENTS, System};
use crate::output::{Look, Table, Tone};
use crate::progress::Progress;
use crate::quantity::{bytes, grouped, percent};
use crate::scenario::check::CheckName;
use crate::scenario::page::{CoherentTable, Page};
use crate::scenario::params;
use crate::scenario::report::{Detail, FigureRow, RunReport};

/// What was on which node.
#[derive(Clone, Debug, Serialize)]
pub struct Locality {
    /// With the areas that were asked for.
    pub per_node: Side,
    /// The same machine with nothing but the default area, as before per-node areas.
    pub default_area: Side,
    pub fall_back: Vec<fall_back::Row>,
    pub figures: Vec<FigureRow>,
}

/// One way to give out memory.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    pub params: String,
    pub nodes: Vec<NodeRow>,
    pub allocations: u64,
    pub local: u64,
    /// Modelled: the mean over all SMMUs.
    pub sync_mean_ns: f64,
}

/// The SMMU and the device of one node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    pub node: usize,
    /// Where the command queue lies.
    pub queue_node: usize,
    pub allocations: u64,
    pub local: u64,
    pub bytes: u64,
    pub local_bytes: u64,
    pub sync_mean_ns: f64,
}

/// The memory of a run, as its parts see it.
type Coherent<'m> = CoherentMemory<'m, Machine, Vec<Frame>, Mover<NoDevices>>;
type RunAreas<'m> = Areas<'m, Machine, Vec<Frame>, Mover<NoDevices>>;

const WAITING: Waiting = Waiting::UpTo {
    patience: Duration::from_millis(1),
    tries: 3,
};

/// Runs it with the areas that were asked for, then with the default area alone.
pub fn run(
    page: &Page,
    table: &CoherentTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    let asked = &page.areas;
    progress.say("per-node areas".to_owned());
    let (per_node, fall_back) = side(page, asked, table, seed, Some(report))?;
    let default_only = AreaParams {
        per_node: PerNode::Off,
        numa_cma: None,
        ..asked.clone()
    };
    progress.say("the default area alone".to_owned());
    let (default_area, _) = side(page, &default_only, table, seed, None)?;
    let far = default_area.allocations - default_area.local;
    let noticed = page.nodes.len() == 1 || far > 0;
    report.trial(
        CheckName::Control,
        (!noticed).then(|| "without per-node areas everything is local, too".to_owned()),
    );
    let machine = super::board::machine(page, seed)?;
    report.counters.insert("allocations", per_node.allocations);
    report.counters.insert("local_allocations", per_node.local);
    report.detail = Some(Detail::Locality(Locality {
        per_node,
        default_area,
        fall_back,
        figures: figures(&machine, Cost::Sync),
    }));
    Ok(())
}

/// The figures that a machine's distances lead to.
pub fn figures(machine: &Machine, cost: Cost) -> Vec<FigureRow> {
    let nodes = || (0..machine.nodes() as u16).map(NodeId::new);
    let pairs = nodes().flat_map(|from| nodes().map(move |to| (from, to)));
    let mut distances: Vec<u8> = pairs.map(|(a, b)| machine.distance(a, b)).collect();
    distances.sort_unstable();
    distances.dedup();
    let figure = |distance| -> Figure { machine.latencies().figure(cost, distance) };
    distances
        .into_iter()
        .map(|distance| FigureRow::of(&figure(distance)))
        .collect()
}

fn side(
    page: &Page,
    asked: &AreaParams,
    table: &CoherentTable,
    seed: u64,
    mut report: Option<&mut RunReport>,
) -> anyhow::Result<(Side, Vec<fall_back::Row>)> {
    let system = System::boot(page, asked, seed)?;
    let (areas, failed) = InactiveAreas::new(system.reserved).activate(&system.memory);
    if let Some(error) = failed.first() {
        anyhow::bail!("{error}");
    }
    let machine = &system.machine;
    let ram = AttachedRam::new(
        machine.clone(),
        system.memory.allocator(),
        system.ram,
        SEGMENTS,
    );
    let coherent: Coherent<'_> =
        CoherentMemory::new(machine.clone(), &areas, &ram, DeviceArea::None, WAITING);
    let free_before = system.memory.allocator().free_frames();
    let fall_back = match &mut report {
        Some(report) => fall_back::run(machine, &areas, &coherent, table, report)?,
        None => Vec::new(),
    };
    let taken = Mutex::new(Vec::new());
    let mut nodes = Vec::new();
    for index in 0..machine.nodes() as u16 {
        let watched = node::Watched::new(&coherent, machine, &taken);
        let row = node::run(
            machine,
            watched,
            NodeId::new(index),
            table,
            report.as_deref_mut(),
        )
        .with_context(|| format!("node {index}"))?;
        nodes.push(row);
    }
    if let Some(report) = report {
        let account = Account::new(0);
        judge::end(machine, &system.memory, free_before, &account, report);
    }
    let sum = |of: fn(&NodeRow) -> u64| nodes.iter().map(of).sum();
    let means: f64 = nodes.iter().map(|row: &NodeRow| row.sync_mean_ns).sum();
    let side = Side {
        params: params::written(asked),
        allocations: sum(|row| row.allocations),
        local: sum(|row| row.local),
        sync_mean_ns: means / nodes.len().max(1) as f64,
        nodes,
    };
    Ok((side, fall_back))
}

/// Where memory came from, by name.
fn source(areas: &RunAreas<'_>, frame: dmakit_addr::Pfn) -> Option<Purpose> {
    areas.purpose(areas.area_of(frame)?)
}

/// For people.
pub fn shown(locality: &Locality, look: Look) -> String {
    let mut sides = Table::new(&["node", "queue on", "local", "sync", "default area", "sync"]);
    let pairs = locality
        .per_node
        .nodes
        .iter()
        .zip(&locality.default_area.nodes);
    for (row, before) in pairs {
        let share = |row: &NodeRow| percent(row.local, row.allocations);
        sides.row(vec![
            row.node.to_string().into(),
            row.queue_node.to_string().into(),
            share(row).into(),
            nanoseconds(row.sync_mean_ns).into(),
            share(before).into(),
            nanoseconds(before.sync_mean_ns).into(),
        ]);
    }
    let whole = |side: &Side| percent(side.local, side.allocations);
    sides.row(vec![
        "mean".into(),
        "".into(),
        whole(&locality.per_node).into(),
        nanoseconds(locality.per_node.sync_mean_ns).into(),
        whole(&locality.default_area).into(),
        nanoseconds(locality.default_area.sync_mean_ns).into(),
    ]);
    let mut text = sides.render(look);
    text.push('\n');
    let heading = look.paint(Tone::Strong, "as room runs out");
    text.push_str(&format!("{heading}\n"));
    let width = locality.fall_back.iter().map(|row| row.who.len()).max();
    for row in &locality.fall_back {
        let served = row.served.iter();
        let served = served.map(|(count, from)| format!("{} from {from}", grouped(*count)));
        let served: Vec<String> = served.collect();
        let served = format!("{} each: {}", bytes(row.bytes), served.join(", "));
        text.push_str(&look.field(&row.who, width.unwrap_or(0), Tone::Dim, &served));
    }
    text.push('\n');
    text.push_str(&FigureRow::table(&locality.figures).render(look));
    text
}

fn nanoseconds(mean: f64) -> String {
    format!("{mean:.0} ns")
}
