//! A simulated machine with devices on it, and what tests do with them.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dmakit_addr::{AlignMask, DmaAddr, DmaMask, DmaRange, NodeId, PhysAddr, PhysRange};
use dmakit_dma::{
    BounceWhen, BusMap, BusRange, Coherence, CoherentSource, Device, DeviceId, DeviceInfo, Path,
};
use dmakit_platform::{
    Barrier, ConversionError, CpuBuffer, Instant, Platform, Segment, SegmentRequest,
};
use dmakit_sim::{
    BeyondWires, BusWindow, DeviceConfig, Machine, MachineConfig, MachineMemory, SimDevice,
};
use dmakit_swiotlb::{BounceConfig, BouncePool};

/// Which cache maintenance a broken driver stack forgets, as bits.
pub const CLEAN: u32 = 1;
pub const INVALIDATE: u32 = 2;
pub const CLEAN_INVALIDATE: u32 = 4;
/// It takes every address for the start of a line.
pub const LINES: u32 = 8;

/// A machine that forgets some of the cache maintenance that it is asked for.
#[derive(Clone)]
pub struct Forgetful {
    pub machine: Machine,
    forgets: Arc<AtomicU32>,
}

impl Forgetful {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            forgets: Arc::default(),
        }
    }

    /// Runs `act` without the maintenance in `what`.
    pub fn forgetting<T>(&self, what: u32, act: impl FnOnce() -> T) -> T {
        self.forgets.store(what, Ordering::Relaxed);
        let result = act();
        self.forgets.store(0, Ordering::Relaxed);
        result
    }

    fn does(&self, what: u32) -> bool {
        self.forgets.load(Ordering::Relaxed) & what == 0
    }
}

impl Platform for Forgetful {
    type IrqLock = <Machine as Platform>::IrqLock;
    type SleepLock = <Machine as Platform>::SleepLock;
    type CpuGuard<'a> = <Machine as Platform>::CpuGuard<'a>;

    fn now(&self) -> Instant {
        self.machine.now()
    }

    fn cpu_count(&self) -> usize {
        self.machine.cpu_count()
    }

    fn enter_cpu(&self) -> Self::CpuGuard<'_> {
        self.machine.enter_cpu()
    }

    fn barrier(&self, barrier: Barrier) {
        self.machine.barrier(barrier);
    }

    fn cache_line_bytes(&self) -> u64 {
        if self.does(LINES) {
            self.machine.cache_line_bytes()
        } else {
            1
        }
    }

    fn clean(&self, range: PhysRange) {
        if self.does(CLEAN) {
            self.machine.clean(range);
        }
    }

    fn invalidate(&self, range: PhysRange) {
        if self.does(INVALIDATE) {
            self.machine.invalidate(range);
        }
    }

    fn clean_invalidate(&self, range: PhysRange) {
        if self.does(CLEAN_INVALIDATE) {
            self.machine.clean_invalidate(range);
        }
    }

    fn share(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.machine.share(range)
    }

    fn unshare(&self, range: PhysRange) -> Result<(), ConversionError> {
        self.machine.unshare(range)
    }
}

/// RAM below 4 GiB, and as much above.
pub const LOW: u64 = 0x8000_0000;
pub const HIGH: u64 = 0x1_8000_0000;
pub const RAM_BYTES: u64 = 32 << 20;

pub fn phys(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

/// A machine with a bounce pool in low memory.
pub struct Rig {
    pub platform: Forgetful,
    pub machine: Machine,
    pub memory: MachineMemory,
    pub pool: BouncePool<Forgetful>,
}

impl Rig {
    pub fn coherent(seed: u64) -> Self {
        Self::build(MachineConfig::new(seed), 2 << 20)
    }

    pub fn non_coherent(seed: u64) -> Self {
        Self::build(MachineConfig::new(seed).non_coherent(), 2 << 20)
    }

    /// One whose pool is full now and then.
    pub fn tight(seed: u64) -> Self {
        Self::build(MachineConfig::new(seed).non_coherent(), 160 << 10)
    }

    fn build(config: MachineConfig, pool_bytes: u64) -> Self {
        let machine = config
            .node(&[phys(LOW, RAM_BYTES), phys(HIGH, RAM_BYTES)])
            .build()
            .unwrap();
        let memory = MachineMemory::new(&machine);
        let platform = Forgetful::new(machine.clone());
        let config = BounceConfig {
            credit_batch: 0,
            areas: 2,
            ..BounceConfig::default()
        };
        let request = SegmentRequest {
            len: pool_bytes,
            align: 4096,
            node: Some(NodeId::new(0)),
            limit: DmaMask::up_to(LOW + RAM_BYTES - 1),
        };
        let segment = memory.allocate(&request).unwrap();
        let pool = BouncePool::new(platform.clone(), segment, &config).unwrap();
        Self {
            platform,
            machine,
            memory,
            pool,
        }
    }

    /// `len` bytes that begin `offset` bytes into a frame, in high memory where `is_high`, and
    /// the memory around them.
    pub fn buffer(&self, len: u64, offset: u64, is_high: bool) -> Lent {
        let whole = self.segment((offset + len).next_multiple_of(4096), is_high);
        whole.window().fill(CANARY);
        let (before, rest) = whole.split_at(offset).unwrap();
        let (body, after) = rest.split_at(len).unwrap();
        let range = body.range();
        Lent {
            buffer: Some(CpuBuffer::from_segment(body, len).unwrap()),
            range,
            before,
            after,
        }
    }

    /// A buffer with a pattern in it.
    pub fn filled(&self, len: u64, offset: u64, is_high: bool) -> CpuBuffer {
        let mut buffer = self.buffer(len, offset, is_high).take();
        buffer.write(0, &pattern(1, len));
        buffer
    }

    pub fn segment(&self, len: u64, is_high: bool) -> Segment {
        let limit = if is_high {
            u64::MAX
        } else {
            LOW + RAM_BYTES - 1
        };
        let request = SegmentRequest {
            len,
            align: 4096,
            node: Some(NodeId::new(0)),
            limit: DmaMask::up_to(limit),
        };
        if !is_high {
            return self.memory.allocate(&request).unwrap();
        }
        // The store gives low memory first: what is low is held while looking for more.
        let mut held = Vec::new();
        let found = loop {
            let segment = self.memory.allocate(&request).unwrap();
            if segment.range().start().raw() >= HIGH {
                break segment;
            }
            held.push(segment);
        };
        held.into_iter()
            .for_each(|segment| self.memory.free(segment));
        found
    }

    /// A device of the machine and the stack's description of it, with the wires of `bits`.
    pub fn device(
        &self,
        id: u64,
        bits: u32,
        coherence: Coherence,
    ) -> (SimDevice, DeviceInfo<'static>) {
        // The bus shows memory at an odd place, so that no physical address is a DMA address.
        let offset = 0x4000_0000;
        let window = |start: u64| BusWindow {
            bus: DmaRange::new(DmaAddr::new(start + offset), RAM_BYTES).unwrap(),
            memory: PhysAddr::new(start),
        };
        let mask = DmaMask::bits(bits).unwrap();
        let config = DeviceConfig::new()
            .wires(mask, BeyondWires::Truncate)
            .window(window(LOW))
            .window(window(HIGH))
            .coherent(coherence == Coherence::Coherent);
        let sim = self.machine.add_device(config);
        let ranges: Vec<_> = sim
            .windows()
            .iter()
            .map(|window| BusRange {
                phys: window.memory_range().unwrap(),
                dma: window.bus.start(),
            })
            .collect();
        let mut info = DeviceInfo::new(DeviceId::new(id), "device", mask);
        info.bus = BusMap::new(Vec::leak(ranges)).unwrap();
        info.coherence = coherence;
        (sim, info)
    }

    /// Device number 1, coherent and with all address lines.
    pub fn ready(&self, path: PathKind) -> (SimDevice, Device<'_, Forgetful>) {
        self.ready_with(path, 64, |_| {})
    }

    /// The same with `bits` address lines, and what `change` makes of it.
    pub fn ready_with<'m>(
        &'m self,
        path: PathKind,
        bits: u32,
        change: impl FnOnce(&mut DeviceInfo<'m>),
    ) -> (SimDevice, Device<'m, Forgetful>) {
        let (sim, mut info) = self.device(1, bits, Coherence::Coherent);
        change(&mut info);
        (sim, self.attach(info, path))
    }

    pub fn attach<'m>(&'m self, info: DeviceInfo<'m>, path: PathKind) -> Device<'m, Forgetful> {
        let coherent = if info.coherence == Coherence::Coherent {
            CoherentSource::Cached(&self.memory)
        } else {
            CoherentSource::None
        };
        Device::new(self.platform.clone(), info, self.path(path), coherent)
    }

    pub fn path(&self, path: PathKind) -> Path<'_, Forgetful> {
        let when = match path {
            PathKind::Direct => return Path::Direct,
            PathKind::Needed => BounceWhen::Needed,
            PathKind::Always => BounceWhen::Always,
        };
        let id = self.pool.attach(None).unwrap();
        Path::Bounced {
            pool: &self.pool,
            id,
            when,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    Direct,
    Needed,
    Always,
}

pub const CANARY: u8 = 0xc5;

/// A buffer and the memory around it in its frames.
pub struct Lent {
    pub buffer: Option<CpuBuffer>,
    pub range: PhysRange,
    pub before: Segment,
    pub after: Segment,
}

impl Lent {
    pub fn take(&mut self) -> CpuBuffer {
        self.buffer.take().unwrap()
    }

    /// The owners of the memory around the buffer write there, as they may at any time.
    pub fn neighbours_write(&self, byte: u8) {
        self.before.window().fill(byte);
        self.after.window().fill(byte);
    }

    /// Whether what surrounds the buffer is what its owners wrote last.
    pub fn has_neighbours(&self, byte: u8) -> bool {
        [&self.before, &self.after].iter().all(|segment| {
            let mut bytes = vec![0; segment.len() as usize];
            segment.window().read(&mut bytes);
            bytes.iter().all(|seen| *seen == byte)
        })
    }
}

pub fn bytes_of(buffer: &CpuBuffer) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len() as usize];
    buffer.read(0, &mut bytes);
    bytes
}

/// Bytes that differ from seed to seed and place to place.
pub fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut rng = dmakit_sim::Rng::new(seed ^ 0x9e37_79b9);
    (0..len).map(|_| rng.bits() as u8).collect()
}

pub fn align(bytes: u64) -> AlignMask {
    AlignMask::of_size(bytes).unwrap()
}
