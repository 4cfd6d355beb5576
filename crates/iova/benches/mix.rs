//! Live blocks of random sizes, of which one goes and another comes.
#![allow(dead_code, reason = "each program uses the parts that it needs")]

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange};
use dmakit_iova::{CpuCache, Policy, Request, Reservation, Space};
use dmakit_platform::CpuSlot;
use dmakit_platform::host::{HostPlatform, ThreadCpu};

use super::passes::Draws;

pub const G: u64 = 4096;
pub const BITS_48: DmaMask = DmaMask::up_to((1 << 48) - 1);
pub const BITS_32: DmaMask = DmaMask::up_to((1 << 32) - 1);

pub type TestSpace = Space<HostPlatform, Vec<CpuSlot<CpuCache>>>;

pub fn space(cpus: usize) -> TestSpace {
    let aperture = IovaRange::new(Iova::new(G), (1 << 48) - G).unwrap();
    let slots = (0..cpus).map(|_| CpuSlot::default()).collect();
    Space::new(Granule::K4, aperture, Policy::TopDown, slots).unwrap()
}

pub fn request(pages: u64, limit: DmaMask) -> Request {
    Request {
        len: pages * G,
        align: 1,
        limit,
    }
}

pub struct Mix {
    pub space: TestSpace,
    live: Vec<Option<Reservation>>,
    draws: Draws,
    hand: usize,
    limit: DmaMask,
    sizes: usize,
}

impl Mix {
    pub fn new(
        space: TestSpace,
        cpu: &ThreadCpu,
        live: usize,
        limit: DmaMask,
        sizes: usize,
    ) -> Self {
        let mut this = Self {
            space,
            live: Vec::new(),
            draws: Draws::default(),
            hand: 0,
            limit,
            sizes,
        };
        for _ in 0..live {
            let got = this.draw(cpu);
            this.live.push(got);
        }
        this
    }

    fn draw(&mut self, cpu: &ThreadCpu) -> Option<Reservation> {
        let pages = 1 << self.draws.below(self.sizes);
        let got = self.space.alloc(cpu, &request(pages, self.limit));
        got.ok().or_else(|| self.draw_with_records(cpu, pages))
    }

    #[cold]
    fn draw_with_records(&self, cpu: &ThreadCpu, pages: u64) -> Option<Reservation> {
        self.space.maintain().unwrap();
        self.space.alloc(cpu, &request(pages, self.limit)).ok()
    }

    fn victim(&mut self, is_random: bool) -> usize {
        if is_random {
            return self.draws.below(self.live.len());
        }
        self.hand = (self.hand + 1) % self.live.len();
        self.hand
    }

    pub fn run(&mut self, cpu: &ThreadCpu, ops: usize, is_random: bool) {
        for _ in 0..ops {
            let victim = self.victim(is_random);
            if let Some(old) = self.live[victim].take() {
                self.space.free(cpu, old);
            }
            self.live[victim] = self.draw(cpu);
        }
    }
}

/// The memory that the sequence touches whatever the allocator: the slot of the victim, one bit of a
/// flat map for the block that goes and one for the block that comes in its stead.
pub struct Touches {
    slots: Vec<[u64; 4]>,
    map: Vec<u64>,
    draws: Draws,
    hand: usize,
    sizes: usize,
}

impl Touches {
    pub fn of(mix: &Mix) -> Self {
        let granules: Vec<u64> = mix
            .live
            .iter()
            .map(|got| got.as_ref().map_or(0, |got| got.range().start().raw() / G))
            .collect();
        let lowest = granules
            .iter()
            .copied()
            .filter(|at| *at != 0)
            .min()
            .unwrap_or(0);
        let highest = granules.iter().copied().max().unwrap_or(0);
        Self {
            slots: granules
                .iter()
                .map(|at| [at.saturating_sub(lowest), 1, 1, 1])
                .collect(),
            map: vec![0; ((highest - lowest) / 64 + 1) as usize],
            draws: mix.draws.clone(),
            hand: 0,
            sizes: mix.sizes,
        }
    }

    pub fn replay(&mut self, ops: usize, is_random: bool) {
        let mut spare = self.slots[0];
        for _ in 0..ops {
            self.hand = (self.hand + 1) % self.slots.len();
            let victim = if is_random {
                self.draws.below(self.slots.len())
            } else {
                self.hand
            };
            let size = self.draws.below(self.sizes) as u64;
            let old = std::mem::replace(&mut self.slots[victim], spare);
            self.map[(old[0] / 64) as usize] |= 1 << (old[0] % 64);
            self.map[(spare[0] / 64) as usize] &= !(1 << (spare[0] % 64));
            spare = [old[0], size, 1, 1];
        }
    }
}
