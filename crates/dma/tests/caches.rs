//! Each cache maintenance step of the stack is needed: without it, data is lost.
// A refused token comes back in the error, and tokens own their memory.
#![allow(clippy::result_large_err)]

mod rig;

use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{Coherence, Device};
use dmakit_sim::SimDevice;
use rig::{
    CLEAN, CLEAN_INVALIDATE, Forgetful, INVALIDATE, LINES, PathKind, Rig, bytes_of, pattern,
};

/// A careful stack loses nothing under so many adversaries.
const SEEDS: u64 = 12;
/// Among so many adversaries, one makes a careless stack pay.
const SEEDS_MAX: u64 = 96;
/// What the owners of neighbouring memory write while the buffer is mapped.
const NEWS: u8 = 0x3a;
const LEN: u64 = 1024;

/// The steps of a transfer at which maintenance can be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Map,
    ForCpu,
    ForDevice,
    Unmap,
}

/// What is forgotten, and when.
type Mutant = Option<(At, u32)>;

struct Bench<'r> {
    rig: &'r Rig,
    device: Device<'r, Forgetful>,
    sim: SimDevice,
    mutant: Mutant,
    seed: u64,
}

impl Bench<'_> {
    fn step<T>(&self, at: At, act: impl FnOnce() -> T) -> T {
        let forgets = self
            .mutant
            .map_or(0, |(when, what)| if when == at { what } else { 0 });
        let result = self.rig.platform.forgetting(forgets, act);
        self.rig.machine.disturb();
        result
    }

    fn device_sees(&self, addr: dmakit_addr::DmaAddr, expected: &[u8]) -> bool {
        let mut seen = vec![0; expected.len()];
        self.sim.read(addr, &mut seen).unwrap();
        self.rig.machine.disturb();
        seen == expected
    }

    fn device_writes(&self, addr: dmakit_addr::DmaAddr, bytes: &[u8]) {
        self.sim.write(addr, bytes).unwrap();
        for _ in 0..4 {
            self.rig.machine.disturb();
        }
    }

    /// What the device was to read is what it reads, at first and after it was changed.
    fn sends(&self, offset: u64) -> bool {
        let mut lent = self.rig.buffer(LEN, offset, false);
        let (one, two) = (pattern(self.seed, LEN), pattern(!self.seed, LEN));
        let mut buffer = lent.take();
        buffer.write(0, &one);
        self.rig.machine.disturb();
        let mapping = self.step(At::Map, || {
            self.device.map::<ToDevice>(buffer, Attributes::NONE)
        });
        let mapping = mapping.unwrap();
        let addr = mapping.dma_addr();
        lent.neighbours_write(NEWS);
        let mut held = self.device_sees(addr, &one);
        let mut cpu = mapping.withdraw();
        cpu.write(0, &two);
        let mapping = self
            .step(At::ForDevice, || self.device.sync_for_device(cpu))
            .unwrap();
        held &= self.device_sees(addr, &two);
        let buffer = self
            .step(At::Unmap, || self.device.unmap_and_sync(mapping))
            .unwrap();
        held && bytes_of(&buffer) == two && lent.has_neighbours(NEWS)
    }

    /// What the device writes is what the CPU reads, twice, whatever the CPU left there before.
    fn receives(&self, offset: u64) -> bool {
        let mut lent = self.rig.buffer(LEN, offset, false);
        let (one, two) = (pattern(self.seed, LEN), pattern(!self.seed, LEN));
        let mut buffer = lent.take();
        buffer.write(0, &pattern(7, LEN));
        let mapping = self.step(At::Map, || {
            self.device.map::<FromDevice>(buffer, Attributes::NONE)
        });
        let mapping = mapping.unwrap();
        let addr = mapping.dma_addr();
        lent.neighbours_write(NEWS);
        self.device_writes(addr, &one);
        let cpu = self
            .step(At::ForCpu, || self.device.sync_for_cpu(mapping))
            .unwrap();
        let mut seen = vec![0; LEN as usize];
        cpu.read(0, &mut seen);
        let mut held = seen == one;
        let mapping = cpu.resubmit();
        self.device_writes(addr, &two);
        let buffer = self
            .step(At::Unmap, || self.device.unmap_and_sync(mapping))
            .unwrap();
        held &= bytes_of(&buffer) == two;
        held && lent.has_neighbours(NEWS)
    }

    /// Both sides write in turn.
    fn converses(&self, offset: u64) -> bool {
        let mut lent = self.rig.buffer(LEN, offset, false);
        let texts: Vec<_> = (0..4).map(|i| pattern(self.seed + i, LEN)).collect();
        let mut buffer = lent.take();
        buffer.write(0, &texts[0]);
        let mapping = self.step(At::Map, || {
            self.device.map::<Bidirectional>(buffer, Attributes::NONE)
        });
        let mapping = mapping.unwrap();
        let addr = mapping.dma_addr();
        lent.neighbours_write(NEWS);
        let mut held = self.device_sees(addr, &texts[0]);
        self.device_writes(addr, &texts[1]);
        let mut cpu = self
            .step(At::ForCpu, || self.device.sync_for_cpu(mapping))
            .unwrap();
        let mut seen = vec![0; LEN as usize];
        cpu.read(0, &mut seen);
        held &= seen == texts[1];
        cpu.write(0, &texts[2]);
        let mapping = self
            .step(At::ForDevice, || self.device.sync_for_device(cpu))
            .unwrap();
        held &= self.device_sees(addr, &texts[2]);
        self.device_writes(addr, &texts[3]);
        let buffer = self
            .step(At::Unmap, || self.device.unmap_and_sync(mapping))
            .unwrap();
        held && bytes_of(&buffer) == texts[3] && lent.has_neighbours(NEWS)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Story {
    Sends,
    Receives,
    Converses,
}

/// Whether the story ends well.
fn ends_well(seed: u64, story: Story, path: PathKind, offset: u64, mutant: Mutant) -> bool {
    let rig = Rig::non_coherent(seed);
    let (sim, info) = rig.device(1, 64, Coherence::NonCoherent);
    let device = rig.attach(info, path);
    let bench = Bench {
        rig: &rig,
        device,
        sim,
        mutant,
        seed,
    };
    match story {
        Story::Sends => bench.sends(offset),
        Story::Receives => bench.receives(offset),
        Story::Converses => bench.converses(offset),
    }
}

#[test]
fn with_all_maintenance_every_byte_arrives() {
    for story in [Story::Sends, Story::Receives, Story::Converses] {
        for path in [PathKind::Needed, PathKind::Always] {
            for offset in [0, 64, 4, 61] {
                for seed in 0..SEEDS {
                    let well = ends_well(seed, story, path, offset, None);
                    assert!(well, "{story:?}, {path:?}, offset {offset}, seed {seed}");
                }
            }
        }
    }
}

#[test]
fn every_forgotten_step_is_seen() {
    let steps = [
        (Story::Sends, At::Map, CLEAN),
        (Story::Sends, At::ForDevice, CLEAN),
        (Story::Receives, At::Map, CLEAN_INVALIDATE),
        (Story::Receives, At::ForCpu, INVALIDATE),
        (Story::Receives, At::Unmap, INVALIDATE),
        (Story::Converses, At::Map, CLEAN_INVALIDATE),
        (Story::Converses, At::ForCpu, INVALIDATE),
        (Story::Converses, At::ForDevice, CLEAN),
        (Story::Converses, At::Unmap, INVALIDATE),
    ];
    for (story, at, what) in steps {
        for path in [PathKind::Needed, PathKind::Always] {
            let mutant = Some((at, what));
            let is_killed = (0..SEEDS_MAX).any(|seed| !ends_well(seed, story, path, 0, mutant));
            assert!(
                is_killed,
                "{story:?} without maintenance at {at:?}, {path:?}, always works"
            );
        }
    }
}

#[test]
fn a_buffer_that_shares_its_lines_and_is_not_bounced_hurts_its_neighbours() {
    for story in [Story::Receives, Story::Converses] {
        let mutant = Some((At::Map, LINES));
        let path = PathKind::Needed;
        let is_killed = (0..SEEDS_MAX).any(|seed| !ends_well(seed, story, path, 4, mutant));
        assert!(
            is_killed,
            "{story:?}: taking shared lines for whole ones always works"
        );
    }
}
