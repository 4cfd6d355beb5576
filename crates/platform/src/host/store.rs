//! Segments, given out first fit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dmakit_addr::{Address, NodeId, PhysAddr, PhysRange};

use crate::{NoMemory, Segment, SegmentRequest, TableMemory};

/// Memory for whoever asks: segments are cut out of the lowest free run that has room, and what
/// comes back is joined with its neighbours. The same requests in the same order give the same
/// addresses.
///
/// A node that was asked for is tried before the others. A clone is the same store. Finding memory
/// takes time in proportion to the number of free runs.
#[derive(Clone, Debug, Default)]
pub struct SegmentStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Free runs by their start.
    free: BTreeMap<PhysAddr, (NodeId, Segment)>,
    /// What was given, by its start.
    given: BTreeMap<PhysAddr, (NodeId, PhysRange)>,
}

impl SegmentStore {
    /// A store without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a free run of `node`.
    pub fn add(&self, node: NodeId, segment: Segment) {
        if !segment.is_empty() {
            self.lock().put(node, segment);
        }
    }

    /// A segment as asked; its contents are undefined.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing has changed then.
    pub fn allocate(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let mut state = self.lock();
        state.take(request).ok_or_else(|| NoMemory {
            request: *request,
            largest_free: Some(state.largest(request)),
        })
    }

    /// Takes a whole segment back that this store gave.
    ///
    /// # Errors
    /// The segment, where it was not given by this store, or not as one.
    pub fn free(&self, segment: Segment) -> Result<(), Segment> {
        let mut state = self.lock();
        let range = segment.range();
        match state.given.get(&range.start()) {
            Some(&(node, given)) if given == range => {
                state.given.remove(&range.start());
                state.put(node, segment);
                Ok(())
            }
            _ => Err(segment),
        }
    }

    /// What was given and has not come back, by address.
    pub fn outstanding(&self) -> Vec<(NodeId, PhysRange)> {
        self.lock().given.values().copied().collect()
    }

    /// How many bytes were given and have not come back.
    pub fn outstanding_bytes(&self) -> u64 {
        self.lock()
            .given
            .values()
            .map(|(_, range)| range.len())
            .sum()
    }

    /// The free runs of a node, by address.
    pub fn free_runs(&self, node: NodeId) -> Vec<PhysRange> {
        let state = self.lock();
        let of_node = state.free.values().filter(|(other, _)| *other == node);
        of_node.map(|(_, segment)| segment.range()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TableMemory for SegmentStore {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.allocate(request)?;
        segment.window().fill(0);
        Ok(segment)
    }

    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.allocate(request)
    }

    /// A segment that is not this store's leaks; a part of one stays among the
    /// [`outstanding`](SegmentStore::outstanding).
    fn free_table(&self, segment: Segment) {
        drop(self.free(segment));
    }
}

impl State {
    /// Adds a free run, joined with its neighbours of the same node.
    fn put(&mut self, node: NodeId, mut segment: Segment) {
        let start = segment.range().start();
        let below = self.free.range(..start).next_back().map(|(&key, _)| key);
        let above = self.free.range(start..).next().map(|(&key, _)| key);
        for key in [below, above].into_iter().flatten() {
            segment = self.join(key, node, segment);
        }
        self.free.insert(segment.range().start(), (node, segment));
    }

    /// `segment` joined with the free run at `key`, where they are neighbours of one node.
    fn join(&mut self, key: PhysAddr, node: NodeId, segment: Segment) -> Segment {
        let Some((other, run)) = self.free.remove(&key) else {
            return segment;
        };
        let is_below = run.range().start() < segment.range().start();
        if other != node {
            self.free.insert(key, (other, run));
            return segment;
        }
        let merged = match is_below {
            true => Segment::merge(run, segment),
            false => Segment::merge(segment, run),
        };
        merged.unwrap_or_else(|error| {
            let (run, segment) = match is_below {
                true => (error.low, error.high),
                false => (error.high, error.low),
            };
            self.free.insert(key, (other, run));
            segment
        })
    }

    /// Cuts the wanted segment out of the first run that has it.
    fn take(&mut self, request: &SegmentRequest) -> Option<Segment> {
        if request.len == 0 || !request.align.is_power_of_two() {
            return None;
        }
        let fits = |wanted: Option<NodeId>| {
            self.free.iter().find_map(|(&start, (node, segment))| {
                let room = usable(segment.range(), request)?;
                let matches = wanted.is_none_or(|wanted| wanted == *node);
                (matches && room.len() >= request.len)
                    .then(|| (start, room.start().raw() - start.raw()))
            })
        };
        let (start, skip) = fits(request.node).or_else(|| fits(None))?;
        let (node, run) = self.free.remove(&start)?;
        // `usable` proved both cuts to lie inside.
        let (low, rest) = run.split_at(skip).ok()?;
        let (wanted, high) = rest.split_at(request.len).ok()?;
        for part in [low, high] {
            if !part.is_empty() {
                self.free.insert(part.range().start(), (node, part));
            }
        }
        let range = wanted.range();
        self.given.insert(range.start(), (node, range));
        Some(wanted)
    }

    fn largest(&self, request: &SegmentRequest) -> u64 {
        if !request.align.is_power_of_two() {
            return 0;
        }
        let runs = self.free.values();
        runs.filter_map(|(_, segment)| usable(segment.range(), request))
            .map(|room| room.len())
            .max()
            .unwrap_or(0)
    }
}

/// The part of a free run that starts aligned and ends under the limit.
fn usable(run: PhysRange, request: &SegmentRequest) -> Option<PhysRange> {
    let start = run.start().align_up(request.align)?;
    let limit = request.limit.last().saturating_add(1);
    let end = run.end().min(PhysAddr::new(limit));
    PhysRange::between(start, end)
}
