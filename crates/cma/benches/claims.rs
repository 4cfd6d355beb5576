//! The operation sequences of claims, for every program that measures them.

use dmakit_addr::{Address, Pfn, PfnRange};
use dmakit_cma::Area;
use dmakit_platform::host::HostPlatform;

pub const GIB_FRAMES: u64 = 1 << 18;
pub const BASE: u64 = 1 << 24;

/// xorshift64*, seeded the same for every sequence; setup draws count.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let out = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        (((out >> 32) * bound as u64) >> 32) as usize
    }
}

/// What is driven.
pub trait Subject {
    fn claim(&mut self, order: u32) -> Option<u64>;
    fn release(&mut self, start: u64, order: u32);
}

/// An area, and perhaps a note of its answers.
pub struct Claims {
    pub area: Area<HostPlatform>,
    pub answers: Option<Vec<Option<u64>>>,
}

impl Subject for Claims {
    #[inline]
    fn claim(&mut self, order: u32) -> Option<u64> {
        let claimed = self.area.claim(1 << order, order.min(8));
        let start = claimed.ok().map(|range| range.start().raw());
        if let Some(answers) = &mut self.answers {
            answers.push(start);
        }
        start
    }

    #[inline]
    fn release(&mut self, start: u64, order: u32) {
        let range = PfnRange::new(Pfn::new(start), 1 << order);
        let released = range.map(|range| self.area.release(range));
        assert!(matches!(released, Ok(Ok(()))));
    }
}

#[derive(Clone, Copy)]
pub enum Cell {
    Pair { percent: u64, order: u32 },
    Random { percent: u64, order: u32 },
    Swap { percent: u64, order: u32 },
    Prefix { percent: u64, order: u32 },
    Fail { order: u32 },
    Mix { percent: u64 },
}

fn unpack(live: u64) -> (u64, u32) {
    (live >> 8, (live & 0xff) as u32)
}

pub struct Sequence<S> {
    pub subject: S,
    /// First frame and, in the low byte, order: as dense as pointers are.
    live: Vec<u64>,
    draws: Draws,
    frames: u64,
}

impl<S: Subject> Sequence<S> {
    pub fn new(subject: S, frames: u64) -> Self {
        Self {
            subject,
            live: Vec::new(),
            draws: Draws(0x9E37_79B9_7F4A_7C15),
            frames,
        }
    }

    fn fill(&mut self, order: u32, percent: u64) {
        if percent == 0 {
            return;
        }
        while let Some(start) = self.subject.claim(order) {
            self.live.push(start << 8 | u64::from(order));
        }
        let keep = (self.live.len() as u64 * percent / 100) as usize;
        while self.live.len() > keep {
            self.release_random();
        }
    }

    fn release_random(&mut self) -> u64 {
        let victim = self.draws.below(self.live.len());
        let (start, order) = unpack(self.live.swap_remove(victim));
        self.subject.release(start, order);
        1 << order
    }

    pub fn set_up(&mut self, cell: Cell) {
        match cell {
            Cell::Pair { percent, order } => self.fill(order, percent),
            Cell::Random { percent, order } | Cell::Swap { percent, order } => {
                self.fill(order, percent);
                let warm = 4 * self.live.len();
                self.random(if self.frames > GIB_FRAMES {
                    warm.min(400_000)
                } else {
                    warm
                });
            }
            Cell::Prefix { percent, .. } => {
                for _ in 0..(self.frames * percent / 100) >> 14 {
                    self.subject.claim(14);
                }
            }
            Cell::Fail { .. } => self.fill(0, 75),
            Cell::Mix { percent } => self.fill_mixed(percent),
        }
    }

    fn fill_mixed(&mut self, percent: u64) {
        let (mut used, mut misses) = (0, 0);
        while misses < 16 {
            let order = self.draws.below(10) as u32;
            match self.subject.claim(order) {
                Some(start) => {
                    self.live.push(start << 8 | u64::from(order));
                    used += 1 << order;
                    misses = 0;
                }
                None => misses += 1,
            }
        }
        while used > self.frames * percent / 100 {
            used -= self.release_random();
        }
    }

    fn pairs(&mut self, order: u32, count: usize) {
        for _ in 0..count {
            if let Some(start) = self.subject.claim(order) {
                self.subject.release(start, order);
            }
        }
    }

    fn random(&mut self, count: usize) {
        for _ in 0..count {
            let victim = self.draws.below(self.live.len());
            let (start, order) = unpack(self.live[victim]);
            self.subject.release(start, order);
            if let Some(start) = self.subject.claim(order) {
                self.live[victim] = start << 8 | u64::from(order);
            }
        }
    }

    /// Two victims go before two blocks come: an operation is a claim and a release, as elsewhere.
    fn swaps(&mut self, count: usize) {
        for _ in 0..count / 2 {
            let victims = [0, 1].map(|_| self.draws.below(self.live.len()));
            if victims[0] == victims[1] {
                continue;
            }
            let blocks = victims.map(|victim| unpack(self.live[victim]));
            for (start, order) in blocks {
                self.subject.release(start, order);
            }
            for (victim, (_, order)) in victims.into_iter().zip(blocks) {
                if let Some(start) = self.subject.claim(order) {
                    self.live[victim] = start << 8 | u64::from(order);
                }
            }
        }
    }

    pub fn pass(&mut self, cell: Cell, count: usize) {
        match cell {
            Cell::Pair { order, .. } | Cell::Prefix { order, .. } => self.pairs(order, count),
            Cell::Random { .. } | Cell::Mix { .. } => self.random(count),
            Cell::Swap { .. } => self.swaps(count),
            Cell::Fail { order } => {
                for _ in 0..count {
                    assert_eq!(self.subject.claim(order), None);
                }
            }
        }
    }
}

/// An area of so many frames, none of them claimed.
pub fn area(frames: u64) -> Area<HostPlatform> {
    let range = PfnRange::new(Pfn::from_raw(BASE), frames).expect("a small range");
    Area::new(&[range], 0).expect("one aligned range")
}
