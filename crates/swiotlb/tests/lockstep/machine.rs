//! A machine whose parts fail on demand, and the memory from which its pools grow.
#![allow(dead_code, reason = "each test drives the part that it needs")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dmakit_addr::{DmaMask, PhysAddr, PhysRange};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{
    ConversionError, CpuGuard, CpuId, Instant, NoMemory, Platform, PoolMemory, RawSpinLock,
    Segment, SegmentRequest,
};
use dmakit_swiotlb::{BounceConfig, BouncePool, GrowthConfig};

pub const FIRST: u64 = 0x7000_0000;
pub const GROWN: u64 = 0x10_0000_0000;

/// What the machine counts and where it fails.
#[derive(Debug, Default)]
pub struct Faults {
    /// The host's view: which ranges are shared, by start.
    pub shared: Mutex<HashMap<u64, u64>>,
    /// Fails the conversion, and the allocation, that finds its counter at 1.
    pub conversion: AtomicU64,
    pub allocation: AtomicU64,
    pub cpu: AtomicU64,
}

fn fails(counter: &AtomicU64) -> bool {
    let count = |left: u64| left.checked_sub(1);
    let relaxed = Ordering::Relaxed;
    counter.fetch_update(relaxed, relaxed, count) == Ok(1)
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub faults: Arc<Faults>,
}

pub struct OnCpu(CpuId);

impl CpuGuard for OnCpu {
    fn cpu(&self) -> CpuId {
        self.0
    }
}

impl Platform for Machine {
    type IrqLock = RawSpinLock;
    type SleepLock = RawSpinLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        Instant::default()
    }

    fn cpu_count(&self) -> usize {
        64
    }

    fn enter_cpu(&self) -> OnCpu {
        OnCpu(CpuId::new(self.faults.cpu.load(Ordering::Relaxed) as u32))
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    fn clean(&self, _range: PhysRange) {}

    fn invalidate(&self, _range: PhysRange) {}

    fn clean_invalidate(&self, _range: PhysRange) {}

    fn share(&self, range: PhysRange) -> Result<(), ConversionError> {
        if fails(&self.faults.conversion) {
            return Err(ConversionError { range });
        }
        let mut shared = self.faults.shared.lock().unwrap();
        let before = shared.insert(range.start().raw(), range.len());
        assert_eq!(before, None, "{range} was shared twice");
        Ok(())
    }

    fn unshare(&self, range: PhysRange) -> Result<(), ConversionError> {
        if fails(&self.faults.conversion) {
            return Err(ConversionError { range });
        }
        let mut shared = self.faults.shared.lock().unwrap();
        let before = shared.remove(&range.start().raw());
        assert_eq!(before, Some(range.len()), "{range} was not shared");
        Ok(())
    }
}

/// Memory for grown pools: fixed blocks, each handed out whole or in its first part.
#[derive(Debug)]
pub struct Blocks {
    pub faults: Arc<Faults>,
    free: Mutex<Vec<Segment>>,
    /// The rest of a block whose first part was handed out, by start.
    rests: Mutex<HashMap<u64, Segment>>,
    ram: HostRam,
}

impl PoolMemory for &Blocks {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = NoMemory {
            request: *request,
            largest_free: None,
        };
        if fails(&self.faults.allocation) {
            return Err(none);
        }
        let mut free = self.free.lock().unwrap();
        let fits =
            |segment: &Segment| segment.len() >= request.len && segment.is_aligned(request.align);
        let index = free.iter().position(fits).ok_or(none)?;
        let (segment, rest) = free.swap_remove(index).split_at(request.len).unwrap();
        self.rests
            .lock()
            .unwrap()
            .insert(segment.range().start().raw(), rest);
        // What was there before is somebody's.
        segment.window().fill(0xa5);
        Ok(segment)
    }

    fn free_pool(&self, segment: Segment) {
        let start = segment.range().start().raw();
        assert!(!self.faults.shared.lock().unwrap().contains_key(&start));
        let mut bytes = vec![1; segment.len() as usize];
        segment.window().read(&mut bytes);
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "what was bounced went along"
        );
        let rest = self.rests.lock().unwrap().remove(&start).unwrap();
        let whole = Segment::merge(segment, rest).unwrap();
        self.free.lock().unwrap().push(whole);
    }
}

impl Blocks {
    /// How many blocks are at home.
    pub fn free_count(&self) -> usize {
        self.free.lock().unwrap().len()
    }
}

/// RAM for a first pool of `first` bytes and `blocks` blocks of `block` bytes.
pub fn machine(first: u64, blocks: u64, block: u64) -> (Machine, HostRam, Segment, Blocks) {
    let range = |start, len| PhysRange::new(PhysAddr::new(start), len).unwrap();
    let mut ranges = vec![range(FIRST, first)];
    ranges.extend((0..blocks).map(|index| range(GROWN + index * (block + (16 << 20)), block)));
    let (ram, mut segments) = HostRam::new(&ranges).unwrap();
    let grown = segments.split_off(1);
    let machine = Machine {
        faults: Arc::default(),
    };
    let blocks = Blocks {
        faults: machine.faults.clone(),
        free: Mutex::new(grown),
        rests: Mutex::default(),
        ram: ram.clone(),
    };
    (machine, ram, segments.pop().unwrap(), blocks)
}

/// A fixed pool on the host machine.
pub fn fixed(bytes: u64, config: &BounceConfig) -> (BouncePool<HostPlatform>, HostRam) {
    let range = PhysRange::new(PhysAddr::new(FIRST), bytes).unwrap();
    let (ram, mut segments) = HostRam::new(&[range]).unwrap();
    let pool = BouncePool::new(HostPlatform::new(1), segments.pop().unwrap(), config);
    (pool.unwrap(), ram)
}

pub fn growth() -> GrowthConfig {
    GrowthConfig {
        step: 1 << 20,
        granule: 1 << 18,
        bytes_max: 16 << 20,
        reserve: 1 << 18,
        headroom: 1 << 17,
        shrink_after: std::time::Duration::from_millis(100),
        node: None,
        limit: DmaMask::ALL,
    }
}

/// The byte at `address`, as a device sees it.
pub fn device_bytes(ram: &HostRam, address: PhysAddr, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let range = PhysRange::new(address, len).unwrap();
    ram.hardware_window(range).unwrap().read(&mut bytes);
    bytes
}

/// A device's write.
pub fn device_writes(ram: &HostRam, address: PhysAddr, bytes: &[u8]) {
    let range = PhysRange::new(address, bytes.len() as u64).unwrap();
    ram.hardware_window(range).unwrap().write(bytes);
}

pub fn at_ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}
