//! Memory, numbers and ranges for the tests.
#![allow(dead_code, reason = "each test uses the parts that it needs")]

use std::sync::Mutex;

use dmakit_addr::{Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_platform::host::HostRam;
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};

/// Memory that is cut off in order and given back to lists by size; it can be told to run out.
pub struct Memory {
    inner: Mutex<Inner>,
    pub ram: HostRam,
}

struct Inner {
    rest: Option<Segment>,
    free: Vec<Segment>,
    taken: usize,
    allowed: usize,
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let range = PhysRange::new(PhysAddr::new(0x8_0000_0000), bytes).unwrap();
        let (ram, mut segments) = HostRam::new(&[range]).unwrap();
        let inner = Inner {
            rest: segments.pop(),
            free: Vec::new(),
            taken: 0,
            allowed: usize::MAX,
        };
        Self {
            inner: Mutex::new(inner),
            ram,
        }
    }

    pub fn allow(&self, tables: usize) {
        self.inner.lock().unwrap().allowed = tables;
    }

    pub fn taken(&self) -> usize {
        self.inner.lock().unwrap().taken
    }
}

impl TableMemory for &Memory {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        let mut inner = self.inner.lock().unwrap();
        if inner.allowed == 0 {
            return Err(refused);
        }
        let fits = inner.free.iter().position(|s| s.len() == request.len);
        let segment = match fits {
            Some(index) => inner.free.swap_remove(index),
            None => {
                let rest = inner.rest.take().ok_or(refused)?;
                let start = rest.range().start().raw();
                let skip = start.next_multiple_of(request.align) - start;
                let (_, rest) = rest.split_at(skip).map_err(|_| refused)?;
                let (segment, rest) = rest.split_at(request.len).map_err(|_| refused)?;
                inner.rest = Some(rest);
                segment
            }
        };
        assert!(segment.is_aligned(request.align));
        segment.window().fill(0);
        inner.taken += 1;
        inner.allowed -= 1;
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        let mut inner = self.inner.lock().unwrap();
        inner.taken -= 1;
        inner.free.push(segment);
    }
}

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

pub fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).unwrap()
}
