//! CPUs that fill one command queue and wait for it, beside an SMMU that executes, under every
//! interleaving, preempted a bounded number of times. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use std::sync::OnceLock;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_platform::host::{HostRam, LoomLock, SegmentStore};
use dmakit_platform::{
    Barrier, ConversionError, CpuGuard, CpuId, Instant, Mmio, Platform, RawSpinLock,
};
use dmakit_smmuv3::spec::command::{Command, opcode, tlbi_nh_asid};
use dmakit_smmuv3::spec::registers as reg;
use dmakit_smmuv3::{Config, Smmu, Tag};
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[derive(Clone)]
struct Machine(Arc<Model>);

struct OnCpu;

impl CpuGuard for OnCpu {
    fn cpu(&self) -> CpuId {
        CpuId::new(0)
    }
}

impl Platform for Machine {
    type IrqLock = LoomLock;
    type SleepLock = RawSpinLock;
    type CpuGuard<'a> = OnCpu;

    fn now(&self) -> Instant {
        // Nothing times out: what never ends, the checker reports.
        Instant::from_nanos(0)
    }

    fn cpu_count(&self) -> usize {
        2
    }

    fn enter_cpu(&self) -> OnCpu {
        OnCpu
    }

    fn barrier(&self, barrier: Barrier) {
        if barrier == Barrier::AfterDevice && self.0.messages {
            // The checker knows nothing of memory: this stands for the order that a message which
            // was read there has.
            self.0.answered.fetch_add(0, Ordering::AcqRel);
        }
        fence(match barrier {
            Barrier::BeforeDevice => Ordering::Release,
            Barrier::AfterDevice => Ordering::Acquire,
            Barrier::Full => Ordering::SeqCst,
        });
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    fn clean(&self, _range: PhysRange) {}

    fn invalidate(&self, _range: PhysRange) {}

    fn clean_invalidate(&self, _range: PhysRange) {}

    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}

/// Looks of CPUs at the index, from which on the SMMU executes when it is looked at.
const LOOKS: u32 = 2;

/// An SMMU that executes on a thread of its own while CPUs go on, and when it was looked at often
/// enough, as it was while the driver started, at once: so every wait ends, whoever runs.
#[derive(Default)]
struct Model {
    producer: AtomicU32,
    consumer: AtomicU32,
    error: AtomicU32,
    acknowledged: AtomicU32,
    control: AtomicU32,
    interrupts: AtomicU32,
    ring: AtomicU64,
    looks: AtomicU32,
    /// What it has executed, as it knows best, and log2 of the ring's length.
    at: Mutex<(u32, u32)>,
    /// Which ASIDs were forgotten, a bit each: what is true, as a device sees it.
    forgotten: AtomicU64,
    syncs: AtomicU32,
    /// Whether syncs are answered in memory, and how many were.
    messages: bool,
    answered: AtomicU32,
}

#[derive(Clone)]
struct Regs(Arc<Model>);

impl Mmio for Regs {
    fn read32(&self, offset: u64) -> u32 {
        let model = &*self.0;
        let word = match offset {
            // Stage 1, AArch64 tables, coherent, maybe messages.
            reg::IDR0 => return 0b10 | 0b10 << 2 | 1 << 4 | u32::from(model.messages) << 13,
            reg::IDR1 => return 19 << 21 | 19 << 16 | 4,
            reg::IDR5 => return 4 | 0b111 << 4,
            reg::CMDQ_CONS => {
                // A read-modify-write meets the newest value, and orders nothing.
                if model.looks.fetch_add(1, Ordering::Relaxed) >= LOOKS {
                    model.execute();
                }
                &model.consumer
            }
            reg::CMDQ_PROD => &model.producer,
            reg::CR0 | reg::CR0ACK => &model.control,
            reg::IRQ_CTRL | reg::IRQ_CTRLACK => &model.interrupts,
            reg::GERROR => &model.error,
            reg::GERRORN => &model.acknowledged,
            _ => return 0,
        };
        match offset {
            // Only a barrier orders what is read in memory after the index.
            reg::CMDQ_CONS => word.load(Ordering::Relaxed),
            // Reads of one device's registers are in order.
            _ => word.load(Ordering::Acquire),
        }
    }

    fn read64(&self, _offset: u64) -> u64 {
        0
    }

    fn write32(&self, offset: u64, value: u32) {
        let model = &*self.0;
        match offset {
            reg::CMDQ_PROD => model.producer.store(value, Ordering::Release),
            reg::CR0 => model.control.store(value, Ordering::Relaxed),
            reg::IRQ_CTRL => model.interrupts.store(value, Ordering::Relaxed),
            reg::GERRORN => model.acknowledged.store(value, Ordering::Release),
            _ => {}
        }
    }

    fn write64(&self, offset: u64, value: u64) {
        if offset == reg::CMDQ_BASE {
            self.0.ring.store(value, Ordering::Relaxed);
        }
    }
}

impl Model {
    /// Executes what it is told, as far as it can.
    fn execute(&self) {
        let mut at = self.at.lock().unwrap();
        let (mut here, shift) = *at;
        let ring = PhysAddr::new(self.ring.load(Ordering::Relaxed) & 0x000f_ffff_ffff_ffe0);
        let ring = PhysRange::new(ring, 16 << shift).unwrap();
        let slots = machine().0.hardware_window(ring).unwrap();
        let slots = slots.words64().unwrap();
        let told = self.producer.load(Ordering::Acquire);
        let error = self.error.load(Ordering::Relaxed);
        if (error ^ self.acknowledged.load(Ordering::Acquire)) & reg::GERROR_CMDQ != 0 {
            return;
        }
        while here != told {
            let slot = (here & ((1 << shift) - 1)) as usize * 2;
            let command: Command = [0, 1].map(|word| slots[slot + word].load(Ordering::Relaxed));
            match opcode(command) {
                0x11 => {
                    let before = self.forgotten.load(Ordering::Relaxed);
                    let asid = command[0] >> 48;
                    self.forgotten.store(before | 1 << asid, Ordering::Relaxed);
                }
                0x46 => {
                    let before = self.syncs.load(Ordering::Relaxed);
                    self.syncs.store(before + 1, Ordering::Relaxed);
                    if command[0] >> 12 & 0b11 == 0b01 {
                        self.answer(command);
                    }
                }
                0xfe => {
                    self.consumer.store(here | 1 << 24, Ordering::Release);
                    self.error
                        .store(error ^ reg::GERROR_CMDQ, Ordering::Release);
                    break;
                }
                _ => {}
            }
            here = (here + 1) & ((2 << shift) - 1);
            self.consumer.store(here, Ordering::Release);
        }
        at.0 = here;
    }

    /// Writes what a sync asks for, where it asks for it.
    fn answer(&self, command: Command) {
        self.answered.fetch_add(1, Ordering::AcqRel);
        let word = PhysRange::new(PhysAddr::new(command[1]), 4).unwrap();
        let word = machine().0.hardware_window(word).unwrap();
        let data = (command[0] >> 32) as u32;
        word.words32().unwrap()[0].store(data, Ordering::Relaxed);
    }
}

type Driver = Smmu<Machine, Regs, SegmentStore>;

/// RAM, one for all interleavings: it is no part of what the checker explores.
fn machine() -> &'static (HostRam, SegmentStore) {
    static MACHINE: OnceLock<(HostRam, SegmentStore)> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let range = PhysRange::new(PhysAddr::new(1 << 32), 1 << 20).unwrap();
        let (ram, segments) = HostRam::new(&[range]).unwrap();
        let memory = SegmentStore::new();
        for segment in segments {
            memory.add(NodeId::new(0), segment);
        }
        (ram, memory)
    })
}

/// Two CPUs do what they are told, on a queue of `2^shift` commands, each with its number: how many
/// syncs that took.
fn two_cpus(shift: u32, run: fn(&Driver, u16)) -> u32 {
    two_cpus_on(Model::default(), 0, shift, run)
}

/// The same, with syncs that are answered in memory.
fn two_cpus_with_messages(shift: u32, run: fn(&Driver, u16)) -> u32 {
    let messages = true;
    let model = Model {
        messages,
        ..Model::default()
    };
    two_cpus_on(model, 0, shift, run)
}

/// The same on a model of which global errors of the bits of `error` are active once it is on.
fn two_cpus_on(model: Model, error: u32, shift: u32, run: fn(&Driver, u16)) -> u32 {
    let model = Arc::new(model);
    model.at.lock().unwrap().1 = shift;
    model.looks.store(LOOKS, Ordering::Relaxed);
    let config = Config {
        command_shift: shift,
        event_shift: 1,
        messages: model.messages,
        ..Config::default()
    };
    let (regs, memory) = (Regs(model.clone()), machine().1.clone());
    let driver = Arc::new(Smmu::start(Machine(model.clone()), regs, memory, config).unwrap());
    model.syncs.store(0, Ordering::Relaxed);
    model.looks.store(0, Ordering::Relaxed);
    model.error.store(error, Ordering::Relaxed);
    let cpu = |number: u16| {
        let (driver, model) = (driver.clone(), model.clone());
        move || {
            run(&driver, number);
            let forgotten = model.forgotten.load(Ordering::Relaxed);
            assert!(
                forgotten >> number & 1 != 0,
                "CPU {number} went on too early"
            );
        }
    };
    let cpus = [1, 2].map(|number| thread::spawn(cpu(number)));
    model.execute();
    for cpu in cpus {
        cpu.join().unwrap();
    }
    let Ok(driver) = Arc::try_unwrap(driver) else {
        panic!("a thread has kept the driver");
    };
    let [error, acknowledged] = [&model.error, &model.acknowledged];
    let active = error.load(Ordering::Relaxed) ^ acknowledged.load(Ordering::Relaxed);
    assert_eq!(active, 0, "an acknowledgement was undone");
    driver.stop().unwrap();
    model.syncs.load(Ordering::Relaxed)
}

fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.max_branches = 10_000;
    model.check(run);
}

#[test]
fn nobody_goes_on_before_what_it_queued_is_executed() {
    check(|| {
        let syncs = two_cpus(3, |driver, cpu| {
            driver.execute([tlbi_nh_asid(cpu)]).unwrap();
        });
        assert_eq!(syncs, 2);
    });
}

#[test]
fn a_sync_that_another_cpu_shares_completes_for_both() {
    check(|| {
        let syncs = two_cpus(3, |driver, cpu| {
            driver.invalidate_all(Tag::Asid(cpu)).unwrap();
            driver.sync().unwrap();
        });
        assert!(syncs == 1 || syncs == 2, "{syncs}");
    });
}

#[test]
fn a_ring_that_both_find_full_loses_no_command() {
    check(|| {
        two_cpus(1, |driver, cpu| {
            driver.execute([tlbi_nh_asid(cpu); 2]).unwrap();
        });
    });
}

#[test]
fn a_command_at_which_the_smmu_stops_is_replaced_once() {
    check(|| {
        two_cpus(3, |driver, cpu| {
            let bad: Command = [0xfe, 0];
            let commands = [bad, tlbi_nh_asid(cpu)];
            driver
                .execute(commands.into_iter().skip(usize::from(cpu == 2)))
                .unwrap();
            let refused = driver.command_counts().refused;
            assert!(cpu == 2 || refused == 1, "{refused}");
        });
    });
}

#[test]
fn nobody_believes_a_message_of_an_earlier_sync() {
    check(|| {
        let syncs = two_cpus_with_messages(3, |driver, cpu| {
            driver.execute([tlbi_nh_asid(cpu)]).unwrap();
        });
        assert_eq!(syncs, 2);
    });
}

#[test]
fn a_message_answers_all_who_share_its_sync() {
    check(|| {
        let syncs = two_cpus_with_messages(3, |driver, cpu| {
            driver.invalidate_all(Tag::Asid(cpu)).unwrap();
            driver.sync().unwrap();
        });
        assert!(syncs == 1 || syncs == 2, "{syncs}");
    });
}

#[test]
fn whoever_waits_for_a_message_replaces_the_command_at_which_the_smmu_stops() {
    check(|| {
        two_cpus_with_messages(3, |driver, cpu| {
            let bad: Command = [0xfe, 0];
            let commands = [bad, tlbi_nh_asid(cpu)];
            driver
                .execute(commands.into_iter().skip(usize::from(cpu == 2)))
                .unwrap();
        });
    });
}

#[test]
fn errors_that_two_cpus_acknowledge_at_once_are_acknowledged_each() {
    check(|| {
        two_cpus_on(
            Model::default(),
            reg::GERROR_EVENTQ_ABORT,
            3,
            |driver, cpu| {
                let bad: Command = [0xfe, 0];
                let commands = [bad, tlbi_nh_asid(cpu)];
                if cpu == 2 {
                    assert!(driver.take_events(|_| ()).lost);
                }
                driver
                    .execute(commands.into_iter().skip(usize::from(cpu == 2)))
                    .unwrap();
                let refused = driver.command_counts().refused;
                assert!(cpu == 2 || refused == 1, "{refused}");
            },
        );
    });
}
