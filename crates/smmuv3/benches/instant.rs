//! An SMMU that has executed every command as soon as it is told, and one that takes a CPU for it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_platform::Mmio;
use dmakit_platform::host::{HostPlatform, HostRam, SegmentStore};
use dmakit_smmuv3::spec::registers as reg;
use dmakit_smmuv3::{Config, Smmu};

/// log2 of the commands in the queue.
pub const SHIFT: u32 = 12;

/// Two stages, tables for AArch64, coherent, 16-bit ASIDs and VMIDs.
const IDR0: u32 = 0b11 | 0b10 << 2 | 1 << 4 | 1 << 12 | 1 << 18;
/// 19 bits for each queue, 8 bits of stream IDs.
const IDR1: u32 = 19 << 21 | 19 << 16 | 8;
/// Invalidation by range.
const IDR3: u32 = 1 << 10;
/// 44-bit addresses, every granule.
const IDR5: u32 = 4 | 0b111 << 4;

/// Words that registers are backed by: each on a line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU32);

#[derive(Default)]
struct Words {
    producer: Word,
    consumer: Word,
    control: Word,
    interrupts: Word,
    ring: AtomicU64,
    /// Told and answered: no part of an SMMU.
    called: Word,
    answered: Word,
}

/// Registers; a clone is the same SMMU.
#[derive(Clone)]
pub struct Instant {
    words: Arc<Words>,
    /// Whether the consumer index is the producer's.
    is_instant: bool,
    ranges: bool,
}

impl Instant {
    fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let words = &*self.words;
        match offset {
            reg::CMDQ_CONS if self.is_instant => Some(&words.producer.0),
            reg::CMDQ_PROD => Some(&words.producer.0),
            reg::CMDQ_CONS => Some(&words.consumer.0),
            reg::CR0 | reg::CR0ACK => Some(&words.control.0),
            reg::IRQ_CTRL | reg::IRQ_CTRLACK => Some(&words.interrupts.0),
            _ => None,
        }
    }

    /// Reads each command that it is told of, and says that it is executed, until `stop`.
    fn consume(&self, ram: &HostRam, stop: &AtomicBool) {
        let words = &*self.words;
        let mask = (2 << SHIFT) - 1;
        let mut at = 0;
        while !stop.load(Ordering::Relaxed) {
            let told = words.producer.0.load(Ordering::Acquire);
            let called = words.called.0.load(Ordering::Acquire);
            if words.answered.0.load(Ordering::Relaxed) != called {
                words.answered.0.store(called, Ordering::Release);
            }
            if told == at {
                std::hint::spin_loop();
                continue;
            }
            let ring = PhysAddr::new(words.ring.load(Ordering::Relaxed) & 0x000f_ffff_ffff_ffe0);
            let ring = PhysRange::new(ring, 16 << SHIFT).unwrap();
            let slots = ram.hardware_window(ring).unwrap().words64().unwrap();
            while at != told {
                let slot = (at & mask >> 1) as usize * 2;
                black_box([0, 1].map(|word| slots[slot + word].load(Ordering::Relaxed)));
                at = (at + 1) & mask;
            }
            words.consumer.0.store(at, Ordering::Release);
        }
    }
}

impl Mmio for Instant {
    #[inline(always)]
    fn read32(&self, offset: u64) -> u32 {
        match offset {
            reg::IDR0 => IDR0,
            reg::IDR1 => IDR1,
            reg::IDR3 if self.ranges => IDR3,
            reg::IDR5 => IDR5,
            _ => self
                .word(offset)
                .map_or(0, |word| word.load(Ordering::Acquire)),
        }
    }

    fn read64(&self, _offset: u64) -> u64 {
        0
    }

    #[inline(always)]
    fn write32(&self, offset: u64, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn write64(&self, offset: u64, value: u64) {
        if offset == reg::CMDQ_BASE {
            self.words.ring.store(value, Ordering::Relaxed);
        }
    }
}

/// The driver.
pub type Driver = Smmu<HostPlatform, Instant, SegmentStore>;

/// A running driver, and its RAM.
pub struct Rig {
    pub smmu: Driver,
    _ram: HostRam,
}

impl Rig {
    /// A driver of an SMMU that takes no time, with or without invalidation by range.
    pub fn new(ranges: bool) -> Self {
        let (ram, memory) = memory();
        let regs = Instant {
            words: Arc::default(),
            is_instant: true,
            ranges,
        };
        Self {
            smmu: start(regs, memory),
            _ram: ram,
        }
    }
}

#[allow(dead_code, reason = "for one of the programs that use this")]
/// Runs with the driver of an SMMU whose commands a thread executes, and with what tells that thread
/// of nothing and waits for its answer.
pub fn with_consumer(run: impl FnOnce(&Driver, &dyn Fn())) {
    let (ram, memory) = memory();
    let regs = Instant {
        words: Arc::default(),
        is_instant: false,
        ranges: true,
    };
    let (consumer, stop) = (regs.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // From before the driver's first sync.
        scope.spawn(|| consumer.consume(&ram, &stop));
        let words = regs.words.clone();
        let told = || {
            let next = words.called.0.load(Ordering::Relaxed) ^ 1;
            words.called.0.store(next, Ordering::Release);
            while words.answered.0.load(Ordering::Acquire) != next {
                std::hint::spin_loop();
            }
        };
        run(&start(regs, memory), &told);
        stop.store(true, Ordering::Relaxed);
    });
}

fn start(regs: Instant, memory: SegmentStore) -> Driver {
    let config = Config {
        command_shift: SHIFT,
        event_shift: 7,
        two_levels: false,
        messages: false,
        ..Config::default()
    };
    Smmu::start(HostPlatform::new(2), regs, memory, config).unwrap()
}

/// RAM, and a provider of it.
pub fn memory() -> (HostRam, SegmentStore) {
    let range = PhysRange::new(PhysAddr::new(1 << 32), 4 << 20).unwrap();
    let (ram, segments) = HostRam::new(&[range]).unwrap();
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    (ram, memory)
}
