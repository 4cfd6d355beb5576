//! Owners of movable memory whose contents are checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
use dmakit_phys::{
    Frame, Frames, FreeReason, MemoryKind, MemoryMap, Migrate, Migration, MigrationCause,
    MovableMemory, PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::Instant;

use super::machine::Machine;

pub type Memory = MovableMemory<Machine, Vec<Frame>, Owners>;

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
    build_map(&map, &[], owners)
}

pub fn build_map(map: &MemoryMap, limits: &[DmaMask], owners: Owners) -> Memory {
    type Allocator = PageAllocator<Machine, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(map) as usize];
    let allocator = Allocator::new(map, limits, table).unwrap();
    MovableMemory::new(owners.machine.clone(), allocator, owners)
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
    asked: u64,
    denied: Option<u64>,
    /// For these causes the gate is closed as a whole.
    closed: Vec<MigrationCause>,
}

/// Run when a mover is asked, before it answers, with how often any was asked before.
type Interlude = Box<dyn FnMut(u64) + Send>;

#[derive(Clone)]
pub struct Owners {
    machine: Machine,
    held: Arc<Mutex<Held>>,
    interlude: Arc<Mutex<Option<Interlude>>>,
}

impl Owners {
    pub fn new() -> Self {
        Self {
            machine: Machine::new(),
            held: Arc::default(),
            interlude: Arc::default(),
        }
    }

    /// Takes over an allocation and writes to it.
    pub fn keep(&self, frames: Frames) {
        let mut held = self.held.lock().unwrap();
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
        self.held.lock().unwrap().aside.push(frames);
    }

    pub fn free_aside(&self, memory: &Memory) {
        let aside = std::mem::take(&mut self.held.lock().unwrap().aside);
        for frames in aside {
            memory.allocator().free(frames).unwrap();
        }
    }

    /// The allocation at `start` refuses so many times.
    pub fn refuse(&self, start: Pfn, reason: Refusal, times: u32) {
        let mut held = self.held.lock().unwrap();
        held.refusals.insert(start.raw(), (reason, times));
    }

    /// Nobody refuses any more.
    pub fn forgive(&self) {
        let mut held = self.held.lock().unwrap();
        held.refusals.clear();
        held.denied = None;
        held.closed.clear();
    }

    /// Closes the gate for a cause as a whole.
    pub fn close(&self, cause: MigrationCause) {
        self.held.lock().unwrap().closed.push(cause);
    }

    /// How often the gate was asked about an allocation.
    pub fn asked(&self) -> u64 {
        self.held.lock().unwrap().asked
    }

    /// Closes the gate for the question that is asked after so many.
    pub fn deny(&self, after: u64) {
        let mut held = self.held.lock().unwrap();
        held.denied = Some(held.asked + after);
    }

    pub fn meanwhile(&self, interlude: impl FnMut(u64) + Send + 'static) {
        *self.interlude.lock().unwrap() = Some(Box::new(interlude));
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn ranges(&self) -> Vec<PfnRange> {
        let held = self.held.lock().unwrap();
        held.live
            .values()
            .map(|(frames, _)| frames.range())
            .collect()
    }

    /// The allocations, each with a number that stays when it moves.
    pub fn numbered(&self) -> Vec<(u64, PfnRange)> {
        let held = self.held.lock().unwrap();
        let live = held.live.values();
        live.map(|(frames, words)| (words[0], frames.range()))
            .collect()
    }

    /// Every frame contains what its owner wrote.
    pub fn check_all(&self) {
        let held = self.held.lock().unwrap();
        for (start, (_, words)) in &held.live {
            for (frame, word) in (*start..).zip(words) {
                assert_eq!(held.contents.get(&frame), Some(word), "frame {frame:#x}");
            }
        }
    }

    pub fn try_free(&self, memory: &Memory, start: Pfn) -> Result<(), FreeReason> {
        let mut held = self.held.lock().unwrap();
        let Some((frames, words)) = held.live.remove(&start.raw()) else {
            return Err(FreeReason::NotTaken);
        };
        memory.allocator().free(frames).map_err(|error| {
            held.live.insert(start.raw(), (error.frames, words));
            error.reason
        })
    }

    pub fn free_all(&self, memory: &Memory) {
        let live = std::mem::take(&mut self.held.lock().unwrap().live);
        for (_, (frames, _)) in live {
            memory.allocator().free(frames).unwrap();
        }
    }
}

impl Migrate for Owners {
    fn pause(&self, until: Instant) {
        self.machine.sleep(until);
    }

    fn permits_cause(&self, cause: MigrationCause) -> bool {
        !self.held.lock().unwrap().closed.contains(&cause)
    }

    fn permits(&self, _migration: &Migration) -> bool {
        let mut held = self.held.lock().unwrap();
        held.asked += 1;
        held.denied != Some(held.asked - 1)
    }

    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let asked = self.held.lock().unwrap().asked;
        let interlude = self.interlude.lock().unwrap().take();
        if let Some(mut interlude) = interlude {
            interlude(asked);
            // One that has set another has had its turn.
            self.interlude.lock().unwrap().get_or_insert(interlude);
        }
        let mut held = self.held.lock().unwrap();
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
