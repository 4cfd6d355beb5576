//! Owners of movable memory whose contents are checked.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dmakit_addr::{NodeId, Pfn, PfnRange};
use dmakit_phys::{
    Frame, Frames, FreeReason, MemoryKind, MemoryMap, Migrate, Migration, MovableMemory,
    PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::host::HostPlatform;

pub type Memory = MovableMemory<HostPlatform, Vec<Frame>, Owners>;

pub fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

pub fn build(ranges: &[(u64, u64, u16)], owners: Owners) -> Memory {
    let mut map = MemoryMap::new(4);
    for (start, len, node) in ranges {
        let region = Region {
            range: frames(*start, *len),
            node: NodeId::new(*node),
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table).unwrap();
    MovableMemory::new(HostPlatform::new(1), allocator, owners)
}

/// One word stands for the contents of each frame.
#[derive(Default)]
struct Held {
    /// By first frame: the token, and what its frames have to contain.
    live: BTreeMap<u64, (Frames, Vec<u64>)>,
    contents: BTreeMap<u64, u64>,
    aside: Vec<Frames>,
    refusals: BTreeMap<u64, (Refusal, u32)>,
    next: u64,
}

#[derive(Clone, Default)]
pub struct Owners(Arc<Mutex<Held>>);

impl Owners {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over an allocation and writes to it.
    pub fn keep(&self, frames: Frames) {
        let mut held = self.0.lock().unwrap();
        let range = frames.range();
        let mut words = Vec::new();
        for frame in range.start().raw()..range.end().raw() {
            held.next += 1;
            let word = held.next;
            held.contents.insert(frame, word);
            words.push(word);
        }
        held.live.insert(range.start().raw(), (frames, words));
    }

    pub fn set_aside(&self, frames: Frames) {
        self.0.lock().unwrap().aside.push(frames);
    }

    pub fn free_aside(&self, memory: &Memory) {
        let aside = std::mem::take(&mut self.0.lock().unwrap().aside);
        for frames in aside {
            memory.allocator().free(frames).unwrap();
        }
    }

    /// The allocation at `start` refuses so many times.
    pub fn refuse(&self, start: Pfn, reason: Refusal, times: u32) {
        let mut held = self.0.lock().unwrap();
        held.refusals.insert(start.raw(), (reason, times));
    }

    pub fn ranges(&self) -> Vec<PfnRange> {
        let held = self.0.lock().unwrap();
        held.live
            .values()
            .map(|(frames, _)| frames.range())
            .collect()
    }

    /// Every frame contains what its owner wrote.
    pub fn check_all(&self) {
        let held = self.0.lock().unwrap();
        for (start, (_, words)) in &held.live {
            for (frame, word) in (*start..).zip(words) {
                assert_eq!(held.contents.get(&frame), Some(word), "frame {frame:#x}");
            }
        }
    }

    pub fn try_free(&self, memory: &Memory, start: Pfn) -> Result<(), FreeReason> {
        let mut held = self.0.lock().unwrap();
        let (frames, words) = held.live.remove(&start.raw()).unwrap();
        memory.allocator().free(frames).map_err(|error| {
            held.live.insert(start.raw(), (error.frames, words));
            error.reason
        })
    }

    pub fn free_all(&self, memory: &Memory) {
        let live = std::mem::take(&mut self.0.lock().unwrap().live);
        for (_, (frames, _)) in live {
            memory.allocator().free(frames).unwrap();
        }
    }
}

impl Migrate for Owners {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut held = self.0.lock().unwrap();
        let start = migration.from.start().raw();
        if let Some((reason, times)) = held.refusals.get_mut(&start) {
            if *times > 0 {
                *times -= 1;
                return Err(Refused {
                    to,
                    reason: *reason,
                });
            }
        }
        let Some((old, words)) = held.live.remove(&start) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        assert_eq!(old.range(), migration.from);
        assert_eq!(to.range().len(), migration.from.len());
        let there = to.range().start().raw();
        for offset in 0..migration.from.len() {
            // The old frames are anybody's from now on.
            let word = held.contents.remove(&(start + offset)).unwrap();
            held.contents.insert(there + offset, word);
        }
        held.live.insert(there, (to, words));
        Ok(old)
    }
}
