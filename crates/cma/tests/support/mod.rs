//! A machine with areas, and owners of movable memory whose contents are checked.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
use dmakit_cma::{AreaRequest, Areas, InactiveAreas, Outcome, Reserved, reserve};
use dmakit_phys::{
    ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration,
    MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::Instant;
use dmakit_platform::host::HostPlatform;

pub type Memory = MovableMemory<HostPlatform, Vec<Frame>, Owners>;
pub type TestAreas<'m> = Areas<'m, HostPlatform, Vec<Frame>, Owners>;

pub const MOVER: MoverId = MoverId::new(1);

pub const PATIENT: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 3,
};

pub fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

/// Usable memory by first frame, frames and node.
pub fn map(regions: &[(u64, u64, u16)]) -> MemoryMap {
    let mut map = MemoryMap::new(4);
    for (start, len, node) in regions {
        let region = Region {
            range: frames(*start, *len),
            node: NodeId::new(*node),
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    map
}

/// The areas that are there; requests must not fail.
pub fn reserved(map: &mut MemoryMap, requests: &[AreaRequest]) -> Vec<Reserved> {
    let done = reserve(map, &[], requests.iter().copied());
    let areas = done.into_iter().map(|one| match one.outcome {
        Outcome::Reserved(reserved) => reserved,
        _ => panic!("{one}"),
    });
    areas.collect()
}

pub fn memory(map: &MemoryMap) -> Memory {
    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(map) as usize];
    let allocator = Allocator::new(map, &[], table).unwrap();
    MovableMemory::new(HostPlatform::new(1), allocator, Owners::default())
}

pub fn activate(memory: &Memory, reserved: Vec<Reserved>) -> TestAreas<'_> {
    let (areas, failed) = InactiveAreas::new(reserved).activate(memory);
    assert!(failed.is_empty(), "{failed:?}");
    areas
}

/// Frames of a machine, at most.
const FRAMES_MAX: usize = 1 << 23;

struct Held {
    /// One word stands for the contents of a frame; 0 for those of nobody. Only what is touched is
    /// paid for.
    contents: Vec<u64>,
    /// By first frame: the token, and the word in its first frame.
    live: BTreeMap<u64, (Frames, u64)>,
    /// By first frame: why it does not move, and how often.
    refusals: BTreeMap<u64, (Refusal, u32)>,
    words: u64,
    moves: u64,
    /// The next so many migrations are refused.
    refuse_next: Option<(u64, Refusal)>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            contents: vec![0; FRAMES_MAX],
            live: BTreeMap::new(),
            refusals: BTreeMap::new(),
            words: 0,
            moves: 0,
            refuse_next: None,
        }
    }
}

impl Held {
    fn contents_of(&mut self, range: PfnRange) -> &mut [u64] {
        &mut self.contents[range.start().raw() as usize..range.end().raw() as usize]
    }

    fn write(&mut self, range: PfnRange) -> u64 {
        let first = self.words + 1;
        self.words += range.len();
        for (contents, word) in self.contents_of(range).iter_mut().zip(first..) {
            *contents = word;
        }
        first
    }

    fn check(&self, range: PfnRange, first: u64) {
        for (frame, word) in (range.start().raw()..range.end().raw()).zip(first..) {
            assert_eq!(self.contents[frame as usize], word, "frame {frame:#x}");
        }
    }
}

/// All movable memory of the machine, and whatever else is written to its frames.
#[derive(Default)]
pub struct Owners(Mutex<Held>);

impl Owners {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    /// Takes over movable memory and writes to it.
    pub fn keep(&self, frames: Frames) {
        let mut held = self.held();
        let range = frames.range();
        let word = held.write(range);
        held.live.insert(range.start().raw(), (frames, word));
    }

    /// Frees so many movable allocations, the lowest first, as several CPUs may at once.
    pub fn free_some(&self, memory: &Memory, count: usize) {
        for _ in 0..count {
            let mut held = self.held();
            let Some((_, (frames, word))) = held.live.pop_first() else {
                return;
            };
            held.check(frames.range(), word);
            held.contents_of(frames.range()).fill(0);
            drop(held);
            memory.allocator().free(frames).unwrap();
        }
    }

    /// Takes an allocation back that it has the contents of.
    pub fn give_back(&self, frames: Frames) {
        let mut held = self.held();
        let start = frames.range().start().raw();
        let word = held.contents[start as usize];
        held.live.insert(start, (frames, word));
    }

    /// Writes to frames that are claimed: the word of the first.
    pub fn write(&self, range: PfnRange) -> u64 {
        self.held().write(range)
    }

    /// What was written to claimed frames is still there.
    pub fn check(&self, range: PfnRange, first: u64) {
        self.held().check(range, first);
    }

    /// Every movable allocation still has what its owner wrote.
    pub fn check_all(&self) {
        let held = self.held();
        for (frames, word) in held.live.values() {
            held.check(frames.range(), *word);
        }
    }

    /// The allocation at `start` refuses to move so many times.
    pub fn refuse(&self, start: Pfn, reason: Refusal, times: u32) {
        self.held().refusals.insert(start.raw(), (reason, times));
    }

    /// The allocation at `start` moves from now on.
    pub fn permit(&self, start: Pfn) {
        self.held().refusals.remove(&start.raw());
    }

    /// The movable allocation that starts at `start`.
    pub fn range_at(&self, start: Pfn) -> Option<PfnRange> {
        let held = self.held();
        held.live
            .get(&start.raw())
            .map(|(frames, _)| frames.range())
    }

    /// The movable allocation that starts at `start` still has what its owner wrote.
    pub fn check_at(&self, start: Pfn) {
        let held = self.held();
        if let Some((frames, word)) = held.live.get(&start.raw()) {
            held.check(frames.range(), *word);
        }
    }

    /// The migration after `after` others refuses, whatever it is about.
    pub fn refuse_after(&self, after: u64, reason: Refusal) {
        self.held().refuse_next = Some((after, reason));
    }

    pub fn ranges(&self) -> Vec<PfnRange> {
        self.held()
            .live
            .values()
            .map(|(frames, _)| frames.range())
            .collect()
    }

    /// Frames that were moved.
    pub fn moves(&self) -> u64 {
        self.held().moves
    }

    /// Takes an allocation away from its owner, its contents checked.
    pub fn take(&self, start: Pfn) -> Option<Frames> {
        let mut held = self.held();
        let (frames, word) = held.live.remove(&start.raw())?;
        held.check(frames.range(), word);
        Some(frames)
    }
}

impl Migrate for Owners {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut held = self.held();
        let start = migration.from.start().raw();
        let named = match held.refusals.get_mut(&start) {
            Some((reason, times)) if *times > 0 => {
                *times -= 1;
                Some(*reason)
            }
            _ => None,
        };
        let counted = match &mut held.refuse_next {
            Some((0, reason)) => Some(*reason),
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        };
        if counted.is_some() {
            held.refuse_next = None;
        }
        if let Some(reason) = named.or(counted) {
            return Err(Refused { to, reason });
        }
        let Some((old, word)) = held.live.remove(&start) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        assert_eq!(
            (old.range(), to.range().len()),
            (migration.from, old.range().len())
        );
        held.check(old.range(), word);
        let from = start as usize..old.range().end().raw() as usize;
        let there = to.range().start().raw();
        held.contents.copy_within(from, there as usize);
        // The old frames are anybody's from now on.
        held.contents_of(old.range()).fill(0);
        held.moves += to.range().len();
        held.live.insert(there, (to, word));
        Ok(old)
    }
}

/// Movable allocations of `len` frames until there is no more memory.
pub fn fill(memory: &Memory, len: u64) {
    while let Ok(frames) = memory
        .allocator()
        .allocate(&FrameRequest::movable(len, MOVER))
    {
        memory.movers().keep(frames);
    }
}

/// Frees the movable allocations for which `frees` says so.
pub fn free_if(memory: &Memory, mut frees: impl FnMut(PfnRange) -> bool) {
    for range in memory.movers().ranges() {
        if frees(range) {
            let frames = memory.movers().take(range.start()).unwrap();
            memory.allocator().free(frames).unwrap();
        }
    }
}

pub fn claim(frames: u64, align_order: u32) -> dmakit_cma::AreaClaim {
    dmakit_cma::AreaClaim {
        frames,
        align_order,
        limit: DmaMask::ALL,
    }
}
