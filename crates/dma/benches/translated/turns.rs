//! A map and an unmap of a list, as each interface does it.

use std::hint::black_box;

use dmakit_addr::{Attributes, Direction, DmaMask, FromDevice, IovaRange, PhysRange};
use dmakit_dma::{Batch, BatchConfig, DmaSegment};
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_iommu::{Hardware, Invalidation};
use dmakit_iova::{Request, Reservation};
use dmakit_platform::host::HostRam;
use dmakit_platform::{CopySource, CopyTarget, CpuBuffer, IrqMutex, Platform, Window};

use super::machine::{Dev, Machine, Mode};

const NONE: Attributes = Attributes::NONE;

/// Who maps and unmaps a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    OneStep,
    TwoSteps,
    Incumbent,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::OneStep, Self::TwoSteps, Self::Incumbent];

    pub fn name(self) -> &'static str {
        match self {
            Self::OneStep => "one step",
            Self::TwoSteps => "two steps",
            Self::Incumbent => "incumbent's steps, modelled",
        }
    }

    /// Whether it can; the incumbent has no batches.
    pub fn has(self, mode: Mode) -> bool {
        self != Self::Incumbent || mode != Mode::Batched
    }

    /// Takes so many turns; `after` hears of each.
    pub fn take<P: Platform>(
        self,
        machine: &Machine<P>,
        mode: Mode,
        runs: &[PhysRange],
        turns: usize,
        mut after: impl FnMut(usize),
    ) {
        let device = machine.device();
        machine.stock(QUEUE + 1, runs.iter().map(PhysRange::len).sum());
        match self {
            Self::OneStep => {
                let mut way = OneStep::new(&device, mode, runs);
                (1..=turns).for_each(|turn| {
                    way.turn();
                    after(turn);
                });
                way.close();
            }
            Self::TwoSteps => {
                let mut way = TwoStep::new(&device, mode, runs);
                (1..=turns).for_each(|turn| {
                    way.turn();
                    after(turn);
                });
                way.close();
            }
            Self::Incumbent => {
                let mut way = Incumbent::new(machine, mode, runs);
                (1..=turns).for_each(|turn| {
                    way.turn();
                    after(turn);
                });
            }
        }
    }
}

/// So many bytes that nobody looks at: nothing bounces here.
struct Bytes(u64);

impl CopySource for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

/// Memory that somebody else holds.
#[derive(Debug)]
pub struct Nothing;

impl CopySource for Nothing {
    fn len_bytes(&self) -> u64 {
        0
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

impl CopyTarget for Nothing {
    fn copy_from(&mut self, _: u64, _: Window<'_>) {}
}

/// The same memory as a list that a mapping owns.
fn list_of(runs: &[PhysRange]) -> CpuBuffer {
    let segment = |run: &PhysRange| {
        let (_ram, mut segments) = HostRam::new(&[*run]).expect("memory");
        segments.pop().expect("a segment")
    };
    let len = runs.iter().map(PhysRange::len).sum();
    CpuBuffer::from_segments(runs.iter().map(segment).collect(), len).expect("long enough")
}

/// Shows runs, neighbours as one, and how many bytes are before each.
#[inline(always)]
fn each_joined(runs: &[PhysRange], mut visit: impl FnMut(u64, PhysRange)) {
    let (mut at, mut open, mut rest) = (0, runs[0], runs[1..].iter());
    loop {
        let next = rest.next();
        if let Some(next) = next.filter(|next| next.start() == open.end()) {
            open = PhysRange::between(open.start(), next.end()).expect("a run");
            continue;
        }
        visit(at, open);
        at += open.len();
        let Some(next) = next else { return };
        open = *next;
    }
}

fn batch<P: Platform, B>(device: &Dev<'_, P>, mode: Mode) -> Option<Batch<B>> {
    let batch = Batch::new(device.domain(), BatchConfig::default()).expect("memory");
    (mode == Mode::Batched).then_some(batch)
}

/// One step: a list under one range.
pub struct OneStep<'a, P: Platform> {
    device: &'a Dev<'a, P>,
    batch: Option<Batch<CpuBuffer>>,
    free: Vec<CpuBuffer>,
    segments: Vec<DmaSegment>,
}

impl<'a, P: Platform> OneStep<'a, P> {
    pub fn new(device: &'a Dev<'a, P>, mode: Mode, runs: &[PhysRange]) -> Self {
        // As many as wait, and one to map.
        let lists = match mode {
            Mode::Batched => BatchConfig::default().debts + 1,
            Mode::Strict | Mode::Lazy => 1,
        };
        Self {
            device,
            batch: batch(device, mode),
            free: (0..lists).map(|_| list_of(runs)).collect(),
            segments: vec![DmaSegment::default(); runs.len()],
        }
    }

    #[inline(never)]
    pub fn turn(&mut self) {
        let memory = self.free.pop().expect("a list");
        let segments = &mut self.segments[..];
        let mapping = self
            .device
            .map_scatter::<FromDevice, _>(memory, NONE, segments);
        let mapping = black_box(mapping.expect("mapped"));
        let free = &mut self.free;
        match &mut self.batch {
            Some(batch) => self
                .device
                .unmap_batched(batch, mapping, |memory| free.push(memory))
                .expect("unmapped"),
            None => free.push(self.device.unmap_and_sync(mapping).expect("unmapped")),
        }
    }

    pub fn close(self) {
        if let Some(mut batch) = self.batch {
            self.device.close_batch(&mut batch, drop).expect("closed");
        }
    }
}

/// Two steps, of memory that somebody else holds. Of lists that have neighbours in memory these are
/// linked as one, as a driver does that walks its request.
pub struct TwoStep<'a, P: Platform> {
    device: &'a Dev<'a, P>,
    batch: Option<Batch<Nothing>>,
    runs: &'a [PhysRange],
    has_neighbours: bool,
}

impl<'a, P: Platform> TwoStep<'a, P> {
    pub fn new(device: &'a Dev<'a, P>, mode: Mode, runs: &'a [PhysRange]) -> Self {
        let are_neighbours = |two: &[PhysRange]| two[0].end() == two[1].start();
        Self {
            device,
            batch: batch(device, mode),
            runs,
            has_neighbours: runs.windows(2).any(are_neighbours),
        }
    }

    pub fn turn(&mut self) {
        match self.has_neighbours {
            false => self.turn_as::<false>(),
            true => self.turn_as::<true>(),
        }
    }

    #[inline(never)]
    fn turn_as<const JOINED: bool>(&mut self) {
        let len = self.runs.iter().map(PhysRange::len).sum();
        let first = self.runs[0].start();
        let request = self.device.reserve::<FromDevice>(first, len, 1, NONE);
        let mut request = request.expect("reserved");
        let mut linker = self.device.linker(&mut request).expect("own");
        if JOINED {
            each_joined(self.runs, |_, run| {
                linker.link(run, &Bytes(run.len())).expect("linked");
            });
        } else {
            for run in self.runs {
                linker.link(*run, &Bytes(run.len())).expect("linked");
            }
        }
        let sealed = black_box(self.device.seal(request).expect("sealed"));
        let none = core::iter::empty();
        match &mut self.batch {
            Some(batch) => {
                let ended = self
                    .device
                    .destroy_batched(batch, sealed, Nothing, none, drop);
                ended.expect("own").expect("closed");
            }
            None => {
                let debt = self.device.destroy(sealed, Nothing, none).expect("own");
                let proof = self.device.sync().expect("a sync");
                self.device.redeem(debt, &proof).expect("paid");
            }
        }
    }

    pub fn close(self) {
        if let Some(mut batch) = self.batch {
            self.device.close_batch(&mut batch, drop).expect("closed");
        }
    }
}

/// Each run by itself, as a driver without lists maps.
pub struct PageByPage<'a, P: Platform> {
    device: &'a Dev<'a, P>,
    runs: &'a [PhysRange],
    handles: Vec<DmaSegment>,
}

impl<'a, P: Platform> PageByPage<'a, P> {
    pub fn new(device: &'a Dev<'a, P>, runs: &'a [PhysRange]) -> Self {
        let handles = Vec::with_capacity(runs.len());
        Self {
            device,
            runs,
            handles,
        }
    }

    #[inline(never)]
    pub fn turn(&mut self) {
        let way = Direction::FromDevice;
        for run in self.runs {
            let handle = self.device.map_raw(*run, &Bytes(run.len()), way, NONE);
            self.handles.push(handle.expect("mapped"));
        }
        for (run, handle) in self.runs.iter().zip(self.handles.drain(..)) {
            let unmapped = self.device.unmap_raw(handle, way, *run, &mut Nothing, NONE);
            unmapped.expect("unmapped");
        }
    }
}

/// Ranges that one CPU has waiting at the most, here as there.
pub const QUEUE: usize = 256;

/// The incumbent's steps for a list, modelled on this stack's parts: one pass over the list for its
/// length, addresses, a call of the page table for each run of neighbours, a pass that writes the
/// segments, a pass for the length, one call that unmaps; then one command and a sync, or a queue
/// under a lock and one flush for all of it.
///
/// A model: of the order of work, not of its cost. What the incumbent's own code costs is published.
pub struct Incumbent<'a, P: Platform> {
    machine: &'a Machine<P>,
    runs: &'a [PhysRange],
    segments: Vec<DmaSegment>,
    /// None where it is strict.
    queue: Option<IrqMutex<P, Vec<(Reservation, Gather)>>>,
}

impl<'a, P: Platform> Incumbent<'a, P> {
    pub fn new(machine: &'a Machine<P>, mode: Mode, runs: &'a [PhysRange]) -> Self {
        let queue = || IrqMutex::<P, _>::new(Vec::with_capacity(QUEUE));
        Self {
            machine,
            runs,
            segments: vec![DmaSegment::default(); runs.len()],
            queue: (mode == Mode::Lazy).then(queue),
        }
    }

    #[inline(never)]
    pub fn turn(&mut self) {
        let (domain, platform) = (self.machine.strict(), &self.machine.platform);
        let len: u64 = self.runs.iter().map(PhysRange::len).sum();
        let request = Request {
            len,
            align: 1,
            limit: DmaMask::ALL,
        };
        let reserved = domain.space().alloc(&platform.enter_cpu(), &request);
        let reserved = reserved.expect("addresses");
        let range = reserved.range();
        self.fill(range);
        let mut at = range.start().raw();
        for (run, segment) in self.runs.iter().zip(&mut self.segments) {
            segment.addr = dmakit_addr::DmaAddr::new(at);
            segment.len = run.len();
            at += run.len();
        }
        let segments = black_box(&self.segments[..]);
        let len = segments.iter().map(|segment| segment.len).sum();
        let mut gather = Gather::new();
        let whole = range.slice(0, len).expect("all of it");
        domain.table().unmap(whole, &mut gather).expect("unmapped");
        match &self.queue {
            None => self.forget(reserved, gather),
            Some(queue) => self.wait(queue, reserved, gather),
        }
    }

    /// Neighbours in memory become one call.
    fn fill(&self, range: IovaRange) {
        let table = self.machine.strict().table();
        let map = |at: u64, run: PhysRange| {
            let part = range.slice(at, run.len()).expect("a part");
            let mapped = table.map(part, run.start(), Permissions::READ_WRITE);
            mapped.expect("mapped");
        };
        each_joined(self.runs, map);
    }

    fn forget(&self, reserved: Reservation, gather: Gather) {
        let (domain, platform) = (self.machine.strict(), &self.machine.platform);
        let what = Invalidation {
            range: gather.range().expect("something"),
            granule: domain.space().granule(),
            leaf_height: gather.leaf_height(),
            leaf_shift: None,
            tables: gather.frees_tables(),
        };
        domain.hardware().invalidate(&what).expect("commands");
        domain.hardware().sync().expect("a sync");
        domain.table().recycle(gather);
        domain.space().free(&platform.enter_cpu(), reserved);
    }

    fn wait(
        &self,
        queue: &IrqMutex<P, Vec<(Reservation, Gather)>>,
        reserved: Reservation,
        gather: Gather,
    ) {
        let (domain, platform) = (self.machine.strict(), &self.machine.platform);
        let mut queue = queue.lock();
        if queue.len() == QUEUE {
            domain.hardware().invalidate_all().expect("commands");
            domain.hardware().sync().expect("a sync");
            let cpu = platform.enter_cpu();
            for (reserved, gather) in queue.drain(..) {
                domain.table().recycle(gather);
                domain.space().free(&cpu, reserved);
            }
        }
        queue.push((reserved, gather));
    }
}
