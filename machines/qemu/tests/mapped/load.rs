//! Random commands of a disk, many in flight.

use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{Coherent, Debt, DmaSegment, PeerMapping, PeerMemory};
use dmakit_platform::Segment;
use dmakit_qemu::devices::nvme::Operation;
use dmakit_qemu::pieces::Pieces;
use dmakit_qemu::smmu::{Attachment, QemuDevice};

use super::Policy;
use super::buffers::{self, PAGE, belongs, canaries_hold, free_all};
use super::held::{self, Batches, Held, Kind, Owed};
use super::peer::Peer;
use crate::disk::{Disk, Random, Rig};

const BLOCK: u64 = 512;
/// Each command in flight has a part of the disk of its own.
pub const LANES: u64 = 64;
pub const LANE: u64 = 1 << 20;

enum Live {
    To(Held<ToDevice>),
    From(Held<FromDevice>),
    Coherent(Coherent<u8>),
    Peer(PeerMapping<Bidirectional>),
}

struct Transfer {
    slot: u16,
    lane: u64,
    live: Live,
    device: usize,
    operation: Operation,
    segments: Vec<DmaSegment>,
    around: Vec<Segment>,
    /// What memory must hold afterwards.
    bytes: Vec<u8>,
}

/// A buffer that is being taken back.
struct Ended {
    /// What it must hold, if it was read into.
    bytes: Option<Vec<u8>>,
    around: Vec<Segment>,
}

pub struct Load<'a> {
    rig: &'a Rig,
    attachment: Option<&'a Attachment>,
    devices: &'a [QemuDevice<'a>; 2],
    disk: Disk<'a>,
    policy: Policy,
    batches: Batches,
    peer: Peer,
    random: Random,
    /// What the disk must hold.
    pub model: Vec<u8>,
    pub ios: u64,
    pub rounds: u64,
    pub kinds: [u64; Kind::ALL.len()],
    /// Rounds in which the SMMU took no commands for a while.
    pub hiccups: u64,
    /// Mappings that were made to fail.
    pub refused: u64,
    /// Accesses to what was unmapped.
    pub tried: u64,
    pub deepest: usize,
}

impl<'a> Load<'a> {
    pub fn new(
        rig: &'a Rig,
        attachment: Option<&'a Attachment>,
        devices: &'a [QemuDevice<'a>; 2],
        disk: Disk<'a>,
        policy: Policy,
        seed: u64,
    ) -> Self {
        Self {
            rig,
            attachment,
            devices,
            disk,
            policy,
            batches: policy.batches(devices),
            peer: Peer::new(rig, devices),
            random: Random(seed),
            model: vec![0; (LANES * LANE) as usize],
            ios: 0,
            rounds: 0,
            kinds: [0; Kind::ALL.len()],
            hiccups: 0,
            refused: 0,
            tried: 0,
            deepest: 0,
        }
    }

    /// Starts some transfers, waits for all, ends and checks each.
    pub fn round(&mut self) {
        self.rounds += 1;
        let depth = match self.rounds % 4 {
            0 => 1,
            1 => LANES,
            _ => 1 + self.random.below(LANES),
        };
        let hiccups = self.policy.translates() && self.rounds % 32 == 2;
        let mut running: Vec<_> = (0..depth).map(|lane| self.start(lane, hiccups)).collect();
        self.deepest = self.deepest.max(self.disk.in_flight());
        let mut done = Vec::new();
        while !running.is_empty() {
            let completion = self.disk.wait().unwrap();
            assert_eq!(completion.status, 0, "I/O {}", self.ios);
            let at = running.iter().position(|t| t.slot == completion.slot);
            done.push(running.swap_remove(at.unwrap()));
        }
        self.rig.no_faults();
        if self.rounds % 8 == 3 {
            self.refuse();
        }
        self.end(done, hiccups);
        if self.rounds % 8 == 4 {
            self.borrowed();
        }
    }

    /// Whole blocks, 512 bytes to 1 MiB, small ones more often, not always powers of two.
    fn length(&mut self, kind: Kind, offset: u64) -> u64 {
        let top = BLOCK << self.random.below(12);
        let len = top - self.random.below(top / BLOCK / 2) * BLOCK;
        match kind {
            Kind::Page => len.min((PAGE - offset) / BLOCK * BLOCK),
            Kind::Window => len.next_multiple_of(PAGE),
            Kind::Peer => BLOCK,
            _ => len,
        }
    }

    /// A kind that this device has on this path.
    fn kind(&mut self, is_plain: bool) -> Kind {
        loop {
            let kind = match self.random.below(24) {
                // The processor is slow at the memory of controllers.
                0 => Kind::Peer,
                other => Kind::ALL[other as usize % 7],
            };
            let is_bounced = self.policy == Policy::Bounced;
            let is_lent = !matches!(kind, Kind::Window | Kind::Peer);
            let may =
                (is_lent || !is_bounced) && (!is_plain || (is_lent && kind != Kind::Coherent));
            if may {
                return kind;
            }
        }
    }

    /// `is_plain`: nothing that has to wait for the SMMU by itself.
    fn start(&mut self, lane: u64, is_plain: bool) -> Transfer {
        self.ios += 1;
        let device = if is_plain {
            0
        } else {
            self.random.below(2) as usize
        };
        let operation = match self.random.below(2) {
            0 => Operation::Read,
            _ => Operation::Write,
        };
        let kind = self.kind(is_plain);
        self.kinds[kind as usize] += 1;
        // A disk's pages follow one another but for the first, which may begin at any word.
        let offset = match (kind, self.random.below(2)) {
            (Kind::Window | Kind::Peer, _) | (_, 0) => 0,
            (Kind::Page, _) => self.random.below((PAGE - BLOCK) / 4) * 4,
            _ => self.random.below(PAGE / 4) * 4,
        };
        let len = self.length(kind, offset);
        let begin = (lane * LANE) as usize;
        let place = begin..begin + len as usize;
        let bytes = match operation {
            Operation::Read => self.model[place].to_vec(),
            Operation::Write => {
                let bytes = self.random.bytes(len as usize);
                self.model[place].copy_from_slice(&bytes);
                bytes
            }
        };
        let (live, segments, around) = self.lend(kind, operation, (lane, device), offset, &bytes);
        let slot = self
            .disk
            .submit(operation, lane * LANE / BLOCK, &segments)
            .unwrap();
        Transfer {
            slot,
            lane,
            live,
            device,
            operation,
            segments,
            around,
            bytes,
        }
    }

    fn lend(
        &mut self,
        kind: Kind,
        operation: Operation,
        (lane, index): (u64, usize),
        offset: u64,
        bytes: &[u8],
    ) -> (Live, Vec<DmaSegment>, Vec<Segment>) {
        let device = &self.devices[index];
        let len = bytes.len() as u64;
        // What a read brings must not be there before it.
        let before: Vec<u8> = match operation {
            Operation::Write => bytes.to_vec(),
            Operation::Read => bytes.iter().map(|byte| !byte).collect(),
        };
        if kind == Kind::Coherent {
            let block = device.alloc_coherent::<u8>(bytes.len(), Attributes::NONE);
            let block = block.unwrap();
            let view = device.view(&block).unwrap();
            for (at, byte) in before.iter().enumerate() {
                view.at(at).unwrap().write(byte);
            }
            let addr = block.dma_addr();
            let segments = vec![DmaSegment { addr, len }];
            return (Live::Coherent(block), segments, Vec::new());
        }
        if kind == Kind::Peer {
            let mapping = self.peer.lend((index, device), lane, &before);
            let segment = DmaSegment {
                len,
                ..mapping.segment()
            };
            return (Live::Peer(mapping), vec![segment], Vec::new());
        }
        let (mut pieces, around) = match kind.is_contiguous() {
            true => buffers::contiguous(self.rig, &mut self.random, len, offset),
            false => buffers::scattered(self.rig, &mut self.random, len, offset),
        };
        buffers::write(&mut pieces, &before);
        let (live, segments) = match operation {
            Operation::Write => {
                let (held, segments) = held::lend(device, kind, pieces, &mut self.random);
                (Live::To(held), segments)
            }
            Operation::Read => {
                let (held, segments) = held::lend(device, kind, pieces, &mut self.random);
                (Live::From(held), segments)
            }
        };
        (live, segments, around)
    }

    /// Ends transfers; then the disk must not reach any of them, which is tried.
    fn end(&mut self, done: Vec<Transfer>, hiccups: bool) {
        let reached = self.reached(&done);
        let queue = hiccups.then(|| self.rig.stop_commands());
        let (mut owed, mut peers, mut ended) = (Owed::default(), Vec::new(), Vec::new());
        for transfer in done {
            let (index, operation) = (transfer.device, transfer.operation);
            let on = (index, &self.devices[index]);
            let bytes = (operation == Operation::Read).then_some(transfer.bytes);
            let around = transfer.around;
            match transfer.live {
                Live::Coherent(block) => {
                    if let Some(bytes) = &bytes {
                        let view = on.1.view(&block).unwrap();
                        let seen = (0..bytes.len()).map(|at| view.at(at).unwrap().read());
                        assert!(seen.eq(bytes.iter().copied()), "I/O {}", self.ios);
                    }
                    on.1.free_coherent(block).unwrap();
                }
                Live::Peer(mapping) => {
                    if let Some(bytes) = &bytes {
                        assert!(
                            self.peer.read(transfer.lane, bytes.len()) == *bytes,
                            "I/O {}",
                            self.ios
                        );
                    }
                    peers.push((index, on.1.unmap_peer(mapping).unwrap()));
                }
                Live::To(held) => {
                    held::take(on, held, self.policy, &mut self.batches, &mut owed);
                    ended.push(Ended { bytes, around });
                }
                Live::From(held) => {
                    held::take(on, held, self.policy, &mut self.batches, &mut owed);
                    ended.push(Ended { bytes, around });
                }
            }
        }
        if let Some(queue) = queue {
            self.nothing_can_be_had();
            queue.go_on();
            self.hiccups += 1;
        }
        let back = self.settle(owed, peers);
        if let Some(attachment) = self.attachment {
            attachment.flush().unwrap();
        }
        for first in reached {
            self.retry(first);
        }
        self.check(ended, back);
    }

    /// While the SMMU takes no commands, nothing that was unmapped comes back.
    fn nothing_can_be_had(&mut self) {
        match self.policy {
            Policy::Lazy => assert!(self.attachment.unwrap().flush().is_err()),
            Policy::Batched => {
                let batch = &mut self.batches.pieces;
                let held = batch.held().debts;
                let closed = self.devices[1].close_batch(batch, |_| panic!("early"));
                assert_eq!(closed.is_err(), held > 0);
                assert_eq!(batch.held().debts, held);
            }
            _ => assert!(self.devices[0].sync().is_err()),
        }
    }

    /// Waits for everything that is owed.
    fn settle(&mut self, owed: Owed, peers: Vec<(usize, Debt<PeerMemory>)>) -> Vec<Pieces> {
        let mut back = Vec::new();
        let devices = self.devices;
        let proofs = [0, 1].map(|device| devices[device].sync().unwrap());
        for (index, debt) in owed.pieces {
            back.push(devices[index].redeem(debt, &proofs[index]).unwrap());
        }
        for (index, debt) in owed.buffers {
            let buffer = devices[index].redeem(debt, &proofs[index]).unwrap();
            back.push(held::alone(buffer));
        }
        for (index, debt) in peers {
            let part = devices[index].redeem(debt, &proofs[index]).unwrap();
            self.peer.take_back(part);
        }
        // Of the domain that the batches are made for.
        let closer = &devices[1];
        let Batches { pieces, buffers } = &mut self.batches;
        closer
            .close_batch(pieces, |pieces| back.push(pieces))
            .unwrap();
        closer
            .close_batch(buffers, |buffer| back.push(held::alone(buffer)))
            .unwrap();
        back
    }

    /// Where the disk could write before, a block of each read; none where nothing takes its reach away.
    fn reached(&self, done: &[Transfer]) -> Vec<DmaSegment> {
        let reads = done.iter().filter(|transfer| {
            let is_read = transfer.operation == Operation::Read;
            let is_lent = matches!(transfer.live, Live::From(_));
            let is_out = self.policy.translates() || (self.policy == Policy::Bounced && is_lent);
            is_read && is_out && transfer.segments[0].len >= BLOCK
        });
        let block = |transfer: &Transfer| DmaSegment {
            len: BLOCK,
            ..transfer.segments[0]
        };
        reads.map(block).collect()
    }

    /// The disk writes to where it must not: that faults, or lands in slots that are nobody's.
    fn retry(&mut self, first: DmaSegment) {
        self.tried += 1;
        let lba = self.random.below(LANES) * LANE / BLOCK;
        self.disk.transfer(Operation::Read, lba, &[first]).unwrap();
        if !self.policy.translates() {
            return;
        }
        let (faults, _) = self.rig.stack().take_faults();
        assert!(!faults.is_empty(), "I/O {}: a stale hit", self.ios);
        let range = first.addr.raw()..first.addr.raw() + first.len;
        assert!(
            faults
                .iter()
                .all(|fault| fault.iova.is_some_and(|at| range.contains(&at.raw())))
        );
    }

    /// What waited in a batch comes back in another order: buffers are told by their place.
    fn check(&mut self, ended: Vec<Ended>, mut back: Vec<Pieces>) {
        for Ended { bytes, around } in ended {
            let at = back.iter().position(|pieces| belongs(pieces, &around));
            let pieces = back.swap_remove(at.unwrap());
            assert!(canaries_hold(&around), "I/O {}", self.ios);
            if let Some(bytes) = bytes {
                assert!(buffers::read(&pieces) == bytes, "I/O {}", self.ios);
            }
            free_all(self.rig, pieces, around);
        }
        assert!(back.is_empty());
    }

    /// Borrowed bytes go to the disk, and come back from it.
    fn borrowed(&mut self) {
        self.ios += 2;
        let lane = self.random.below(LANES);
        let len = BLOCK * (1 + self.random.below(16));
        let sent = self.random.bytes(len as usize);
        let begin = (lane * LANE) as usize;
        self.model[begin..begin + sent.len()].copy_from_slice(&sent);
        let (device, lba) = (
            &self.devices[self.random.below(2) as usize],
            lane * LANE / BLOCK,
        );
        let disk = &mut self.disk;
        device
            .bounce_to_device(&sent, Attributes::NONE, |segment| {
                disk.transfer(Operation::Write, lba, &[segment]).unwrap();
            })
            .unwrap();
        let mut seen = vec![0; sent.len()];
        device
            .bounce_from_device::<FromDevice, ()>(&mut seen, Attributes::NONE, |segment| {
                disk.transfer(Operation::Read, lba, &[segment]).unwrap();
                ((), segment.len)
            })
            .unwrap();
        assert!(seen == sent, "I/O {}", self.ios);
        self.rig.no_faults();
    }

    /// Mappings that cannot be made leave nothing, whatever else is in flight.
    fn refuse(&mut self) {
        let before = self.held();
        let index = self.random.below(2) as usize;
        let device = &self.devices[index];
        let (pieces, around) = buffers::scattered(self.rig, &mut self.random, 8 * PAGE, 0);
        super::rounds::refused_link(device, &pieces);
        self.refused += 1;
        if self.policy == Policy::Bounced {
            assert!(held::refuses_windows(device, &pieces));
            self.peer.refuse((index, device));
        }
        free_all(self.rig, pieces, around);
        assert_eq!(before, self.held(), "I/O {}", self.ios);
    }

    /// Bytes of addresses and leaves that the domain holds, once nothing waits for a flush.
    fn held(&self) -> Option<(u64, u64)> {
        let attachment = self.attachment?;
        attachment.flush().unwrap();
        let counters = attachment.counters();
        Some((counters.iova_bytes, counters.leaves))
    }

    /// Ends it: nothing waits any more.
    pub fn finish(self) -> (Vec<u8>, Disk<'a>) {
        assert_eq!(self.batches.pieces.held().debts, 0);
        assert_eq!(self.batches.buffers.held().debts, 0);
        self.peer.end();
        (self.model, self.disk)
    }
}
