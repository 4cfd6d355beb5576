//! Buffers, what lies around them, and the pool that copies them.

use dmakit_addr::{DmaMask, NodeId};
use dmakit_dma::{DmaMemory, ScatterList};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuBuffer, Segment, SegmentRequest};
use dmakit_qemu::pieces::Pieces;
use dmakit_swiotlb::{BounceConfig, BouncePool};

use crate::disk::{Random, Rig};

pub const PAGE: u64 = 4096;

/// What memory around buffers holds.
const CANARY: u8 = 0xee;

/// A bounce pool of `bytes`, which a device of `mask` reaches.
pub fn pool(rig: &Rig, mask: DmaMask, bytes: u64) -> BouncePool<HostPlatform> {
    let request = SegmentRequest {
        len: bytes,
        align: 1 << 16,
        node: None,
        limit: mask,
    };
    let segment = rig.memory.allocate(&request).unwrap();
    let config = BounceConfig {
        // What is used is then exact.
        credit_batch: 0,
        ..BounceConfig::default()
    };
    BouncePool::new(rig.machine.platform(), segment, &config).unwrap()
}

/// Gives a pool's memory back.
pub fn end_pool(rig: &Rig, pool: BouncePool<HostPlatform>) {
    let Ok(segment) = pool.dismantle() else {
        panic!("slots are in use");
    };
    rig.memory.free(segment.unwrap()).unwrap();
}

fn segment(rig: &Rig, len: u64, node: u64) -> Segment {
    let request = SegmentRequest {
        len: len.next_multiple_of(PAGE),
        align: PAGE,
        node: Some(NodeId::new(node as u16)),
        limit: DmaMask::ALL,
    };
    rig.memory.allocate(&request).unwrap()
}

/// `len` bytes in single pages from all over both nodes, the first `offset` bytes into its page, and
/// the memory around them, which holds canaries.
pub fn scattered(rig: &Rig, random: &mut Random, len: u64, offset: u64) -> (Pieces, Vec<Segment>) {
    let pages = (offset + len).div_ceil(PAGE);
    let mut pieces: Vec<_> = (0..pages).map(|i| segment(rig, PAGE, i % 2)).collect();
    for left in (2..=pieces.len()).rev() {
        pieces.swap(left - 1, random.below(left as u64) as usize);
    }
    cut(pieces, len, offset)
}

/// `len` bytes in one piece.
pub fn contiguous(rig: &Rig, random: &mut Random, len: u64, offset: u64) -> (Pieces, Vec<Segment>) {
    let piece = segment(rig, offset + len, random.below(2));
    cut(vec![piece], len, offset)
}

fn cut(pieces: Vec<Segment>, len: u64, offset: u64) -> (Pieces, Vec<Segment>) {
    let (mut buffers, mut around) = (Vec::new(), Vec::new());
    let (mut left, mut skip) = (len, offset);
    for piece in pieces {
        piece.window().fill(CANARY);
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
        bytes.iter().all(|&byte| byte == CANARY)
    })
}

pub fn write(pieces: &mut Pieces, bytes: &[u8]) {
    assert_eq!(DmaMemory::write(pieces, 0, bytes), bytes.len());
}

pub fn read(pieces: &Pieces) -> Vec<u8> {
    let mut bytes = vec![0; len(pieces) as usize];
    DmaMemory::read(pieces, 0, &mut bytes);
    bytes
}

pub fn len(pieces: &Pieces) -> u64 {
    pieces.runs().map(|run| run.len()).sum()
}

/// Whether this memory was cut out between these pieces.
pub fn belongs(pieces: &Pieces, around: &[Segment]) -> bool {
    let start = pieces.runs().next().unwrap().start();
    start == around[0].range().end()
}

/// Puts a buffer and what was around it together again, and gives it back.
pub fn free_all(rig: &Rig, pieces: Pieces, around: Vec<Segment>) {
    let mut around = around.into_iter();
    for buffer in pieces.into_buffers() {
        let body = buffer.into_segment().unwrap();
        let (before, after) = (around.next().unwrap(), around.next().unwrap());
        let whole = Segment::merge(before, body).unwrap();
        let whole = Segment::merge(whole, after).unwrap();
        rig.memory.free(whole).unwrap();
    }
}
