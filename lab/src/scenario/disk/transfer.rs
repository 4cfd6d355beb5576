//! One transfer: its buffer on the way to the disk and back.

use anyhow::Context;
use dmakit_addr::{DirectionType, FromDevice, Iova, PhysAddr, ToDevice};
use dmakit_dma::{Debt, DmaMemory, DmaSegment};
use dmakit_qemu::devices::nvme::Operation;
use dmakit_qemu::devices::{Lent, Steps};
use dmakit_qemu::pieces::{self, Pieces};
use dmakit_qemu::smmu::QemuDevice;

use super::super::board::in_hex;
use super::super::check::CheckName;
use super::super::page::MapWord;
use super::super::report::{RunReport, Translation};
use super::{Load, difference, noise};

/// What memory holds that nothing has landed in.
const CANARY: u8 = 0xee;

/// A buffer in the disk's hands.
enum Buffer {
    Read(Lent<FromDevice>),
    Write(Lent<ToDevice>),
}

/// One command.
pub struct Transfer {
    buffer: Buffer,
    /// Where the disk finds the buffer.
    segments: Vec<DmaSegment>,
    /// Where the buffer begins, by which it is known again.
    begins: PhysAddr,
    /// Where on the disk, in bytes.
    pub at: u64,
    pub len: u64,
    /// What a read must bring.
    expected: Option<Vec<u8>>,
}

/// What is known of a buffer that the disk may still reach.
pub struct Owed {
    at: u64,
    expected: Option<Vec<u8>>,
    /// Where to try it once it is out of reach.
    tried: Option<DmaSegment>,
}

fn lend<D: DirectionType>(
    device: &QemuDevice<'_>,
    map: MapWord,
    pieces: Pieces,
) -> anyhow::Result<(Lent<D>, Vec<DmaSegment>)> {
    let steps = match map {
        MapWord::OneStep => Steps::One,
        MapWord::TwoStep => Steps::Two,
    };
    let lent = Lent::new(device, steps, pieces).map_err(|(error, _)| error)?;
    let segments = lent.segments(device);
    Ok((lent, segments))
}

impl Load<'_> {
    /// Lends a buffer of scattered pages, and starts a command on it.
    pub fn start(&mut self, operation: Operation, at: u64, len: u64) -> anyhow::Result<Transfer> {
        let (store, rng) = (&self.board.memory, &mut self.rng);
        let mut pieces = pieces::scattered(store, self.board.nodes, len, CANARY, |n| rng.below(n))?;
        let begins = begin_of(&pieces)?;
        let place = at as usize..(at + len) as usize;
        let map = self.table.map.unwrap_or_default();
        let (buffer, segments, expected) = match operation {
            Operation::Read => {
                let (lent, segments) = lend(self.device, map, pieces)?;
                let expected = self.model[place].to_vec();
                (Buffer::Read(lent), segments, Some(expected))
            }
            Operation::Write => {
                let fresh = noise(&mut self.rng, len);
                pieces.write(0, &fresh);
                self.model[place].copy_from_slice(&fresh);
                let (lent, segments) = lend(self.device, map, pieces)?;
                (Buffer::Write(lent), segments, None)
            }
        };
        let block = self.disk.identity().block;
        self.disk.submit(operation, at / block, &segments)?;
        self.transfers += 1;
        Ok(Transfer {
            buffer,
            segments,
            begins,
            at,
            len,
            expected,
        })
    }

    /// Repeats the first block of one of the reads, so that the SMMU surely has its translation at
    /// hand; gives which, and where.
    pub fn warm(
        &mut self,
        transfers: &[Transfer],
        report: &mut RunReport,
    ) -> anyhow::Result<Option<(usize, DmaSegment)>> {
        let reads: Vec<_> = (0..transfers.len())
            .filter(|&at| transfers[at].expected.is_some())
            .collect();
        let picked = self.rng.below(reads.len() as u64) as usize;
        let Some(&at) = reads.get(picked) else {
            return Ok(None);
        };
        let block = self.disk.identity().block;
        let first = transfers[at].segments.first().context("no segment")?;
        let place = DmaSegment {
            len: block,
            ..*first
        };
        self.disk
            .submit(Operation::Read, transfers[at].at / block, &[place])?;
        self.disk.wait()?;
        report.dma_bytes += block;
        self.board
            .judge_good(|| format!("{} once more", place.addr), report);
        Ok(Some((at, place)))
    }

    /// Unmaps transfers, each with a sync of its own where none is in a batch; takes back and judges
    /// what is out of the disk's reach.
    pub fn end(
        &mut self,
        transfers: Vec<Transfer>,
        tried: Option<(usize, DmaSegment)>,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        let mut back = Vec::new();
        for (index, transfer) in transfers.into_iter().enumerate() {
            let owed = Owed {
                at: transfer.at,
                expected: transfer.expected,
                tried: tried.filter(|tried| tried.0 == index).map(|tried| tried.1),
            };
            self.owed.insert(transfer.begins, owed);
            let debt = match transfer.buffer {
                Buffer::Read(lent) => self.unmap(lent, &mut back)?,
                Buffer::Write(lent) => self.unmap(lent, &mut back)?,
            };
            if let Some(debt) = debt {
                let redeemed = self.device.redeem(debt, &self.device.sync()?);
                back.push(redeemed.map_err(|failure| anyhow::anyhow!("{failure}"))?);
            }
        }
        self.take_back(back, report)
    }

    /// Unmaps one: what is owed for it, unless it waits in a batch or came `back` at once.
    fn unmap<D: DirectionType>(
        &mut self,
        lent: Lent<D>,
        back: &mut Vec<Pieces>,
    ) -> anyhow::Result<Option<Debt<Pieces>>> {
        if let Some(batch) = &mut self.batch {
            lent.take_batched(self.device, batch, |pieces| back.push(pieces))
                .map_err(|failure| anyhow::anyhow!("{failure}"))?;
            return Ok(None);
        }
        match lent.take(self.device) {
            Ok(debt) => Ok(Some(debt)),
            Err(_) => anyhow::bail!("a buffer that is not this device's"),
        }
    }

    /// Judges buffers that are the CPU's again, tries what was unmapped, and gives them back.
    pub fn take_back(&mut self, back: Vec<Pieces>, report: &mut RunReport) -> anyhow::Result<()> {
        let mut tried = Vec::new();
        for pieces in back {
            let begins = begin_of(&pieces)?;
            let owed = self.owed.remove(&begins).context("an unknown buffer")?;
            // Writes are judged by what is read later, and by the disk's file at the end.
            if let Some(expected) = &owed.expected {
                let wrong = difference(&bytes_of(&pieces), expected);
                let wrong = wrong
                    .map(|at| format!("byte {} of the disk arrived wrong", owed.at + at as u64));
                report.trial(CheckName::Data, wrong);
            }
            match owed.tried {
                Some(place) => tried.push((place, pieces)),
                None => self.give_back(pieces, owed.at, report),
            }
        }
        for (place, mut pieces) in tried {
            self.retry(CheckName::NoStaleHits, place, &mut pieces, report)?;
            if self.board.is_lazy() {
                self.way.flush()?;
                let name = CheckName::NoStaleHitsAfterFlush;
                self.retry(name, place, &mut pieces, report)?;
            }
            self.give_back(pieces, 0, report);
        }
        Ok(())
    }

    /// The disk reads a block to where it must not, which it just could.
    fn retry(
        &mut self,
        name: CheckName,
        place: DmaSegment,
        pieces: &mut Pieces,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        if !report.asks(name) {
            return Ok(());
        }
        let untouched = vec![CANARY; bytes_of(pieces).len()];
        pieces.write(0, &untouched);
        // Its status says nothing: QEMU's disk reports success on faults.
        self.disk.submit(Operation::Read, 0, &[place])?;
        self.disk.wait()?;
        let changed = bytes_of(pieces) != untouched;
        let what = || {
            format!(
                "{} bytes at {} after they were unmapped",
                place.len, place.addr
            )
        };
        self.board.judge_stale(name, changed, what, report);
        Ok(())
    }

    /// Gives the pages back; the rest of the last, which nobody mapped for the disk, is as it was.
    fn give_back(&self, pieces: Pieces, at: u64, report: &mut RunReport) {
        for buffer in pieces.into_buffers() {
            let used = buffer.len() as usize;
            // It was made of one.
            let Ok(page) = buffer.into_segment() else {
                continue;
            };
            let mut bytes = vec![0; page.len() as usize];
            page.window().read(&mut bytes);
            let stray = bytes[used..].iter().any(|&byte| byte != CANARY);
            let failure = format!("bytes after the buffer for byte {at} have changed");
            if used < bytes.len() {
                report.trial(CheckName::Data, stray.then_some(failure));
            }
            // It came from there, or its loss shows at the end.
            drop(self.board.memory.free(page));
        }
    }

    /// The translation of the middle of a read.
    pub fn show(&self, transfer: &Transfer) -> Option<Translation> {
        let expected = transfer.expected.as_ref()?;
        let offset = transfer.len / 2;
        let iova = Iova::new(transfer.segments.first()?.addr.raw() + offset);
        let about = format!("byte {} of the disk was read to", transfer.at + offset);
        let mut shown = self.board.translation(self.way, iova, about)?;
        let begin = offset as usize;
        shown.origin = expected.get(begin..begin + 16).map(in_hex);
        Some(shown)
    }
}

fn begin_of(pieces: &Pieces) -> anyhow::Result<PhysAddr> {
    let first = pieces.runs().next().context("a buffer without memory")?;
    Ok(first.start())
}

fn bytes_of(pieces: &Pieces) -> Vec<u8> {
    let len: u64 = pieces.runs().map(|run| run.len()).sum();
    let mut bytes = vec![0; len as usize];
    pieces.read(0, &mut bytes);
    bytes
}
