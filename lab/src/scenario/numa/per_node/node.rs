//! One node: an SMMU, its queues and tables, a device and its buffers.

use std::sync::Mutex;

use dmakit_addr::{Direction, DmaAddr, DmaMask, Granule, Iova, IovaRange, NodeId, PAGE_BYTES};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{DeviceConfig, Machine, Rng, SmmuConfig, SyncWaits};
use dmakit_smmuv3::{Config, Smmu};

use super::{Coherent, NodeRow};
use crate::scenario::check::CheckName;
use crate::scenario::page::CoherentTable;
use crate::scenario::report::RunReport;

const STREAM: u32 = 8;
const IOVA: u64 = 1 << 30;

/// Memory that was taken: for which node, on which it lies, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    wanted: Option<NodeId>,
    found: Option<NodeId>,
    bytes: u64,
}

/// Coherent memory, with note of what it gave.
#[derive(Clone, Copy)]
pub struct Watched<'m> {
    coherent: &'m Coherent<'m>,
    machine: &'m Machine,
    taken: &'m Mutex<Vec<Taken>>,
}

impl<'m> Watched<'m> {
    pub fn new(
        coherent: &'m Coherent<'m>,
        machine: &'m Machine,
        taken: &'m Mutex<Vec<Taken>>,
    ) -> Self {
        Self {
            coherent,
            machine,
            taken,
        }
    }

    fn take(&self) -> Vec<Taken> {
        let mut taken = self.taken.lock().unwrap_or_else(|error| error.into_inner());
        std::mem::take(&mut taken)
    }
}

impl TableMemory for Watched<'_> {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.coherent.allocate_table(request)?;
        let taken = Taken {
            wanted: request.node,
            found: self.machine.node_of(segment.range().start()),
            bytes: segment.len(),
        };
        let mut list = self.taken.lock().unwrap_or_else(|error| error.into_inner());
        list.push(taken);
        drop(list);
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        self.coherent.free_table(segment);
    }
}

/// Brings the node's SMMU up, lets its device work, takes everything down.
pub fn run(
    machine: &Machine,
    memory: Watched<'_>,
    node: NodeId,
    table: &CoherentTable,
    mut report: Option<&mut RunReport>,
) -> anyhow::Result<NodeRow> {
    let regs = machine.add_smmu(SmmuConfig {
        node: Some(node),
        ..SmmuConfig::default()
    });
    let config = Config {
        node: Some(node),
        ..Config::default()
    };
    let smmu = Smmu::start(machine.clone(), regs.clone(), memory, config)?;
    let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never)?;
    let coherence = WalkCoherence::Coherent;
    let tables = PageTable::new(format, machine.clone(), memory, Some(node), coherence)?;
    let context = smmu.create_context(&tables)?;
    smmu.attach(STREAM, &context)?;
    let device = machine.add_device(DeviceConfig::new().node(node).stream(regs.id(), STREAM));
    let mut rng = Rng::derived(machine.seed(), 0x40de + node.index() as u64);
    let mut held = Vec::new();
    for index in 0..table.blocks {
        let request = SegmentRequest {
            len: (1 + rng.below(table.block.0 / PAGE_BYTES)) * PAGE_BYTES,
            align: PAGE_BYTES,
            node: Some(node),
            limit: DmaMask::ALL,
        };
        let block = memory.allocate_table(&request)?;
        let at = IovaRange::new(Iova::new(IOVA + index * (64 << 20)), block.len())?;
        tables.map(at, block.range().start(), Permissions::READ_WRITE)?;
        device.grant(block.range(), Direction::Bidirectional);
        let lost = transfer(&device, &block, at.start(), &mut rng)?;
        if let Some(report) = report.as_deref_mut() {
            report.dma_bytes += 2 * LINE as u64;
            let failure = lost.then(|| format!("{node}, block {index}"));
            report.trial(CheckName::Data, failure);
        }
        held.push((at, block));
    }
    let before = regs.sync_waits();
    // A sync that has nothing to wait for is not sent.
    let sync = || {
        smmu.invalidate_all(context.tag())
            .and_then(|()| smmu.sync())
    };
    (0..table.syncs).try_for_each(|_| sync())?;
    let waits = since(before, regs.sync_waits());
    for (at, block) in held {
        let mut gather = Gather::new();
        tables.unmap(at, &mut gather)?;
        sync()?;
        tables.recycle(gather);
        device.revoke(block.range(), Direction::Bidirectional);
        memory.free_table(block);
    }
    smmu.detach(STREAM)?;
    smmu.release_context(context)?;
    drop(tables);
    smmu.stop()?;
    let taken = memory.take();
    if let Some(report) = report {
        report.faults += device.faults().len() as u64;
        judge(&taken, report);
    }
    Ok(row(node, regs.queue_node(), &taken, waits))
}

/// Bytes of one transfer.
const LINE: usize = 256;

/// A write and a read of the device; whether bytes went elsewhere.
fn transfer(
    device: &dmakit_sim::SimDevice,
    block: &Segment,
    at: Iova,
    rng: &mut Rng,
) -> anyhow::Result<bool> {
    let offset = rng.below(block.len() / LINE as u64) * LINE as u64;
    let target = DmaAddr::new(at.raw() + offset);
    let sent: Vec<u8> = (0..LINE).map(|_| rng.bits() as u8).collect();
    device.write(target, &sent)?;
    let mut found = vec![0; LINE];
    let part = block.window().slice(offset, LINE as u64);
    part.inspect(|part| part.read(&mut found));
    let mut back = vec![0; LINE];
    device.read(target, &mut back)?;
    Ok(found != sent || back != sent)
}

fn judge(taken: &[Taken], report: &mut RunReport) {
    for one in taken {
        let failure = (one.found != one.wanted).then(|| {
            let [wanted, found] = [one.wanted, one.found].map(|node| match node {
                Some(node) => node.to_string(),
                None => "no node".to_owned(),
            });
            format!("{} bytes for {wanted} lie on {found}", one.bytes)
        });
        report.trial(CheckName::Local, failure);
    }
}

fn since(before: SyncWaits, after: SyncWaits) -> SyncWaits {
    SyncWaits {
        syncs: after.syncs - before.syncs,
        local: after.local - before.local,
        total_ns: after.total_ns - before.total_ns,
    }
}

fn row(node: NodeId, queue_node: Option<NodeId>, taken: &[Taken], waits: SyncWaits) -> NodeRow {
    let local = || taken.iter().filter(|one| one.found == one.wanted);
    let bytes = |one: &Taken| one.bytes;
    NodeRow {
        node: node.index(),
        queue_node: queue_node.unwrap_or(node).index(),
        allocations: taken.len() as u64,
        local: local().count() as u64,
        bytes: taken.iter().map(bytes).sum(),
        local_bytes: local().map(bytes).sum(),
        sync_mean_ns: waits.total_ns as f64 / waits.syncs.max(1) as f64,
    }
}
