//! A device with few address bits, on whatever path.

use anyhow::Context;
use dmakit_addr::{Attributes, DmaAddr, DmaMask, FromDevice, Iova, NodeId, PAGE_BYTES};
use dmakit_dma::{DeviceId, DeviceInfo, DmaSegment};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuBuffer, Segment, SegmentRequest};
use dmakit_qemu::devices::{Edu, edu};
use dmakit_qemu::smmu::{QemuDevice, SmmuDomain};
use dmakit_qemu::{FunctionId, QemuMmio};
use dmakit_sim::Rng;

use super::board::{Board, Place, Way};
use super::check::CheckName;
use super::page::EduTable;
use super::report::RunReport;
use crate::progress::Progress;

const EDU: FunctionId = FunctionId::on_root(2, 0);
const CANARY: u8 = 0xee;
/// What RAM is taken in, so that pages can be picked from all of it.
const PIECE: u64 = 2 << 20;
/// Bytes of a pool, where the device has one: it has one transfer at a time.
const POOL_BYTES: u64 = 1 << 20;

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
    let board = place.start(edu::argument(2, mask), EDU, None, report)?;
    let regs = board.machine.pci().enable(EDU)?.bar(0)?;
    let way = board.open(EDU, mask, POOL_BYTES)?;
    let device = board.device(&way, DeviceInfo::new(DeviceId::new(1), "edu", mask));
    let edu = Edu::start(board.machine.platform(), &device, regs)?;
    let mut pieces = pieces(&board);
    anyhow::ensure!(!pieces.is_empty(), "no 2 MiB of RAM are free");
    let lowest = pieces.iter().map(|piece| piece.range().start().raw()).min();
    let mut rounds = Rounds {
        board: &board,
        way: &way,
        device: &device,
        edu: &edu,
        rng: Rng::new(seed),
        highest: 0,
    };
    for round in 0..table.rounds {
        let picked = rounds.rng.below(pieces.len() as u64) as usize;
        let piece = pieces.swap_remove(picked);
        pieces.push(rounds.round(round, piece, report)?);
        progress.say(format!("{} of {} rounds", round + 1, table.rounds));
    }
    report.counters.insert("rounds", table.rounds);
    report.counters.insert("highest_dma", rounds.highest);
    report.counters.insert("lowest_phys", lowest.unwrap_or(0));
    for piece in pieces {
        if let Err(piece) = board.memory.free(piece) {
            anyhow::bail!("{piece:?} was not this machine's");
        }
    }
    edu.stop();
    let stats = device.stats();
    drop(device);
    board.finish(way, stats, report)
}

/// All RAM that comes in large pieces, but for some that stays for tables.
fn pieces(board: &Board) -> Vec<Segment> {
    let mut pieces = Vec::new();
    for node in 0..board.nodes {
        let request = SegmentRequest {
            len: PIECE,
            align: PIECE,
            node: Some(NodeId::new(node)),
            limit: DmaMask::ALL,
        };
        while let Ok(piece) = board.memory.allocate(&request) {
            pieces.push(piece);
        }
    }
    for _ in 0..2 {
        if let Some(piece) = pieces.pop() {
            // It is there again at once: nobody else takes memory here.
            drop(board.memory.free(piece));
        }
    }
    pieces
}

struct Rounds<'a> {
    board: &'a Board,
    way: &'a Way,
    device: &'a QemuDevice<'a>,
    edu: &'a Edu<'a, HostPlatform, SmmuDomain, QemuMmio>,
    rng: Rng,
    highest: u64,
}

impl Rounds<'_> {
    /// Maps a page of a piece, lets the device write into it, and takes it back.
    fn round(
        &mut self,
        round: u64,
        piece: Segment,
        report: &mut RunReport,
    ) -> anyhow::Result<Segment> {
        let place = self.rng.below(PIECE / PAGE_BYTES) * PAGE_BYTES;
        let offset = self.rng.below(PAGE_BYTES - 512);
        let len = 1 + self.rng.below(512);
        let byte = self.rng.below(0xed) as u8;
        let (before, rest) = cut(piece, place)?;
        let (page, after) = cut(rest, PAGE_BYTES)?;
        let phys = page.range();
        page.window().fill(CANARY);
        self.edu.reload(byte)?;
        let buffer =
            CpuBuffer::from_segment(page, PAGE_BYTES).map_err(|_| anyhow::anyhow!("no page"))?;
        let mapping = self
            .device
            .map::<FromDevice>(buffer, Attributes::NONE)
            .map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let start = mapping.dma_addr().raw();
        self.highest = self.highest.max(start + mapping.len() - 1);
        let target = DmaSegment {
            addr: DmaAddr::new(start + offset),
            len,
        };
        self.edu.write(&[target])?;
        report.dma_bytes += len;
        self.board.judge_good(|| format!("round {round}"), report);
        if report.translation.is_none() {
            let about = format!("{len} bytes were written to");
            let iova = Iova::new(target.addr.raw());
            report.translation = self.board.translation(self.way, iova, about);
        }
        let back = self.device.unmap_and_sync(mapping);
        let page = back.map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let page = page
            .into_segment()
            .map_err(|_| anyhow::anyhow!("a page is not as it was"))?;

        let mut bytes = [0; PAGE_BYTES as usize];
        page.window().read(&mut bytes);
        let landed = offset as usize..(offset + len) as usize;
        let wrong = (0..bytes.len()).find(|at| {
            let wanted = if landed.contains(at) { byte } else { CANARY };
            bytes[*at] != wanted
        });
        let failure = wrong.map(|at| format!("round {round}: byte {at} of {phys:?}"));
        report.trial(CheckName::Data, failure);
        self.retry(CheckName::NoStaleHits, round, target, &page, report)?;
        if self.board.is_lazy() {
            self.way.flush()?;
            let name = CheckName::NoStaleHitsAfterFlush;
            self.retry(name, round, target, &page, report)?;
        }
        joined(joined(before, page)?, after)
    }

    fn retry(
        &self,
        name: CheckName,
        round: u64,
        target: DmaSegment,
        page: &Segment,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        if !report.asks(name) {
            return Ok(());
        }
        page.window().fill(CANARY);
        // The device's buffer still has a byte that would be seen.
        self.edu.write(&[target])?;
        let mut bytes = [0; PAGE_BYTES as usize];
        page.window().read(&mut bytes);
        let changed = bytes.iter().any(|&byte| byte != CANARY);
        let what = || format!("round {round}: {} after it was unmapped", target.addr);
        self.board.judge_stale(name, changed, what, report);
        Ok(())
    }
}

fn cut(segment: Segment, at: u64) -> anyhow::Result<(Segment, Segment)> {
    segment
        .split_at(at)
        .map_err(|segment| anyhow::anyhow!("{segment:?} has no byte {at}"))
}

fn joined(low: Segment, high: Segment) -> anyhow::Result<Segment> {
    Segment::merge(low, high).map_err(|_| anyhow::anyhow!("a page that is not a neighbour"))
}
