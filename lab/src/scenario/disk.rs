//! A disk behind the SMMU.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::Context;
use dmakit_addr::{DmaMask, Iova, PAGE_BYTES};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, Mapped};
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::devices::nvme::{Nvme, Operation};
use dmakit_qemu::smmu::{Port, Scattered};
use dmakit_qemu::{FunctionId, QemuMmio};
use dmakit_sim::Rng;

use super::check::CheckName;
use super::page::{DiskTable, Mode, Pattern};
use super::report::RunReport;
use super::virt::{Place, Virt, disk_file, in_hex};
use crate::progress::Progress;
use crate::quantity::{bytes, percent};

const DISK: FunctionId = FunctionId::on_root(3, 0);
/// Transfers of up to 2 MiB.
const DEVICE: &str = "nvme,drive=disk,serial=dmakit,addr=3,mdts=9";
/// What memory holds that nothing has landed in.
const CANARY: u8 = 0xee;

/// 32 unmaps to a sync; here no clock closes a batch, so that every run has as many.
const BATCH: BatchConfig = BatchConfig {
    debts: 32,
    age_max: Duration::MAX,
};

type Disk = Nvme<HostPlatform, QemuMmio>;

/// One command.
struct Transfer {
    slot: u16,
    operation: Operation,
    /// Where on the disk, in bytes.
    at: u64,
    len: u64,
    buffer: Scattered,
    mapped: Mapped,
}

/// A buffer that the disk may still reach, and where to try that once it may not.
struct Owed {
    buffer: Scattered,
    tried: Option<Iova>,
}

struct Load<'a> {
    virt: &'a Virt,
    port: &'a Port,
    disk: Disk,
    table: &'a DiskTable,
    /// Unmaps that wait for a sync together, where they do.
    batch: Option<Batch<Owed>>,
    rng: Rng,
    /// What the disk must hold.
    model: Vec<u8>,
    transfers: u64,
}

/// Runs the load.
pub fn run(
    place: &Place,
    (table, mode): (&DiskTable, Mode),
    seed: u64,
    report: &mut RunReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    progress.say("starting QEMU".to_owned());
    let mut rng = Rng::new(seed);
    let model = noise(&mut rng, table.size.0);
    let (_directory, path, file) = disk_file(&model)?;
    let drive = format!("file={},if=none,id=disk,format=raw", path.display());
    let virt = place.start(DEVICE.to_owned(), DISK, Some(drive), report)?;
    let machine = virt.stack.machine();
    let regs = machine.pci().enable(DISK)?.bar(0)?;
    let port = virt.open(DISK, DmaMask::ALL)?;
    let memory = port.block(Disk::MEMORY_BYTES, None)?;
    let disk = Nvme::start(machine.platform(), regs, memory)?;
    let mut load = Load {
        virt: &virt,
        port: &port,
        disk,
        table,
        batch: match mode {
            Mode::Batched => Some(Batch::new(port.domain(), BATCH)?),
            Mode::Strict | Mode::Lazy => None,
        },
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
    let memory = disk.stop()?;
    port.free_block(memory)?;
    virt.finish(port, report)
}

impl Load<'_> {
    fn read_all(&mut self, report: &mut RunReport, progress: &Progress) -> anyhow::Result<()> {
        let size = self.table.size.0;
        let largest = self.table.sizes[1].0;
        let mut at = 0;
        while at < size {
            let mut batch = Vec::new();
            while batch.len() < self.table.depth as usize && at < size {
                batch.push(self.start(Operation::Read, at, largest)?);
                at += largest;
            }
            self.complete(batch, report)?;
            progress.say(format!(
                "{} of {} read through the SMMU ({})",
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
            let mut batch = Vec::new();
            for index in 0..depth {
                let len = self.length();
                let operation = match self.rng.below(2) {
                    0 => Operation::Read,
                    _ => Operation::Write,
                };
                let room = (lane - largest) / 512;
                let begin = index * lane / 512 * 512;
                let at = begin + self.rng.below(room.max(1)) * 512;
                batch.push(self.start(operation, at, len)?);
            }
            self.complete(batch, report)?;
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

    fn start(&mut self, operation: Operation, at: u64, len: u64) -> anyhow::Result<Transfer> {
        let store = self.virt.stack.memory();
        let pages = len.div_ceil(PAGE_BYTES) as usize;
        let rng = &mut self.rng;
        let buffer = Scattered::allocate(store, self.virt.nodes, pages, |n| rng.below(n))?;
        buffer.fill(CANARY);
        let permissions = match operation {
            Operation::Read => Permissions::READ_WRITE,
            Operation::Write => {
                let fresh = noise(&mut self.rng, len);
                buffer.write(&fresh);
                self.model[at as usize..(at + len) as usize].copy_from_slice(&fresh);
                Permissions::READ
            }
        };
        let mapped = self.port.map(buffer.runs(), permissions)?;
        let range = mapped
            .range()
            .slice(0, len)
            .context("a mapping too short")?;
        let slot = self
            .disk
            .submit(operation, at / self.disk.identity().block, range)?;
        self.transfers += 1;
        Ok(Transfer {
            slot,
            operation,
            at,
            len,
            buffer,
            mapped,
        })
    }

    /// Waits for a batch, judges it, unmaps it with one sync, and tries what was unmapped.
    fn complete(&mut self, batch: Vec<Transfer>, report: &mut RunReport) -> anyhow::Result<()> {
        for _ in 0..batch.len() {
            let completion = self.disk.wait()?;
            let status = completion.status;
            let failure = (status != 0).then(|| format!("status {status:#x}"));
            report.trial(CheckName::Data, failure);
        }
        for transfer in &batch {
            debug_assert!(transfer.slot < Disk::DEPTH_MAX as u16);
            report.dma_bytes += transfer.len;
            report.trial(CheckName::Data, self.judge(transfer));
        }
        let first = batch.first().map(|transfer| transfer.at);
        self.virt.judge_good(
            || format!("transfers at byte {} of the disk", first.unwrap_or(0)),
            report,
        );
        if report.translation.is_none() {
            report.translation = batch.iter().find_map(|transfer| self.show(transfer));
        }
        let tried = self.warm(&batch, report)?;
        if self.batch.is_some() {
            return self.owe(batch, tried, report);
        }
        let (mappings, buffers): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|transfer| (transfer.mapped, transfer.buffer))
            .unzip();
        self.port.unmap(mappings)?;
        if let Some((place, buffer)) = tried.and_then(|(at, place)| Some((place, buffers.get(at)?)))
        {
            self.retry(CheckName::NoStaleHits, place, buffer, report)?;
            if self.virt.is_lazy() {
                self.port.flush()?;
                self.retry(CheckName::NoStaleHitsAfterFlush, place, buffer, report)?;
            }
        }
        for buffer in buffers {
            buffer.free(self.virt.stack.memory());
        }
        Ok(())
    }

    /// Unmaps in batches; judges what comes out of the disk's reach meanwhile.
    fn owe(
        &mut self,
        batch: Vec<Transfer>,
        tried: Option<(usize, Iova)>,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        let mut given = Vec::new();
        if let Some(open) = &mut self.batch {
            for (at, transfer) in batch.into_iter().enumerate() {
                let owed = Owed {
                    buffer: transfer.buffer,
                    tried: tried.filter(|tried| tried.0 == at).map(|tried| tried.1),
                };
                let give = |owed| given.push(owed);
                self.port.unmap_into(open, transfer.mapped, owed, give)?;
            }
        }
        self.take_back(given, report)
    }

    /// Closes the batch: the ring is idle for good.
    fn settle(&mut self, report: &mut RunReport) -> anyhow::Result<()> {
        let mut given = Vec::new();
        if let Some(open) = &mut self.batch {
            self.port.close_batch(open, |owed| given.push(owed))?;
            let pages = open.held().bytes_max / PAGE_BYTES;
            report.counters.insert("held_pages_most", pages);
        }
        self.take_back(given, report)
    }

    fn take_back(&mut self, given: Vec<Owed>, report: &mut RunReport) -> anyhow::Result<()> {
        for Owed { buffer, tried } in given {
            if let Some(place) = tried {
                self.retry(CheckName::NoStaleHits, place, &buffer, report)?;
            }
            buffer.free(self.virt.stack.memory());
        }
        Ok(())
    }

    /// Repeats the first block of one of the reads, so that the SMMU surely has its translation at
    /// hand; gives which, and where.
    fn warm(
        &mut self,
        batch: &[Transfer],
        report: &mut RunReport,
    ) -> anyhow::Result<Option<(usize, Iova)>> {
        let reads: Vec<_> = (0..batch.len())
            .filter(|&at| batch[at].operation == Operation::Read)
            .collect();
        let picked = self.rng.below(reads.len() as u64) as usize;
        let Some(&at) = reads.get(picked) else {
            return Ok(None);
        };
        let place = batch[at].mapped.range().start();
        let block = self.disk.identity().block;
        let range = dmakit_addr::IovaRange::new(place, block)?;
        self.disk
            .submit(Operation::Read, batch[at].at / block, range)?;
        self.disk.wait()?;
        report.dma_bytes += block;
        self.virt
            .judge_good(|| format!("{range} once more"), report);
        Ok(Some((at, place)))
    }

    fn judge(&self, transfer: &Transfer) -> Option<String> {
        if transfer.operation == Operation::Write {
            // Judged by what is read later, and by the disk's file at the end.
            return None;
        }
        let seen = transfer.buffer.read(transfer.buffer.len() as usize);
        let (landed, rest) = seen.split_at(transfer.len as usize);
        let begin = transfer.at as usize;
        let kept = &self.model[begin..begin + landed.len()];
        if let Some(at) = difference(landed, kept) {
            return Some(format!("byte {} of the disk arrived wrong", begin + at));
        }
        let stray = rest.iter().any(|&byte| byte != CANARY);
        stray.then(|| format!("bytes after a read at byte {begin} have changed"))
    }

    /// The disk reads a block to where it must not, which it just could.
    fn retry(
        &mut self,
        name: CheckName,
        place: Iova,
        buffer: &Scattered,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        if !report.asks(name) {
            return Ok(());
        }
        buffer.fill(CANARY);
        let block = self.disk.identity().block;
        let range = dmakit_addr::IovaRange::new(place, block)?;
        // Its status says nothing: QEMU's disk reports success on faults.
        self.disk.submit(Operation::Read, 0, range)?;
        self.disk.wait()?;
        let seen = buffer.read(buffer.len() as usize);
        let changed = seen.iter().any(|&byte| byte != CANARY);
        let what = || format!("{range} after it was unmapped");
        self.virt.judge_stale(name, changed, what, report);
        Ok(())
    }

    /// The translation of the middle of a read.
    fn show(&self, transfer: &Transfer) -> Option<super::report::Translation> {
        if transfer.operation != Operation::Read {
            return None;
        }
        let offset = transfer.len / 2;
        let iova = Iova::new(transfer.mapped.range().start().raw() + offset);
        let about = format!("byte {} of the disk was read to", transfer.at + offset);
        let mut shown = self.virt.translation(self.port, iova, about)?;
        let begin = (transfer.at + offset) as usize;
        shown.origin = self.model.get(begin..begin + 16).map(in_hex);
        Some(shown)
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
