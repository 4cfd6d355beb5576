//! A machine with an adversarial ITS, and the driver on it.

use dmakit_addr::NodeId;
use dmakit_its::{Config, Device, Its, LpiConfig, Lpis, Redistributor, Target};
use dmakit_platform::{Mmio, TableMemory};
use dmakit_sim::{ItsConfig, Machine, MachineConfig, MachineMemory, SimIts};

pub struct Rig {
    pub machine: Machine,
    pub memory: MachineMemory,
    pub sim: SimIts,
}

pub type Driver<R = SimIts, M = MachineMemory> = Its<Machine, R, M>;

impl Rig {
    /// A machine with caches that devices may go past.
    pub fn new(seed: u64, config: ItsConfig) -> Self {
        let machine = MachineConfig::new(seed).non_coherent().build().unwrap();
        let sim = machine.add_its(config);
        Self {
            memory: MachineMemory::new(&machine),
            sim,
            machine,
        }
    }

    pub fn config(&self) -> Config {
        Config::new(self.sim.base(), self.sim.config().redistributors)
    }

    pub fn driver(&self, config: Config) -> Driver {
        self.driver_over(self.sim.clone(), self.memory.clone(), config)
    }

    pub fn driver_over<R: Mmio, M: TableMemory>(
        &self,
        regs: R,
        memory: M,
        config: Config,
    ) -> Driver<R, M> {
        Its::start(self.machine.clone(), regs, memory, config).unwrap()
    }

    pub fn lpis(&self, config: LpiConfig) -> Lpis<Machine> {
        Lpis::new(self.machine.clone(), &self.memory, config).unwrap()
    }

    pub fn redistributors(&self, lpis: &Lpis<Machine>) -> Vec<Redistributor> {
        let cpus = 0..self.sim.config().redistributors;
        cpus.map(|cpu| {
            let regs = self.sim.redistributor(cpu);
            let node = Some(NodeId::new(0));
            Redistributor::start(&regs, regs.base(), node, lpis, &self.memory).unwrap()
        })
        .collect()
    }

    /// The whole: LPIs on each CPU, and a collection for each.
    pub fn bring_up(&self, config: Config, lpis: LpiConfig) -> (Driver, Lpis<Machine>) {
        let its = self.driver(config);
        let lpis = self.lpis(lpis);
        self.map_collections(&its, &lpis);
        (its, lpis)
    }

    pub fn map_collections<R: Mmio, M: TableMemory>(
        &self,
        its: &Driver<R, M>,
        lpis: &Lpis<Machine>,
    ) {
        for (cpu, redistributor) in (0..).zip(self.redistributors(lpis)) {
            its.map_collection(cpu, redistributor.target()).unwrap();
        }
    }

    /// A device raises an event, and a CPU takes it: whether it came.
    pub fn arrives(&self, cpu: u16, device: &Device, event: u32) -> bool {
        self.sim.raise(device.id(), event);
        let interrupt = device.interrupt(event).unwrap();
        self.sim.redistributor(cpu).take(interrupt)
    }

    /// Entries that the ITS reached outside of memory that was given to the driver.
    pub fn strays(&self) -> Vec<dmakit_addr::PhysRange> {
        let given = self.memory.outstanding();
        let is_given = |range: &dmakit_addr::PhysRange| {
            given.iter().any(|one| one.range.contains_range(range))
        };
        let reached = self.sim.take_reached();
        reached
            .into_iter()
            .filter(|range| !is_given(range))
            .collect()
    }
}

/// Gives collection 0 the first CPU, whose LPIs may be off: what devices need to come and go.
pub fn map_first<R: Mmio, M: TableMemory>(its: &Driver<R, M>, sim: &SimIts) {
    let target = Target {
        base: sim.redistributor(0).base(),
        processor: 0,
    };
    its.map_collection(0, target).unwrap();
}

/// A device with `events` events, each with an LPI that is on, event by event on CPU 0, 1, 0, …
pub fn device<R: Mmio, M: TableMemory>(
    its: &Driver<R, M>,
    lpis: &Lpis<Machine>,
    id: u32,
    events: u32,
) -> Device {
    let mut device = its.create_device(id, events).unwrap();
    for event in 0..events {
        let lpi = lpis.allocate().unwrap();
        its.map(&mut device, event, lpi, event as u16 % 2).unwrap();
        its.enable(lpis, &device, event).unwrap();
    }
    device
}

pub fn remove<R: Mmio, M: TableMemory>(
    its: &Driver<R, M>,
    lpis: &Lpis<Machine>,
    mut device: Device,
) {
    for event in 0..device.events() {
        if device.interrupt(event).is_some() {
            lpis.free(its.unmap(&mut device, event).unwrap());
        }
    }
    assert!(its.destroy_device(device).unwrap().is_none());
}
