//! A disk's driver that maps its buffers in every way there is.
#![allow(dead_code, reason = "each test uses a part")]

use dmakit_addr::{Attributes, DirectionType, DmaMask, FromDevice, Iova, IovaRange, ToDevice};
use dmakit_dma::{
    Batch, BatchConfig, Coherent, Debt, DmaMemory, DmaSegment, Mapping, ScatterList, Sealed,
};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuBuffer, Segment, SegmentRequest};
use dmakit_qemu::devices::nvme::Operation;
use dmakit_qemu::smmu::{Port, PortDevice};
use dmakit_swiotlb::{BounceConfig, BouncePool};

use crate::disk::{Disk, Random, Rig};

const NONE: Attributes = Attributes::NONE;
const PAGE: u64 = 4096;
const BLOCK: u64 = 512;
/// Each command in flight has a part of the disk of its own.
pub const LANES: u64 = 63;
pub const LANE: u64 = 1 << 20;

pub type List = ScatterList<Vec<CpuBuffer>>;

/// When unmapped memory is out of reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Strict,
    Batched,
    Lazy,
}

/// How a buffer is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Single,
    Scatter,
    Request,
    Coherent,
}

const KINDS: [Kind; 4] = [Kind::Single, Kind::Scatter, Kind::Request, Kind::Coherent];

/// A bounce pool of 1 MiB.
pub fn pool(rig: &Rig) -> BouncePool<HostPlatform> {
    let request = SegmentRequest {
        len: 1 << 20,
        align: 1 << 16,
        node: None,
        limit: DmaMask::ALL,
    };
    let segment = rig.stack.memory().allocate(&request).unwrap();
    let platform = rig.stack.machine().platform();
    let config = BounceConfig {
        // What is used is then exact.
        credit_batch: 0,
        ..BounceConfig::default()
    };
    BouncePool::new(platform, segment, &config).unwrap()
}

/// Gives a pool's memory back.
pub fn end_pool(rig: &Rig, pool: BouncePool<HostPlatform>) {
    let Ok(segment) = pool.dismantle() else {
        panic!("slots are in use");
    };
    rig.stack.memory().free(segment.unwrap()).unwrap();
}

fn segment(rig: &Rig, len: u64, node: u64) -> Segment {
    let request = SegmentRequest {
        len: len.next_multiple_of(PAGE),
        align: PAGE,
        node: Some(dmakit_addr::NodeId::new(node as u16)),
        limit: DmaMask::ALL,
    };
    rig.stack.memory().allocate(&request).unwrap()
}

/// `len` bytes in single pages from all over both nodes, the first `offset` bytes into its page, and
/// the memory around them, which holds canaries.
pub fn scattered(rig: &Rig, random: &mut Random, len: u64, offset: u64) -> (List, Vec<Segment>) {
    let pages = (offset + len).div_ceil(PAGE);
    let mut pieces: Vec<_> = (0..pages).map(|i| segment(rig, PAGE, i % 2)).collect();
    for left in (2..=pieces.len()).rev() {
        pieces.swap(left - 1, random.below(left as u64) as usize);
    }
    cut(pieces, len, offset)
}

/// `len` bytes in one piece.
pub fn contiguous(rig: &Rig, random: &mut Random, len: u64, offset: u64) -> (List, Vec<Segment>) {
    let piece = segment(rig, offset + len, random.below(2));
    cut(vec![piece], len, offset)
}

fn cut(pieces: Vec<Segment>, len: u64, offset: u64) -> (List, Vec<Segment>) {
    let (mut buffers, mut around) = (Vec::new(), Vec::new());
    let (mut left, mut skip) = (len, offset);
    for piece in pieces {
        piece.window().fill(0xee);
        let (before, rest) = piece.split_at(skip).unwrap();
        let here = rest.len().min(left);
        let (body, after) = rest.split_at(here).unwrap();
        buffers.push(CpuBuffer::from_segment(body, here).unwrap());
        around.extend([before, after]);
        (left, skip) = (left - here, 0);
    }
    (ScatterList::new(buffers).unwrap(), around)
}

pub fn canaries_hold(around: &[Segment]) -> bool {
    around.iter().all(|segment| {
        let mut bytes = vec![0; segment.len() as usize];
        segment.window().read(&mut bytes);
        bytes.iter().all(|&byte| byte == 0xee)
    })
}

pub fn write(list: &mut List, bytes: &[u8]) {
    assert_eq!(DmaMemory::write(list, 0, bytes), bytes.len());
}

pub fn read(list: &List) -> Vec<u8> {
    let len: u64 = list.runs().map(|run| run.len()).sum();
    let mut bytes = vec![0; len as usize];
    DmaMemory::read(list, 0, &mut bytes);
    bytes
}

/// Puts a buffer and what was around it together again, and gives it back.
pub fn free_all(rig: &Rig, list: List, around: Vec<Segment>) {
    let store = rig.stack.memory();
    let mut around = around.into_iter();
    for buffer in list.into_buffers() {
        let body = buffer.into_segment().unwrap();
        let (before, after) = (around.next().unwrap(), around.next().unwrap());
        let whole = Segment::merge(before, body).unwrap();
        let whole = Segment::merge(whole, after).unwrap();
        store.free(whole).unwrap();
    }
}

pub fn free(rig: &Rig, list: List) {
    for buffer in list.into_buffers() {
        rig.stack
            .memory()
            .free(buffer.into_segment().unwrap())
            .unwrap();
    }
}

/// Links all of a list to a request.
pub fn link_all<D: DirectionType>(device: &PortDevice<'_>, list: &List) -> Sealed<D> {
    let len = list.runs().map(|run| run.len()).sum();
    let first = list.runs().next().unwrap().start();
    let mut request = device.reserve::<D>(first, len, 1, NONE).unwrap();
    for buffer in list.buffers() {
        let run = buffer.runs().next().unwrap();
        device.link(&mut request, run, buffer).unwrap();
    }
    device.seal(request).unwrap()
}

/// A buffer in the disk's hands.
enum Lent<D: DirectionType> {
    Mapping(Mapping<D, List>),
    Request(Sealed<D>, List),
}

enum Live {
    To(Lent<ToDevice>),
    From(Lent<FromDevice>),
    Coherent(Coherent<u8>),
}

struct Transfer {
    slot: u16,
    live: Live,
    device: usize,
    operation: Operation,
    at: IovaRange,
    around: Vec<Segment>,
    /// What memory must hold afterwards.
    bytes: Vec<u8>,
}

pub struct Load<'a> {
    rig: &'a Rig,
    port: &'a Port,
    devices: &'a [PortDevice<'a>; 2],
    disk: &'a mut Disk,
    policy: Policy,
    batch: Batch<List>,
    random: Random,
    /// What the disk must hold.
    pub model: Vec<u8>,
    pub ios: u64,
    pub kinds: [u64; 4],
}

impl<'a> Load<'a> {
    pub fn new(
        rig: &'a Rig,
        port: &'a Port,
        devices: &'a [PortDevice<'a>; 2],
        disk: &'a mut Disk,
        policy: Policy,
        seed: u64,
    ) -> Self {
        let domain = match policy {
            // Of the device that is never lazy.
            Policy::Lazy => devices[1].domain(),
            Policy::Strict | Policy::Batched => devices[0].domain(),
        };
        let config = BatchConfig {
            debts: 128,
            ..BatchConfig::default()
        };
        Self {
            rig,
            port,
            devices,
            disk,
            policy,
            batch: Batch::new(domain, config).unwrap(),
            random: Random(seed),
            model: vec![0; (LANES * LANE) as usize],
            ios: 0,
            kinds: [0; 4],
        }
    }

    /// Starts some transfers, waits for all, ends and checks each.
    pub fn round(&mut self) {
        let depth = match self.random.below(4) {
            0 => 1,
            1 => LANES,
            _ => 1 + self.random.below(LANES),
        };
        let mut running: Vec<_> = (0..depth).map(|lane| self.start(lane)).collect();
        let mut done = Vec::new();
        while !running.is_empty() {
            let completion = self.disk.wait().unwrap();
            assert_eq!(completion.status, 0, "I/O {}", self.ios);
            let at = running.iter().position(|t| t.slot == completion.slot);
            done.push(running.swap_remove(at.unwrap()));
        }
        self.rig.no_faults();
        self.end(done);
    }

    fn length(&mut self) -> u64 {
        // 512 bytes to 1 MiB, small ones more often, not always powers of two.
        let top = BLOCK << self.random.below(12);
        top - self.random.below(top / BLOCK / 2) * BLOCK
    }

    fn start(&mut self, lane: u64) -> Transfer {
        self.ios += 1;
        let len = self.length();
        let device = self.random.below(2) as usize;
        let operation = match self.random.below(2) {
            0 => Operation::Read,
            _ => Operation::Write,
        };
        let kind = KINDS[self.random.below(4) as usize];
        self.kinds[kind as usize] += 1;
        // A disk's pages follow one another but for the first, which may begin at any word.
        let offset = match self.random.below(2) {
            0 => 0,
            _ => self.random.below(PAGE / 4) * 4,
        };
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
        let (live, at, around) = self.lend(kind, operation, device, offset, &bytes);
        let slot = self
            .disk
            .submit(operation, lane * LANE / BLOCK, at)
            .unwrap();
        Transfer {
            slot,
            live,
            device,
            operation,
            at,
            around,
            bytes,
        }
    }

    fn lend(
        &mut self,
        kind: Kind,
        operation: Operation,
        device: usize,
        offset: u64,
        bytes: &[u8],
    ) -> (Live, IovaRange, Vec<Segment>) {
        let len = bytes.len() as u64;
        let to_range = |segment: DmaSegment| {
            IovaRange::new(Iova::new(segment.addr.raw()), segment.len).unwrap()
        };
        let on = &self.devices[device];
        if kind == Kind::Coherent {
            let block = on.alloc_coherent::<u8>(len as usize, NONE).unwrap();
            let view = on.view(&block).unwrap();
            if operation == Operation::Write {
                for (index, byte) in bytes.iter().enumerate() {
                    view.at(index).unwrap().write(byte);
                }
            }
            let (addr, len) = (block.dma_addr(), len);
            return (
                Live::Coherent(block),
                to_range(DmaSegment { addr, len }),
                Vec::new(),
            );
        }
        let (mut list, around) = match kind {
            Kind::Single => contiguous(self.rig, &mut self.random, len, offset),
            _ => scattered(self.rig, &mut self.random, len, offset),
        };
        if operation == Operation::Write {
            write(&mut list, bytes);
        }
        let (live, segment) = match operation {
            Operation::Write => {
                let (lent, segment) = lend::<ToDevice>(on, kind, list);
                (Live::To(lent), segment)
            }
            Operation::Read => {
                let (lent, segment) = lend::<FromDevice>(on, kind, list);
                (Live::From(lent), segment)
            }
        };
        (live, to_range(segment), around)
    }

    /// Ends transfers; then the disk must not reach any of them, which is tried with one.
    fn end(&mut self, done: Vec<Transfer>) {
        let reads = done
            .iter()
            .filter(|transfer| transfer.operation == Operation::Read);
        let reads: Vec<IovaRange> = reads.map(|transfer| transfer.at).collect();
        let picked = self.random.below(reads.len() as u64) as usize;
        let tried = reads.get(picked).map(|at| at.slice(0, BLOCK).unwrap());
        let mut debts = Vec::new();
        let mut ended = Vec::new();
        for transfer in done {
            let Transfer {
                live,
                device,
                operation,
                around,
                bytes,
                ..
            } = transfer;
            let on = &self.devices[device];
            let checked = (operation == Operation::Read).then_some(bytes);
            match live {
                Live::Coherent(block) => {
                    if let Some(bytes) = &checked {
                        let view = on.view(&block).unwrap();
                        let seen = (0..bytes.len()).map(|at| view.at(at).unwrap().read());
                        assert!(seen.eq(bytes.iter().copied()), "I/O {}", self.ios);
                    }
                    on.free_coherent(block).unwrap();
                }
                Live::To(lent) => {
                    let debt = take::<ToDevice>(on, lent, self.policy, &mut self.batch);
                    debts.extend(debt.map(|debt| (device, debt)));
                    ended.push((checked, around));
                }
                Live::From(lent) => {
                    let debt = take::<FromDevice>(on, lent, self.policy, &mut self.batch);
                    debts.extend(debt.map(|debt| (device, debt)));
                    ended.push((checked, around));
                }
            }
        }
        let mut lists = self.settle(debts);
        self.port.flush().unwrap();
        if let Some(first) = tried {
            self.retry(first);
        }
        // What waited in a batch comes back in another order: buffers are told by their place.
        for (checked, around) in ended {
            let at = lists
                .iter()
                .position(|list| belongs(list, &around))
                .unwrap();
            let list = lists.swap_remove(at);
            assert!(canaries_hold(&around), "I/O {}", self.ios);
            if let Some(bytes) = checked {
                assert!(read(&list) == bytes, "I/O {}", self.ios);
            }
            free_all(self.rig, list, around);
        }
        assert!(lists.is_empty());
    }

    /// Waits for everything that is owed.
    fn settle(&mut self, debts: Vec<(usize, Debt<List>)>) -> Vec<List> {
        let mut lists = Vec::new();
        let proofs = [0, 1].map(|device| self.devices[device].sync().unwrap());
        for (device, debt) in debts {
            let list = self.devices[device].redeem(debt, &proofs[device]).unwrap();
            lists.push(list);
        }
        let closer = &self.devices[1];
        closer
            .close_batch(&mut self.batch, |list| lists.push(list))
            .unwrap();
        lists
    }

    /// The disk writes to where it must not.
    fn retry(&mut self, first: IovaRange) {
        let lba = self.random.below(LANES) * LANE / BLOCK;
        self.disk.transfer(Operation::Read, lba, first).unwrap();
        let (faults, _) = self.rig.stack.take_faults();
        assert!(!faults.is_empty(), "I/O {}: a stale hit", self.ios);
        assert!(
            faults
                .iter()
                .all(|fault| fault.iova.is_some_and(|at| first.contains(at)))
        );
    }

    pub fn finish(&mut self) {
        assert_eq!(self.batch.held().debts, 0);
    }
}

/// Whether this memory was cut out between these pieces.
fn belongs(list: &List, around: &[Segment]) -> bool {
    let start = list.runs().next().unwrap().start();
    start == around[0].range().end()
}

fn lend<D: DirectionType>(
    device: &PortDevice<'_>,
    kind: Kind,
    list: List,
) -> (Lent<D>, DmaSegment) {
    if kind == Kind::Request {
        let sealed = link_all::<D>(device, &list);
        let segment = sealed.segment().unwrap();
        return (Lent::Request(sealed, list), segment);
    }
    let mut segments = [DmaSegment::default(); 2];
    let mapping = device
        .map_scatter::<D, _>(list, NONE, &mut segments)
        .unwrap();
    assert_eq!(mapping.segment_count(), 1, "one range of addresses");
    (Lent::Mapping(mapping), segments[0])
}

/// Takes a buffer back; what is owed for it, unless it waits in the batch.
fn take<D: DirectionType>(
    device: &PortDevice<'_>,
    lent: Lent<D>,
    policy: Policy,
    batch: &mut Batch<List>,
) -> Option<Debt<List>> {
    let none = core::iter::empty;
    match (lent, policy) {
        (Lent::Mapping(mapping), Policy::Batched) if !mapping.is_bounced() => {
            device
                .unmap_batched(batch, mapping, |_| panic!("it waits"))
                .unwrap();
            None
        }
        (Lent::Request(sealed, list), Policy::Batched) if !sealed.is_bounced() => {
            device
                .destroy_batched(batch, sealed, list, none(), |_| panic!("it waits"))
                .unwrap()
                .unwrap();
            None
        }
        (Lent::Mapping(mapping), _) => Some(device.unmap(mapping).unwrap()),
        (Lent::Request(sealed, list), _) => Some(device.destroy(sealed, list, none()).unwrap()),
    }
}
