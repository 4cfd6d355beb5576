//! A list of buffers, and what the model knows of it.

use dmakit::addr::{Direction, DmaAddr, PhysRange};
use dmakit::dma::{Debt, DmaMemory, DmaSegment, ScatterList, Translate};
use dmakit::platform::Segment;
use dmakit_sim::{Rng, Transfer};

use super::lent::{self, Linked, List, Mapped};
use crate::rig::{BOTH, Rig, TestDevice};

const LINE: usize = 64;
const PAGE: u64 = 4096;

pub enum State {
    Idle(List),
    Mapped(Mapped),
    Linked(Linked, List),
    Owed(Debt<List>, Option<Late>),
    /// In a batch.
    Waiting(Option<Late>),
    Taken,
}

/// A write of a line or less, in flight while its mapping ends, and where it is in the bytes.
pub struct Late {
    transfer: Transfer,
    at: usize,
    bytes: Vec<u8>,
}

pub struct Slot {
    pub state: State,
    /// Which of the devices has it.
    pub device: usize,
    way: Direction,
    segments: Vec<DmaSegment>,
    runs: Vec<PhysRange>,
    around: Vec<Segment>,
    bytes: Vec<u8>,
    /// Late writes that landed, and that were stopped.
    pub landed: u64,
    pub stopped: u64,
}

pub fn noise(rng: &mut Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.bits() as u8).collect()
}

impl Slot {
    pub fn new(rig: &Rig, rng: &mut Rng) -> Self {
        let (mut buffers, mut around, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        let count = 1 + rng.below(4);
        let is_ragged = rng.chance(128);
        for index in 0..count {
            // A request shares granules at its ends only.
            let offset = match is_ragged && index == 0 {
                true => rng.below(PAGE),
                false => 0,
            };
            let less = match is_ragged && index + 1 == count {
                true => rng.below(PAGE),
                false => 0,
            };
            let whole = (1 + rng.below(2)) * PAGE;
            let len = whole.saturating_sub(offset + less).max(1);
            let mut piece = rig.buffer(len, offset, 0);
            runs.push(piece.run);
            buffers.push(piece.take());
            around.extend([piece.before, piece.after]);
        }
        let mut list = ScatterList::new(buffers).unwrap();
        let bytes = noise(rng, runs.iter().map(|run| run.len()).sum());
        list.write(0, &bytes);
        Self {
            state: State::Idle(list),
            device: 0,
            way: BOTH,
            segments: Vec::new(),
            runs,
            around,
            bytes,
            landed: 0,
            stopped: 0,
        }
    }

    /// Whether a list is this slot's.
    pub fn owns(&self, list: &List) -> bool {
        list.runs().next().is_some_and(|run| run == self.runs[0])
    }

    pub fn lend<T: Translate>(
        &mut self,
        rig: &Rig,
        device: &TestDevice<'_, T>,
        list: List,
        rng: &mut Rng,
    ) -> State {
        self.permit(rig);
        let ways = [Direction::ToDevice, Direction::FromDevice, BOTH];
        self.way = rng.pick(&ways);
        let state = if rng.chance(128) {
            let mut segments = [DmaSegment::default(); 8];
            let (mapped, count) = lent::map(device, self.way, list, &mut segments);
            self.segments = segments[..count].to_vec();
            State::Mapped(mapped)
        } else {
            let (linked, segment) = lent::link(device, self.way, &list);
            self.segments = vec![segment];
            State::Linked(linked, list)
        };
        self.hide_edges(device, 0);
        state
    }

    /// What is not trusted finds nothing in slots that it only writes to, and all of it comes back.
    fn hide_edges<T: Translate>(&mut self, device: &TestDevice<'_, T>, from: u64) {
        let is_hidden = device.info().trust == dmakit::dma::Trust::Untrusted;
        if !is_hidden || self.way != Direction::FromDevice {
            return;
        }
        let mut at = 0;
        for run in &self.runs {
            let (start, end) = (run.start().raw(), run.end().raw());
            let (head, tail) = (start % PAGE, end % PAGE);
            let first = if head == 0 {
                0
            } else {
                run.len().min(PAGE - head)
            };
            let last = if tail == 0 { 0 } else { run.len().min(tail) };
            let edges = [at..at + first, at + run.len() - last..at + run.len()];
            for edge in edges.into_iter().filter(|edge| edge.start >= from) {
                self.bytes[edge.start as usize..edge.end as usize].fill(0);
            }
            at += run.len();
        }
    }

    /// A place of the memory for the device from byte `from` on, and where it is in the bytes.
    fn place(&self, from: u64, rng: &mut Rng) -> (DmaAddr, usize, usize) {
        let offset = from + rng.below(self.bytes.len() as u64 - from);
        let mut before = 0;
        for segment in &self.segments {
            if offset < before + segment.len {
                let inside = offset - before;
                let len = 1 + rng.below((segment.len - inside).min(200));
                let addr = DmaAddr::new(segment.addr.raw() + inside);
                return (addr, offset as usize, len as usize);
            }
            before += segment.len;
        }
        unreachable!("segments hold all bytes")
    }

    pub fn transfer(&mut self, rig: &Rig, rng: &mut Rng) {
        let (addr, at, len) = self.place(0, rng);
        if rng.chance(128) {
            let news = noise(rng, len as u64);
            let written = rig.sim.write(addr, &news).is_ok();
            assert_eq!(written, self.way.device_writes(), "what it may only read");
            if written {
                self.bytes[at..at + len].copy_from_slice(&news);
            }
        } else if self.way.device_reads() {
            let mut seen = vec![0; len];
            rig.sim.read(addr, &mut seen).unwrap();
            assert!(
                seen == self.bytes[at..at + len],
                "the device reads something else"
            );
        }
    }

    /// The CPU looks at a mapping that stays, and changes it where it may.
    pub fn look<T: Translate>(
        &mut self,
        device: &TestDevice<'_, T>,
        mapped: Mapped,
        rng: &mut Rng,
    ) -> State {
        let news = noise(rng, self.bytes.len() as u64);
        let (bytes, way) = (&self.bytes, self.way);
        let seen = |seen: &[u8]| assert!(seen == bytes, "the CPU reads something else");
        let mapped = lent::look(device, mapped, seen, &news);
        if way != Direction::FromDevice {
            self.bytes = news;
        }
        State::Mapped(mapped)
    }

    /// Some of what is linked comes back, is changed, and is linked again.
    pub fn relink<T: Translate>(
        &mut self,
        rig: &Rig,
        device: &TestDevice<'_, T>,
        linked: Linked,
        list: List,
        rng: &mut Rng,
    ) -> State {
        let keep = 1 + rng.below(self.runs.len() as u64 - 1) as usize;
        let from: u64 = self.runs[..keep].iter().map(|run| run.len()).sum();
        let mut buffers = list.into_buffers();
        let tail = ScatterList::new(buffers.split_off(keep)).unwrap();
        let late = self.start_late(rig, from, rng);
        let (linked, tail) = lent::relink(device, linked, from, tail, |debt| {
            let proof = device.sync().unwrap();
            for run in &self.runs[keep..] {
                rig.sim.revoke(*run, BOTH);
            }
            self.end_late(rig, late);
            let mut tail = device.redeem(debt, &proof).unwrap();
            let mut seen = vec![0; self.bytes.len() - from as usize];
            tail.read(0, &mut seen);
            assert!(
                seen == self.bytes[from as usize..],
                "a tail with other bytes"
            );
            let news = noise(rng, seen.len() as u64);
            tail.write(0, &news);
            self.bytes[from as usize..].copy_from_slice(&news);
            for run in &self.runs[keep..] {
                rig.sim.grant(*run, BOTH);
            }
            tail
        });
        self.hide_edges(device, from);
        buffers.extend(tail.into_buffers());
        State::Linked(linked, ScatterList::new(buffers).unwrap())
    }

    /// Where its first byte is for the device, or was.
    pub fn addr(&self) -> Option<DmaAddr> {
        self.segments.first().map(|segment| segment.addr)
    }

    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Begins, now and then, a write that is on its way while the mapping of the bytes from `from` on
    /// ends.
    pub fn start_late(&self, rig: &Rig, from: u64, rng: &mut Rng) -> Option<Late> {
        let (addr, at, len) = self.place(from, rng);
        // All of it lands or nothing.
        let len = len.min(LINE - addr.raw() as usize % LINE);
        let may_be_late = self.way.device_writes() && rng.chance(96);
        may_be_late.then(|| {
            let bytes = noise(rng, len as u64);
            let transfer = rig.sim.start_write(addr, &bytes);
            Late {
                transfer,
                at,
                bytes,
            }
        })
    }

    /// What has not landed by the end of the sync never does.
    pub fn end_late(&mut self, rig: &Rig, late: Option<Late>) {
        let Some(Late {
            transfer,
            at,
            bytes,
        }) = late
        else {
            return;
        };
        if rig.sim.complete(transfer).is_ok() {
            self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
            self.landed += 1;
        } else {
            self.stopped += 1;
        }
    }

    pub fn permit(&self, rig: &Rig) {
        self.runs.iter().for_each(|run| rig.sim.grant(*run, BOTH));
    }

    pub fn forbid(&self, rig: &Rig) {
        self.runs.iter().for_each(|run| rig.sim.revoke(*run, BOTH));
    }

    /// Nobody else touches the memory any more. Where its address was.
    pub fn check(&mut self, mut list: List, rng: &mut Rng) -> (State, DmaAddr) {
        let mut seen = vec![0; self.bytes.len()];
        list.read(0, &mut seen);
        let wrong = seen.iter().zip(&self.bytes).position(|(a, b)| a != b);
        let (runs, device, way) = (&self.runs, self.device, self.way);
        assert_eq!(wrong, None, "of {runs:?}, device {device}, {way}");
        let is_kept = |piece: &Segment| {
            let mut seen = vec![0; piece.len() as usize];
            piece.window().read(&mut seen);
            seen.iter().all(|&byte| byte == 0xc5)
        };
        assert!(
            self.around.iter().all(is_kept),
            "the neighbours lost what they wrote"
        );
        self.bytes = noise(rng, self.bytes.len() as u64);
        list.write(0, &self.bytes);
        let (addr, _, _) = self.place(0, rng);
        (State::Idle(list), addr)
    }
}
