//! A device with few address bits behind the SMMU.

use anyhow::Context;
use dmakit_addr::{DmaMask, Iova, NodeId, PAGE_BYTES};
use dmakit_io_pgtable::Permissions;
use dmakit_platform::{Segment, SegmentRequest};
use dmakit_qemu::FunctionId;
use dmakit_qemu::devices::{Block, Edu};
use dmakit_qemu::smmu::Port;
use dmakit_sim::Rng;

use super::check::CheckName;
use super::page::EduTable;
use super::report::RunReport;
use super::virt::{Place, Virt};
use crate::progress::Progress;

const EDU: FunctionId = FunctionId::on_root(2, 0);
const CANARY: u8 = 0xee;
/// What RAM is taken in, so that pages can be picked from all of it.
const PIECE: u64 = 2 << 20;

type Device = Edu<dmakit_platform::host::HostPlatform, dmakit_qemu::QemuMmio>;

/// Runs the rounds.
pub fn run(
    place: &Place,
    table: &EduTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    progress.say("starting QEMU".to_owned());
    let mask = DmaMask::bits(table.bits).context("no such address mask")?;
    let virt = place.start(Edu::argument(2, mask), EDU, None, report)?;
    let machine = virt.stack.machine();
    let regs = machine.pci().enable(EDU)?.bar(0)?;
    let edu = Edu::new(machine.platform(), regs, mask);
    let port = virt.open(EDU, mask)?;
    let pattern = port.block(PAGE_BYTES, None)?;
    let pieces = pieces(&virt);
    anyhow::ensure!(!pieces.is_empty(), "no 2 MiB of RAM are free");
    let mut rounds = Rounds {
        virt: &virt,
        port: &port,
        edu: &edu,
        pattern: &pattern,
        rng: Rng::new(seed),
        highest: 0,
    };
    for round in 0..table.rounds {
        let piece = &pieces[rounds.rng.below(pieces.len() as u64) as usize];
        rounds.round(round, piece, report)?;
        progress.say(format!("{} of {} rounds", round + 1, table.rounds));
    }
    report.counters.insert("rounds", table.rounds);
    report.counters.insert("highest_iova", rounds.highest);
    let lowest = pieces.iter().map(|piece| piece.range().start().raw()).min();
    report.counters.insert("lowest_phys", lowest.unwrap_or(0));
    for piece in pieces {
        if let Err(piece) = virt.stack.memory().free(piece) {
            anyhow::bail!("{piece:?} was not this machine's");
        }
    }
    port.free_block(pattern)?;
    virt.finish(port, report)
}

/// All RAM that comes in large pieces.
fn pieces(virt: &Virt) -> Vec<Segment> {
    let mut pieces = Vec::new();
    let request = SegmentRequest {
        len: PIECE,
        align: PIECE,
        node: Some(NodeId::new(0)),
        limit: DmaMask::ALL,
    };
    // The last 4 MiB stay for tables.
    while let Ok(piece) = virt.stack.memory().allocate(&request) {
        pieces.push(piece);
    }
    for _ in 0..2 {
        if let Some(piece) = pieces.pop() {
            // It is there again at once: nobody else takes memory here.
            drop(virt.stack.memory().free(piece));
        }
    }
    pieces
}

struct Rounds<'a> {
    virt: &'a Virt,
    port: &'a Port,
    edu: &'a Device,
    /// A page that the device can always read.
    pattern: &'a Block,
    rng: Rng,
    highest: u64,
}

impl Rounds<'_> {
    fn round(&mut self, round: u64, piece: &Segment, report: &mut RunReport) -> anyhow::Result<()> {
        let at = self.rng.below(PIECE / PAGE_BYTES) * PAGE_BYTES;
        let page = piece.window().slice(at, PAGE_BYTES).context("no page")?;
        let offset = self.rng.below(PAGE_BYTES - 512);
        let len = 1 + self.rng.below(512);
        let byte = self.rng.below(0xed) as u8;
        page.fill(CANARY);
        self.edu.reload(self.pattern, byte)?;
        let runs = [page.range()].into_iter();
        let mapped = self.port.map(runs, Permissions::READ_WRITE)?;
        let target = Iova::new(mapped.range().start().raw() + offset);
        self.highest = self.highest.max(mapped.range().end().raw() - 1);
        self.edu.write(target, len)?;
        report.dma_bytes += len;
        let mut bytes = [0; PAGE_BYTES as usize];
        page.read(&mut bytes);
        let landed = offset as usize..(offset + len) as usize;
        let wrong = (0..bytes.len()).find(|at| {
            let wanted = if landed.contains(at) { byte } else { CANARY };
            bytes[*at] != wanted
        });
        let failure = wrong.map(|at| format!("round {round}: byte {at} of {:?}", page.range()));
        report.trial(CheckName::Data, failure);
        self.virt.judge_good(|| format!("round {round}"), report);
        if report.translation.is_none() {
            let about = format!("{len} bytes were written to");
            report.translation = self.virt.translation(self.port, target, about);
        }
        self.port.unmap([mapped])?;
        self.retry(CheckName::NoStaleHits, round, target, page, report)?;
        if self.virt.is_lazy() {
            self.port.flush()?;
            self.retry(
                CheckName::NoStaleHitsAfterFlush,
                round,
                target,
                page,
                report,
            )?;
        }
        Ok(())
    }

    fn retry(
        &self,
        name: CheckName,
        round: u64,
        target: Iova,
        page: dmakit_platform::Window<'_>,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        if !report.asks(name) {
            return Ok(());
        }
        page.fill(CANARY);
        // The device's buffer still has a byte that would be seen.
        self.edu.write(target, 64)?;
        let mut bytes = [0; PAGE_BYTES as usize];
        page.read(&mut bytes);
        let changed = bytes.iter().any(|&byte| byte != CANARY);
        let what = || format!("round {round}: {target} after it was unmapped");
        self.virt.judge_stale(name, changed, what, report);
        Ok(())
    }
}
