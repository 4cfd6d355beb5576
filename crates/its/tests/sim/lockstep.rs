//! Devices, events and LPIs against a naive model of who should get what.
//!
//! Each seed makes some operations rare and others frequent. After each step the model says which
//! interrupts arrive, which numbers are out and how much memory is; refused commands and allocations
//! that fail come now and then, and change nothing.

use std::collections::{BTreeMap, BTreeSet};

use dmakit_its::{CommandFailure, CreateError, Device, EventError, Lpi, LpiConfig, Lpis};
use dmakit_sim::{FaultPlan, ItsConfig, Machine, OnCommandError, Rng, Shareable, Step};

use crate::rig::{Driver, Rig};

/// Operations: how often each comes, of their sum.
const KINDS: usize = 8;

/// What an event should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    number: u32,
    cpu: u16,
    is_on: bool,
    is_pending: bool,
}

struct World {
    rig: Rig,
    its: Driver,
    lpis: Lpis<Machine>,
    rng: Rng,
    weights: [u64; KINDS],
    devices: BTreeMap<u32, Device>,
    expected: BTreeMap<(u32, u32), Expected>,
    seed: u64,
}

/// IDs that are used: a few, in different pages of a second level.
const IDS: [u32; 6] = [0, 1, 0x1fff, 0x2000, 0x9000, 0xffff];

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::derived(seed, 0x175);
        let config = ItsConfig {
            event_entry: 1 + rng.below(16),
            device_entry: 1 + rng.below(32),
            two_levels: rng.chance(192),
            by_address: rng.chance(128),
            shareable: rng.pick(&[Shareable::AsWritten, Shareable::Outer, Shareable::Never]),
            on_error: OnCommandError::Stall,
            interrupt_bits: 14,
            ..ItsConfig::default()
        };
        let rig = Rig::new(seed, config);
        let lpis = LpiConfig {
            id_bits: 14,
            ..LpiConfig::default()
        };
        let (its, lpis) = rig.bring_up(rig.config(), lpis);
        let weights = [(); KINDS].map(|()| rng.pick(&[0, 1, 4, 16]));
        Self {
            rig,
            its,
            lpis,
            rng,
            weights,
            devices: BTreeMap::new(),
            expected: BTreeMap::new(),
            seed,
        }
    }

    fn kind(&mut self) -> usize {
        let sum: u64 = self.weights.iter().sum();
        if sum == 0 {
            return 0;
        }
        let mut at = self.rng.below(sum);
        for (kind, weight) in self.weights.iter().enumerate() {
            if at < *weight {
                return kind;
            }
            at -= weight;
        }
        0
    }

    fn event(&mut self) -> Option<(u32, u32)> {
        let count = self.expected.len() as u64;
        if count == 0 {
            return None;
        }
        let index = self.rng.below(count) as usize;
        self.expected.keys().nth(index).copied()
    }

    fn step(&mut self) {
        match self.kind() {
            0 => self.create(),
            1 => self.destroy(),
            2 | 3 => self.map(),
            4 => self.unmap(),
            5 => self.move_event(),
            6 => self.configure(),
            _ => self.raise(),
        }
        if let Some(at) = self.event() {
            self.check(at);
        }
    }

    /// Lets the next command of a kind be refused, now and then.
    fn maybe_refuse(&mut self, opcode: u8) -> bool {
        let refuses = self.rng.chance(24);
        if refuses {
            self.rig.sim.refuse(opcode);
        }
        refuses
    }

    fn create(&mut self) {
        let id = self.rng.pick(&IDS);
        let events = 1 + self.rng.below(70) as u32;
        let given = self.rig.memory.outstanding_bytes();
        let fails = self.rng.chance(32);
        let refuses = !fails && !self.devices.contains_key(&id) && self.maybe_refuse(0x08);
        if fails {
            let plan = FaultPlan::none().after(Step::ALLOCATE_TABLE, self.rng.below(2));
            self.rig.machine.inject(&plan);
        }
        let result = self.its.create_device(id, events);
        self.rig.machine.inject(&FaultPlan::none());
        // The page of a second level stays.
        let page = 0x1_0000;
        match result {
            Ok(device) => {
                assert!(!refuses && !self.devices.contains_key(&id));
                self.devices.insert(id, device);
            }
            Err(CreateError::InUse { .. }) => assert!(self.devices.contains_key(&id)),
            Err(CreateError::Memory(_)) => {
                assert!(fails);
                let now = self.rig.memory.outstanding_bytes();
                assert!(now == given || now == given + page);
            }
            Err(CreateError::Refused(CommandFailure::Refused(_))) => {
                assert!(refuses);
                let now = self.rig.memory.outstanding_bytes();
                assert!(now == given || now == given + page);
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn destroy(&mut self) {
        assert_eq!(self.rig.strays(), [], "seed {}", self.seed);
        let id = self.rng.pick(&IDS);
        let Some(device) = self.devices.remove(&id) else {
            return;
        };
        let is_used = self.expected.keys().any(|(other, _)| *other == id);
        let len = device.table().len();
        let given = self.rig.memory.outstanding_bytes();
        match self.its.destroy_device(device) {
            Ok(foreign) => {
                assert!(!is_used && foreign.is_none());
                assert_eq!(self.rig.memory.outstanding_bytes(), given - len);
            }
            Err(dmakit_its::DestroyError::InUse { device, .. }) => {
                assert!(is_used);
                self.devices.insert(id, device);
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn map(&mut self) {
        let id = self.rng.pick(&IDS);
        let cpu = self.rng.below(2) as u16;
        let Some(events) = self.devices.get(&id).map(Device::events) else {
            return;
        };
        let event = self.rng.below(events.into()) as u32;
        let lpi = self.lpis.allocate().unwrap();
        let number = lpi.number();
        let out: BTreeSet<u32> = self.expected.values().map(|one| one.number).collect();
        let lowest = (8192..).find(|number| !out.contains(number));
        assert_eq!(Some(number), lowest, "seed {}", self.seed);
        let is_used = self.expected.contains_key(&(id, event));
        let refuses = !is_used && self.maybe_refuse(0x0a);
        let device = self.devices.get_mut(&id).unwrap();
        match self.its.map(device, event, lpi, cpu) {
            Ok(()) => {
                assert!(!is_used && !refuses);
                let expected = Expected {
                    number,
                    cpu,
                    is_on: false,
                    is_pending: false,
                };
                self.expected.insert((id, event), expected);
            }
            Err(error) => {
                assert_eq!(error.error == EventError::InUse { event }, is_used);
                assert!(is_used || refuses);
                let lpi: Lpi = error.lpi.unwrap();
                self.lpis.free(lpi);
            }
        }
    }

    fn unmap(&mut self) {
        let Some(at) = self.event() else {
            return;
        };
        let refuses = self.maybe_refuse(0x0f);
        let device = self.devices.get_mut(&at.0).unwrap();
        match self.its.unmap(device, at.1) {
            Ok(lpi) => {
                let expected = self.expected.remove(&at).unwrap();
                assert_eq!(lpi.number(), expected.number);
                let cpu = self.rig.sim.redistributor(expected.cpu);
                assert!(!cpu.is_pending(expected.number), "seed {}", self.seed);
                self.lpis.free(lpi);
                // Nothing comes of it any more.
                let dropped = self.rig.sim.dropped();
                self.rig.sim.raise(at.0, at.1);
                assert_eq!(self.rig.sim.dropped(), dropped + 1);
            }
            Err(error) => assert!(refuses, "seed {}: {error}", self.seed),
        }
    }

    fn move_event(&mut self) {
        let Some(at) = self.event() else {
            return;
        };
        let cpu = self.rng.below(2) as u16;
        let refuses = self.maybe_refuse(0x01);
        let device = self.devices.get_mut(&at.0).unwrap();
        let moved = self.its.move_event(device, at.1, cpu);
        assert_eq!(moved.is_err(), refuses, "seed {}", self.seed);
        if !refuses {
            self.expected.get_mut(&at).unwrap().cpu = cpu;
        }
    }

    fn configure(&mut self) {
        let Some(at) = self.event() else {
            return;
        };
        let is_on = self.rng.chance(160);
        let device = &self.devices[&at.0];
        match is_on {
            true => self.its.enable(&self.lpis, device, at.1).unwrap(),
            false => self.its.disable(&self.lpis, device, at.1).unwrap(),
        }
        self.expected.get_mut(&at).unwrap().is_on = is_on;
    }

    fn raise(&mut self) {
        let Some(at) = self.event() else {
            return;
        };
        let by_command = self.rng.chance(64);
        let clears = self.rng.chance(64);
        let device = &self.devices[&at.0];
        match (clears, by_command) {
            (true, _) => self.its.clear(device, at.1).unwrap(),
            (false, true) => self.its.raise(device, at.1).unwrap(),
            (false, false) => self.rig.sim.raise(at.0, at.1),
        }
        self.expected.get_mut(&at).unwrap().is_pending = !clears;
    }

    /// One event does what it should, and takes its interrupt where there is one.
    fn check(&mut self, at: (u32, u32)) {
        let expected = self.expected.get_mut(&at).unwrap();
        let [here, there] =
            [expected.cpu, 1 - expected.cpu].map(|cpu| self.rig.sim.redistributor(cpu));
        let seed = self.seed;
        assert_eq!(
            here.is_pending(expected.number),
            expected.is_pending,
            "seed {seed}"
        );
        assert!(!there.is_pending(expected.number), "seed {seed}: elsewhere");
        let comes = here.take(expected.number);
        assert_eq!(comes, expected.is_pending && expected.is_on, "seed {seed}");
        expected.is_pending &= !comes;
    }

    fn check_all(&mut self) {
        for at in self.expected.keys().copied().collect::<Vec<_>>() {
            self.check(at);
        }
        let out = self.lpis.count() - self.lpis.free_count();
        assert_eq!(out as usize, self.expected.len(), "seed {}", self.seed);
        assert_eq!(self.rig.strays(), [], "seed {}", self.seed);
        let counts = self.its.command_counts();
        assert_eq!(counts.refused, self.rig.sim.refused());
        self.rig.machine.check().unwrap();
    }
}

/// Whether the model agrees for so many steps; `ignored` commands do nothing.
fn run(steps: u64, ignored: Option<u8>) {
    const EACH: u64 = 500;
    for seed in 0..steps.div_ceil(EACH) {
        let mut world = World::new(seed);
        if let Some(opcode) = ignored {
            world.rig.sim.ignore(opcode);
        }
        for step in 1..=EACH {
            world.step();
            if step % 100 == 0 {
                world.check_all();
            }
        }
        world.its.stop(|_| panic!("there is one provider")).unwrap();
    }
}

#[test]
fn every_interrupt_arrives_where_a_naive_model_says() {
    // More steps with DMAKIT_STEPS.
    let steps = std::env::var("DMAKIT_STEPS").map_or(100_000, |steps| steps.parse().unwrap());
    run(steps, None);
}

#[test]
fn the_model_notices_commands_that_do_nothing() {
    for opcode in [0x01, 0x03, 0x04, 0x05, 0x08, 0x0a, 0x0c, 0x0f] {
        let noticed = std::panic::catch_unwind(|| run(20_000, Some(opcode))).is_err();
        assert!(noticed, "{opcode:#x}");
    }
}
