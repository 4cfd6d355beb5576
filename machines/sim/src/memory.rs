//! Memory for whoever asks, with a book of who has what.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dmakit_addr::{Address, NodeId, PhysAddr, PhysRange};
use dmakit_platform::host::ThreadContext;
use dmakit_platform::{NoMemory, PoolMemory, Segment, SegmentRequest, TableMemory};

use crate::{Machine, Step, Violation};

/// The RAM of a machine, given out first fit: [`TableMemory`] and [`PoolMemory`] in one.
///
/// A node that was asked for is tried before the others. What is given comes in the worst state
/// that its trait allows: tables zeroed and cleaned, pools and plain memory full of garbage in dirty
/// cache lines. What comes back is checked (whole, from here, of the kind that it was given as,
/// private, lent to no device, and a pool zeroed); a [`Violation`] says what is wrong. Each
/// allocation goes through the machine's [`FaultPlan`](crate::FaultPlan).
///
/// A clone is the same store. Finding memory takes time in proportion to the number of free runs.
#[derive(Clone, Debug)]
pub struct MachineMemory {
    machine: Machine,
    store: Arc<Mutex<Store>>,
}

#[derive(Debug, Default)]
struct Store {
    /// Free runs by their start.
    free: BTreeMap<PhysAddr, (NodeId, Segment)>,
    /// What was given, by its start.
    given: BTreeMap<PhysAddr, Given>,
}

/// Memory that was given and has not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// Which.
    pub range: PhysRange,
    /// Of which node.
    pub node: NodeId,
    /// As what.
    pub kind: MemoryKind,
}

/// What memory was given for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// Through [`TableMemory`].
    Table,
    /// Through [`PoolMemory`].
    Pool,
    /// Through [`MachineMemory::allocate`].
    Plain,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} as {:?}", self.range, self.node, self.kind)
    }
}

impl MachineMemory {
    /// All RAM of the machine that nobody has taken yet.
    pub fn new(machine: &Machine) -> Self {
        let memory = Self {
            machine: machine.clone(),
            store: Arc::default(),
        };
        let mut nodes: Vec<NodeId> = machine.ram().map(|(node, _)| node).collect();
        nodes.dedup();
        for node in nodes {
            memory.add(node, machine.take_ram(node));
        }
        memory
    }

    /// A store of `segments`, for machines whose RAM is shared out.
    pub fn of_segments(machine: &Machine, node: NodeId, segments: Vec<Segment>) -> Self {
        let memory = Self {
            machine: machine.clone(),
            store: Arc::default(),
        };
        memory.add(node, segments);
        memory
    }

    fn add(&self, node: NodeId, segments: Vec<Segment>) {
        let mut store = self.lock();
        for segment in segments {
            store.put(node, segment);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment as asked, full of garbage, for buffers of the test's own. It is no step of a
    /// [`FaultPlan`](crate::FaultPlan).
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn allocate(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.give(request, MemoryKind::Plain)
    }

    /// Takes back what [`allocate`](Self::allocate) gave.
    pub fn free(&self, segment: Segment) {
        self.take_back(segment, MemoryKind::Plain);
    }

    /// What was given and has not come back, by address.
    pub fn outstanding(&self) -> Vec<Given> {
        self.lock().given.values().copied().collect()
    }

    /// How many bytes were given and have not come back.
    pub fn outstanding_bytes(&self) -> u64 {
        self.lock()
            .given
            .values()
            .map(|given| given.range.len())
            .sum()
    }

    fn give(&self, request: &SegmentRequest, kind: MemoryKind) -> Result<Segment, NoMemory> {
        let mut store = self.lock();
        let (node, segment) = store.take(request).ok_or_else(|| NoMemory {
            request: *request,
            largest_free: Some(store.largest(request)),
        })?;
        let range = segment.range();
        store
            .given
            .insert(range.start(), Given { range, node, kind });
        drop(store);
        self.machine.with(|state| match kind {
            MemoryKind::Table => state.cache.fill(range, 0),
            MemoryKind::Pool | MemoryKind::Plain => state.cache.litter(range),
        });
        Ok(segment)
    }

    fn fails(&self, step: Step) -> bool {
        self.machine.faults().fails(step)
    }

    fn take_back(&self, segment: Segment, kind: MemoryKind) {
        let range = segment.range();
        let given = self.lock().given.get(&range.start()).copied();
        let Some(given) = given.filter(|given| given.range == range) else {
            // It is not ours to give again: it leaks.
            return self.complain(range, "not given whole by this provider");
        };
        if given.kind != kind {
            self.complain(range, "given as something else");
        }
        if kind == MemoryKind::Pool && !is_zero(&segment) {
            self.complain(range, "not zeroed");
        }
        let (start, end) = (range.start().raw(), range.end().raw());
        let wrong = self.machine.with(|state| {
            let unlike = |why, found: Option<u64>| found.map(|_| why);
            let frames = &state.frames;
            unlike(
                "its state is unknown since a conversion failed",
                frames.first_not(start, end, |frame| !frame.is_unknown),
            )
            .or(unlike(
                "still shared with the host",
                frames.first_not(start, end, |frame| !frame.is_shared),
            ))
            .or(state
                .devices
                .iter()
                .any(|device| device.is_granted_any(range))
                .then_some("still lent to a device"))
            .or(state
                .its
                .iter()
                .any(|its| its.uses(range))
                .then_some("still in use for interrupts"))
        });
        if let Some(why) = wrong {
            self.complain(range, why);
        }
        let mut store = self.lock();
        store.given.remove(&range.start());
        store.put(given.node, segment);
    }

    fn complain(&self, range: PhysRange, why: &'static str) {
        self.machine.violate(Violation::Freed { range, why });
    }
}

impl Store {
    /// Adds a free run, joined with its neighbours.
    fn put(&mut self, node: NodeId, mut segment: Segment) {
        let below = self.free.range(..segment.range().start()).next_back();
        if let Some((&start, &(other, _))) = below {
            if other == node {
                if let Some((_, low)) = self.free.remove(&start) {
                    match Segment::merge(low, segment) {
                        Ok(merged) => segment = merged,
                        Err(error) => {
                            self.free.insert(start, (node, error.low));
                            segment = error.high;
                        }
                    }
                }
            }
        }
        let above = self.free.range(segment.range().start()..).next();
        if let Some((&start, &(other, _))) = above {
            if other == node {
                if let Some((_, high)) = self.free.remove(&start) {
                    match Segment::merge(segment, high) {
                        Ok(merged) => segment = merged,
                        Err(error) => {
                            self.free.insert(start, (node, error.high));
                            segment = error.low;
                        }
                    }
                }
            }
        }
        self.free.insert(segment.range().start(), (node, segment));
    }

    /// Cuts the wanted segment out of the first run that has it.
    fn take(&mut self, request: &SegmentRequest) -> Option<(NodeId, Segment)> {
        if request.len == 0 || !request.align.is_power_of_two() {
            return None;
        }
        let fits = |node_wanted: Option<NodeId>| {
            self.free.iter().find_map(|(&start, (node, segment))| {
                let room = usable(segment.range(), request)?;
                let matches = node_wanted.is_none_or(|wanted| wanted == *node);
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
        Some((node, wanted))
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

fn is_zero(segment: &Segment) -> bool {
    let mut bytes = [0; 4096];
    let window = segment.window();
    let starts = (0..segment.len()).step_by(bytes.len());
    starts.into_iter().all(|offset| {
        let len = (segment.len() - offset).min(bytes.len() as u64);
        let part = &mut bytes[..len as usize];
        if let Some(window) = window.slice(offset, len) {
            window.read(part);
        }
        part.iter().all(|&byte| byte == 0)
    })
}

impl TableMemory for MachineMemory {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        if self.fails(Step::ALLOCATE_TABLE) {
            return Err(NoMemory {
                request: *request,
                largest_free: None,
            });
        }
        self.give(request, MemoryKind::Table)
    }

    fn free_table(&self, segment: Segment) {
        self.take_back(segment, MemoryKind::Table);
    }
}

impl PoolMemory for MachineMemory {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        ThreadContext::check_may_sleep("pool memory was allocated");
        if self.fails(Step::ALLOCATE_POOL) {
            return Err(NoMemory {
                request: *request,
                largest_free: None,
            });
        }
        self.give(request, MemoryKind::Pool)
    }

    fn free_pool(&self, segment: Segment) {
        ThreadContext::check_may_sleep("pool memory was freed");
        self.take_back(segment, MemoryKind::Pool);
    }
}
