//! Ranges that wait for a flush before their addresses are used again.

use std::collections::VecDeque;

/// One fewer than the ring has places.
const USABLE: usize = 255;

/// An unmapped range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    pub start: u64,
    pub granules: u64,
    /// Since when hardware may use it; `None` once it has forgotten it.
    pub since_ns: Option<u64>,
}

/// One ring for each CPU.
#[derive(Clone, Debug)]
pub(super) struct FlushQueue {
    rings: Vec<VecDeque<Waiting>>,
    granules: u64,
    /// When the timer fires, and on which CPU.
    pub timer: Option<(u64, u32)>,
}

impl FlushQueue {
    pub fn new(cpus: u32) -> Self {
        Self {
            rings: vec![VecDeque::new(); cpus.max(1) as usize],
            granules: 0,
            timer: None,
        }
    }

    /// Whether the next range of this CPU flushes first.
    pub fn is_full(&self, cpu: u32) -> bool {
        self.rings
            .get(cpu as usize)
            .is_some_and(|ring| ring.len() >= USABLE)
    }

    pub fn push(&mut self, cpu: u32, waiting: Waiting) {
        self.granules += waiting.granules;
        let last = self.rings.len() - 1;
        self.rings[(cpu as usize).min(last)].push_back(waiting);
    }

    /// What one CPU has waiting, in order.
    pub fn drain(&mut self, cpu: u32) -> Vec<Waiting> {
        let drained: Vec<Waiting> = match self.rings.get_mut(cpu as usize) {
            Some(ring) => ring.drain(..).collect(),
            None => Vec::new(),
        };
        self.granules -= drained.iter().map(|waiting| waiting.granules).sum::<u64>();
        drained
    }

    /// What one CPU has waiting that hardware has forgotten.
    pub fn drain_forgotten(&mut self, cpu: u32) -> Vec<Waiting> {
        let Some(ring) = self.rings.get_mut(cpu as usize) else {
            return Vec::new();
        };
        let count = ring.iter().take_while(|w| w.since_ns.is_none()).count();
        let drained: Vec<Waiting> = ring.drain(..count).collect();
        self.granules -= drained.iter().map(|waiting| waiting.granules).sum::<u64>();
        drained
    }

    /// What all CPUs have waiting, CPU by CPU, but for the newest few of CPUs other than `cpu`.
    pub fn drain_all(&mut self, cpu: u32, left: usize) -> Vec<Waiting> {
        let mut drained = Vec::new();
        for (number, ring) in self.rings.iter_mut().enumerate() {
            let left = if number as u32 == cpu { 0 } else { left };
            let count = ring.len().saturating_sub(left);
            drained.extend(ring.drain(..count));
        }
        self.granules -= drained.iter().map(|waiting| waiting.granules).sum::<u64>();
        drained
    }

    /// What all CPUs have waiting since `since_ns` at the latest, CPU by CPU.
    pub fn drain_since(&mut self, since_ns: u64) -> Vec<Waiting> {
        let mut drained = Vec::new();
        for ring in &mut self.rings {
            let is_old = |w: &&Waiting| w.since_ns.is_none_or(|since| since <= since_ns);
            let count = ring.iter().take_while(is_old).count();
            drained.extend(ring.drain(..count));
        }
        self.granules -= drained.iter().map(|waiting| waiting.granules).sum::<u64>();
        drained
    }

    /// Since when a range waits.
    pub fn since(&self, start: u64) -> Option<u64> {
        let mut waiting = self.rings.iter().flatten();
        waiting.find(|waiting| waiting.start == start)?.since_ns
    }

    /// Takes one range out; whether it was there.
    pub fn remove(&mut self, start: u64) -> bool {
        for ring in &mut self.rings {
            if let Some(at) = ring.iter().position(|waiting| waiting.start == start) {
                self.granules -= ring.remove(at).map_or(0, |waiting| waiting.granules);
                return true;
            }
        }
        false
    }

    /// What waits, in place, but for the newest few of CPUs other than `cpu`.
    pub fn waiting(&mut self, cpu: u32, left: usize) -> impl Iterator<Item = &mut Waiting> {
        let rings = self.rings.iter_mut().enumerate();
        rings.flat_map(move |(number, ring)| {
            let left = if number as u32 == cpu { 0 } else { left };
            let count = ring.len().saturating_sub(left);
            ring.iter_mut().take(count)
        })
    }

    /// Granules that wait.
    pub fn granules(&self) -> u64 {
        self.granules
    }
}
