//! What caches do to drivers that forget them: each mutant dies, the careful driver lives.

use std::sync::atomic::Ordering;

use dmakit_addr::{DmaAddr, DmaMask, PhysRange};
use dmakit_platform::{Platform, Segment, SegmentRequest};
use dmakit_sim::{BUS_OFFSET, DeviceConfig, Machine, MachineConfig, MachineMemory, Rng, SimDevice};

const SEEDS: u64 = 256;

struct Bench {
    machine: Machine,
    device: SimDevice,
    buffer: Segment,
    rng: Rng,
}

impl Bench {
    /// A non-coherent machine whose adversary has had time to settle on the buffer's lines.
    fn new(seed: u64, len: u64) -> Self {
        let machine = MachineConfig::new(seed).non_coherent().build().unwrap();
        let memory = MachineMemory::new(&machine);
        let request = SegmentRequest {
            len,
            align: 64,
            node: None,
            limit: DmaMask::ALL,
        };
        Self {
            device: machine.add_device(DeviceConfig::new()),
            buffer: memory.allocate(&request).unwrap(),
            rng: Rng::new(!seed),
            machine,
        }
    }

    fn range(&self) -> PhysRange {
        self.buffer.range()
    }

    fn addr(&self) -> DmaAddr {
        DmaAddr::new(self.range().start().raw() + BUS_OFFSET)
    }

    fn pattern(&mut self) -> Vec<u8> {
        (0..self.buffer.len())
            .map(|_| self.rng.bits() as u8)
            .collect()
    }

    fn cpu_reads(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer.window().len()];
        self.buffer.window().read(&mut bytes);
        bytes
    }

    fn device_reads(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.buffer.window().len()];
        self.device.read(self.addr(), &mut bytes).unwrap();
        bytes
    }
}

/// In how many of the seeds data was lost.
fn lost(run: impl Fn(&mut Bench) -> bool, len: u64) -> u64 {
    (0..SEEDS)
        .filter(|&seed| run(&mut Bench::new(seed, len)))
        .count() as u64
}

fn to_device(bench: &mut Bench, cleans: bool) -> bool {
    let pattern = bench.pattern();
    bench.buffer.window().write(&pattern);
    if cleans {
        bench.machine.clean(bench.range());
    }
    bench.device_reads() != pattern
}

#[test]
fn a_driver_that_does_not_clean_sends_stale_bytes() {
    assert_eq!(lost(|bench| to_device(bench, true), 4096), 0);
    assert_eq!(lost(|bench| to_device(bench, false), 4096), SEEDS);
    let one_line = lost(|bench| to_device(bench, false), 64);
    assert!(one_line > SEEDS / 2, "{one_line} of {SEEDS} seeds");
}

struct FromDevice {
    invalidates_before: bool,
    invalidates_after: bool,
}

fn from_device(bench: &mut Bench, driver: &FromDevice) -> bool {
    let old = bench.pattern();
    bench.buffer.window().write(&old);
    if driver.invalidates_before {
        bench.machine.invalidate(bench.range());
    }
    let pattern = bench.pattern();
    bench.device.write(bench.addr(), &pattern).unwrap();
    bench.machine.disturb();
    if driver.invalidates_after {
        bench.machine.invalidate(bench.range());
    }
    bench.cpu_reads() != pattern
}

#[test]
fn a_driver_that_invalidates_only_once_reads_stale_bytes_or_loses_new_ones() {
    let lost_by = |invalidates_before, invalidates_after, len| {
        let driver = FromDevice {
            invalidates_before,
            invalidates_after,
        };
        lost(|bench| from_device(bench, &driver), len)
    };
    assert_eq!(lost_by(true, true, 4096), 0);
    assert_eq!(lost_by(false, false, 4096), SEEDS);
    assert_eq!(lost_by(true, false, 4096), SEEDS, "speculation refills");
    assert_eq!(lost_by(false, true, 4096), SEEDS, "dirty lines come down");
    let one_line = [(true, false), (false, true), (false, false)]
        .map(|(before, after)| lost_by(before, after, 64));
    assert!(
        one_line.iter().all(|&lost| lost > SEEDS / 3),
        "{one_line:?} of {SEEDS} seeds"
    );
}

#[test]
fn buffers_that_share_a_line_lose_each_others_bytes() {
    let neighbour_writes_during_dma = |bench: &mut Bench| {
        let range = bench.range();
        let mine = range.slice(32, 64).unwrap();
        bench.machine.invalidate(mine);
        let pattern = bench.pattern();
        let addr = DmaAddr::new(mine.start().raw() + BUS_OFFSET);
        // The neighbour has the bytes up to 32, which lie in the line of the first of ours.
        let theirs = bench.rng.bits() as u8;
        bench.buffer.window().slice(0, 32).unwrap().fill(theirs);
        bench.device.write(addr, &pattern[..64]).unwrap();
        bench.machine.disturb();
        bench.machine.invalidate(mine);
        let seen = bench.cpu_reads();
        seen[32..96] != pattern[..64] || seen[..32] != [theirs; 32]
    };
    let lost_once = lost(neighbour_writes_during_dma, 4096);
    assert!(lost_once > SEEDS / 3, "{lost_once} of {SEEDS} seeds");
    let again_and_again = |bench: &mut Bench| (0..64).any(|_| neighbour_writes_during_dma(bench));
    assert_eq!(lost(again_and_again, 4096), SEEDS);
}

#[test]
fn a_device_that_snoops_needs_no_maintenance() {
    for seed in 0..SEEDS {
        let mut bench = Bench::new(seed, 4096);
        bench.device = bench.machine.add_device(DeviceConfig::new().coherent(true));
        let pattern = bench.pattern();
        bench.buffer.window().write(&pattern);
        assert_eq!(bench.device_reads(), pattern, "seed {seed}");
        let pattern = bench.pattern();
        bench.device.write(bench.addr(), &pattern).unwrap();
        bench.machine.disturb();
        assert_eq!(bench.cpu_reads(), pattern, "seed {seed}");
    }
}

#[test]
fn what_the_cpu_wrote_is_never_lost_without_a_device_or_an_invalidate() {
    for seed in 0..32 {
        let mut bench = Bench::new(seed, 64 * 1024);
        let mut expected = bench.cpu_reads();
        for _ in 0..200 {
            let at = bench.rng.below(expected.len() as u64 - 256) as usize;
            let len = bench.rng.below(256) as usize;
            let byte = bench.rng.bits() as u8;
            expected[at..at + len].fill(byte);
            let part = bench.range().slice(at as u64, len as u64).unwrap();
            bench
                .buffer
                .window()
                .slice(at as u64, len as u64)
                .unwrap()
                .fill(byte);
            match bench.rng.below(3) {
                0 => bench.machine.clean(part),
                1 => bench.machine.clean_invalidate(part),
                _ => bench.machine.disturb(),
            }
        }
        assert_eq!(bench.cpu_reads(), expected, "seed {seed}");
        bench.machine.clean(bench.range());
        assert_eq!(bench.device_reads(), expected, "seed {seed}");
    }
}

#[test]
fn every_move_of_the_adversary_is_seen_in_some_seed() {
    let mut seen = [0; 4];
    for seed in 0..64 {
        let bench = Bench::new(seed, 64);
        bench.buffer.window().fill(1);
        let before_access = bench.device_reads() == [1; 64];
        seen[0] += u32::from(before_access);
        (0..100).for_each(|_| bench.machine.disturb());
        let mut below = [0; 64];
        bench.machine.peek(bench.range().start(), &mut below);
        seen[1] += u32::from(!before_access && below == [1; 64]);

        bench.machine.clean(bench.range());
        bench.device.write(bench.addr(), &[2; 64]).unwrap();
        let refilled = bench.machine.counts().lines_refilled > 0;
        let at_once = bench.cpu_reads() == [2; 64];
        seen[2] += u32::from(!refilled && at_once);
        (0..1000).for_each(|_| bench.machine.disturb());
        seen[3] += u32::from(!at_once && bench.cpu_reads() == [2; 64]);
    }
    let [before_access, later, absent, refilled] = seen;
    assert!(
        before_access > 2 && later > 32 && absent > 2 && refilled > 32,
        "written back before an access in {before_access} seeds, later in {later}; \
         absent at a write in {absent}, fetched again in {refilled}"
    );
}

#[test]
fn maintenance_of_what_is_no_ram_is_a_violation() {
    let bench = Bench::new(0, 4096);
    let range = PhysRange::new(dmakit_addr::PhysAddr::new(0x1000), 64).unwrap();
    bench.machine.clean(range);
    assert_eq!(bench.machine.take_violations().total, 1);
    bench.machine.clean(bench.range());
    bench.machine.check().unwrap();
}

#[test]
fn a_cpu_that_writes_while_lines_move_loses_nothing() {
    let bench = Bench::new(7, 4096);
    bench.buffer.window().fill(0);
    let words = bench.buffer.window().words64().unwrap();
    let addr = bench.addr();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for round in 0..2000 {
                bench.device.read(addr, &mut [0; 4096]).unwrap();
                // The word beside one of the CPU's: the line is stale, and is fetched again.
                let beside = DmaAddr::new(addr.raw() + round * 24 % 4080 + 8);
                bench.device.write(beside, &round.to_le_bytes()).unwrap();
                bench.machine.clean(bench.range());
            }
        });
        let mut value = 0;
        while !mover.is_finished() {
            value += 1;
            for word in words.iter().step_by(3) {
                word.store(value, Ordering::Relaxed);
            }
            for word in words.iter().step_by(3) {
                assert_eq!(word.load(Ordering::Relaxed), value);
            }
        }
    });
}
