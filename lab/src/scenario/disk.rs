//! A disk under a load, on whatever path.

mod transfer;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::Context;
use dmakit_addr::{DmaMask, PAGE_BYTES, PhysAddr};
use dmakit_dma::DeviceId;
use dmakit_iommu::{Batch, BatchConfig};
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::devices::nvme::{self, Nvme, Operation};
use dmakit_qemu::pieces::Pieces;
use dmakit_qemu::smmu::{QemuDevice, SmmuDomain};
use dmakit_qemu::{FunctionId, QemuMmio};
use dmakit_sim::Rng;

use super::board::{Board, Place, Way, disk_file};
use super::check::CheckName;
use super::page::{DiskTable, Mode, Pattern};
use super::report::RunReport;
use crate::progress::Progress;
use crate::quantity::{bytes, percent};
use transfer::{Owed, Transfer};

const DISK: FunctionId = FunctionId::on_root(3, 0);
/// Transfers of up to 2 MiB.
const DEVICE: &str = "nvme,drive=disk,serial=dmakit,addr=3,mdts=9";

/// Bytes of a pool that nobody needs: the disk reaches all of memory.
const POOL_BYTES: u64 = 1 << 20;

/// 32 unmaps to a sync; here no clock closes a batch, so that every run has as many.
const BATCH: BatchConfig = BatchConfig {
    debts: 32,
    age_max: Duration::MAX,
};

type Disk<'a> = Nvme<'a, HostPlatform, SmmuDomain, QemuMmio>;

struct Load<'a> {
    board: &'a Board,
    way: &'a Way,
    device: &'a QemuDevice<'a>,
    disk: Disk<'a>,
    table: &'a DiskTable,
    /// Unmaps that wait for a sync together, where they do.
    batch: Option<Batch<Pieces>>,
    /// What is known of the buffers that wait there, by where they begin.
    owed: HashMap<PhysAddr, Owed>,
    rng: Rng,
    /// What the disk must hold.
    model: Vec<u8>,
    transfers: u64,
}

/// Runs the load.
pub fn run(
    place: &Place,
    table: &DiskTable,
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    progress.say("starting QEMU".to_owned());
    let mut rng = Rng::new(seed);
    let model = noise(&mut rng, table.size.0);
    let (_directory, path, file) = disk_file(&model)?;
    let drive = format!("file={},if=none,id=disk,format=raw", path.display());
    let board = place.start(DEVICE.to_owned(), DISK, Some(drive), report)?;
    let regs = board.machine.pci().enable(DISK)?.bar(0)?;
    let pool_bytes = match board.mode {
        // As much as can be in flight, and as much again: a copy keeps its place in its pages.
        Mode::Bounce => 2 * table.depth * table.sizes[1].0.max(1 << 16),
        _ => POOL_BYTES,
    };
    let way = board.open(DISK, DmaMask::ALL, pool_bytes)?;
    let device = board.device(&way, nvme::info(DeviceId::new(1), "disk"));
    let disk = Nvme::start(board.machine.platform(), &device, regs, None)?;
    let mut load = Load {
        board: &board,
        way: &way,
        device: &device,
        disk,
        table,
        batch: match board.mode {
            Mode::Batched => Some(Batch::new(device.domain(), BATCH)?),
            _ => None,
        },
        owed: HashMap::new(),
        rng,
        model,
        transfers: 0,
    };
    match table.pattern {
        Pattern::Read => load.read_all(report, progress)?,
        Pattern::Mixed => load.mix(report, progress)?,
    }
    load.settle(report)?;
    let (transfers, model, mut disk) = (load.transfers, load.model, load.disk);
    disk.flush()?;
    let mut stored = vec![0; model.len()];
    file.read_exact_at(&mut stored, 0)
        .context("reading the disk's file")?;
    report.trial(
        CheckName::Data,
        difference(&stored, &model).map(|at| format!("the disk's file differs at byte {at}")),
    );
    report.counters.insert("transfers", transfers);
    disk.stop()?;
    let stats = device.stats();
    drop(device);
    board.finish(way, stats, report)
}

impl Load<'_> {
    fn read_all(&mut self, report: &mut RunReport, progress: &Progress) -> anyhow::Result<()> {
        let size = self.table.size.0;
        let largest = self.table.sizes[1].0;
        let mut at = 0;
        while at < size {
            let mut transfers = Vec::new();
            while transfers.len() < self.table.depth as usize && at < size {
                transfers.push(self.start(Operation::Read, at, largest)?);
                at += largest;
            }
            self.complete(transfers, report)?;
            progress.say(format!(
                "{} of {} read ({})",
                bytes(at),
                bytes(size),
                percent(at, size)
            ));
        }
        Ok(())
    }

    fn mix(&mut self, report: &mut RunReport, progress: &Progress) -> anyhow::Result<()> {
        let rounds = self.table.rounds.unwrap_or(0);
        let largest = self.table.sizes[1].0;
        while self.transfers < rounds {
            let depth = 1 + self.rng.below(self.table.depth);
            let depth = depth.min(rounds - self.transfers);
            // Commands in flight do not meet: each has a part of the disk of its own.
            let lane = self.table.size.0 / depth;
            let mut transfers = Vec::new();
            for index in 0..depth {
                let len = self.length();
                let operation = match self.rng.below(2) {
                    0 => Operation::Read,
                    _ => Operation::Write,
                };
                let room = (lane - largest) / 512;
                let begin = index * lane / 512 * 512;
                let at = begin + self.rng.below(room.max(1)) * 512;
                transfers.push(self.start(operation, at, len)?);
            }
            self.complete(transfers, report)?;
            progress.say(format!(
                "{} of {rounds} transfers, {}",
                self.transfers,
                bytes(report.dma_bytes)
            ));
        }
        Ok(())
    }

    /// Small ones more often, in whole blocks, not always powers of two.
    fn length(&mut self) -> u64 {
        let [smallest, largest] = self.table.sizes.map(|size| size.0);
        let doublings = u64::from((largest / smallest).ilog2());
        let top = smallest << self.rng.below(doublings + 1);
        let less = self.rng.below(top / 1024) * 512;
        (top - less).clamp(smallest, largest)
    }

    /// Waits for transfers, judges them, and ends them.
    fn complete(&mut self, transfers: Vec<Transfer>, report: &mut RunReport) -> anyhow::Result<()> {
        for _ in 0..transfers.len() {
            let status = self.disk.wait()?.status;
            let failure = (status != 0).then(|| format!("status {status:#x}"));
            report.trial(CheckName::Data, failure);
        }
        report.dma_bytes += transfers.iter().map(|transfer| transfer.len).sum::<u64>();
        let first = transfers.first().map(|transfer| transfer.at);
        self.board.judge_good(
            || format!("transfers at byte {} of the disk", first.unwrap_or(0)),
            report,
        );
        if report.translation.is_none() {
            report.translation = transfers.iter().find_map(|transfer| self.show(transfer));
        }
        let tried = self.warm(&transfers, report)?;
        self.end(transfers, tried, report)
    }

    /// Closes the batch: the ring is idle for good.
    fn settle(&mut self, report: &mut RunReport) -> anyhow::Result<()> {
        let mut given = Vec::new();
        if let Some(open) = &mut self.batch {
            self.device.close_batch(open, |pieces| given.push(pieces))?;
            let pages = open.held().bytes_max / PAGE_BYTES;
            report.counters.insert("held_pages_most", pages);
        }
        self.take_back(given, report)
    }
}

fn noise(rng: &mut Rng, len: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize + 8);
    while (bytes.len() as u64) < len {
        bytes.extend(rng.bits().to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// Where two runs of bytes first differ.
fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    // Comparing whole first: it is fast, and they hardly ever differ.
    if a == b {
        return None;
    }
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    differ.or(Some(a.len().min(b.len())))
}
