//! Drivers with one known fault each, as the hardware would see them: each is caught.
//!
//! A fault is put between the driver and what it talks to (its registers, its memory, its cache
//! maintenance, the commands that it sends), so the driver itself has no switch for it.

use dmakit_addr::DmaMask;
use dmakit_its::spec::redistributor::{PENDBASER, PROPBASER};
use dmakit_its::spec::registers;
use dmakit_its::{Its, Levels, LpiConfig, Lpis, Redistributor, Sharing};
use dmakit_platform::{Mmio, NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{ItsConfig, PageSizes, Shareable};

use crate::rig::{Rig, device, map_first};

/// Registers that get something else than what the driver wrote.
#[derive(Clone)]
struct Faulty<R> {
    inner: R,
    write: fn(u64, u64) -> u64,
    /// And what the driver then reads: what it wrote.
    read: fn(u64, u64) -> u64,
}

impl<R: Mmio> Mmio for Faulty<R> {
    fn read32(&self, offset: u64) -> u32 {
        self.inner.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        (self.read)(offset, self.inner.read64(offset))
    }

    fn write32(&self, offset: u64, value: u32) {
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.inner.write64(offset, (self.write)(offset, value));
    }
}

fn same(_: u64, value: u64) -> u64 {
    value
}

fn pages(register: u64) -> u64 {
    (register & 0xff) + 1
}

/// A first level with half of its pages, as a driver would write that forgot the size of its
/// entries.
fn half(offset: u64, value: u64) -> u64 {
    let is_table = offset == registers::baser(0) && value >> 62 == 0b11;
    match is_table {
        true => value & !0xff | (pages(value) / 2 - 1),
        false => value,
    }
}

fn double(offset: u64, value: u64) -> u64 {
    let is_table = offset == registers::baser(0) && value >> 62 == 0b11;
    match is_table {
        true => value & !0xff | (pages(value) * 2 - 1),
        false => value,
    }
}

fn all_devices_can_be_created(write: fn(u64, u64) -> u64, read: fn(u64, u64) -> u64) -> bool {
    let rig = Rig::new(
        1,
        ItsConfig {
            device_bits: 20,
            pages: PageSizes {
                k4: true,
                k16: false,
                k64: false,
            },
            ..ItsConfig::default()
        },
    );
    let regs = Faulty {
        inner: rig.sim.clone(),
        write,
        read,
    };
    let its = rig.driver_over(regs, rig.memory.clone(), rig.config());
    map_first(&its, &rig.sim);
    [0, 0x7_ffff, 0x8_0000, 0xf_ffff]
        .into_iter()
        .all(|id| its.create_device(id, 1).is_ok())
}

#[test]
fn a_first_level_that_covers_half_is_caught() {
    assert!(all_devices_can_be_created(same, same));
    assert!(!all_devices_can_be_created(half, double));
}

/// Gives devices' tables only `len` bytes of what they ask for, as a driver would that forgot to
/// round.
struct Short<M> {
    memory: M,
    len: Option<u64>,
}

impl<M: TableMemory> TableMemory for Short<M> {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let len = match self.len {
            Some(len) if request.align == 256 => len,
            _ => request.len,
        };
        self.memory
            .allocate_table(&SegmentRequest { len, ..*request })
    }

    fn free_table(&self, segment: Segment) {
        self.memory.free_table(segment);
    }
}

fn no_event_leads_out_of_a_table(len: Option<u64>) -> bool {
    let rig = Rig::new(
        1,
        ItsConfig {
            event_entry: 12,
            ..ItsConfig::default()
        },
    );
    let memory = Short {
        memory: rig.memory.clone(),
        len,
    };
    let its = rig.driver_over(rig.sim.clone(), memory, rig.config());
    let lpis = rig.lpis(LpiConfig::default());
    rig.map_collections(&its, &lpis);
    // 33 events: six bits.
    let device = device(&its, &lpis, 5, 33);
    // A device may write what it likes.
    for event in 0..128 {
        rig.sim.raise(device.id(), event);
    }
    rig.strays().is_empty()
}

#[test]
fn a_device_table_that_is_not_rounded_to_a_power_of_two_is_caught() {
    assert!(no_event_leads_out_of_a_table(None));
    let unrounded = (33 * 12_u64).next_multiple_of(256);
    assert!(!no_event_leads_out_of_a_table(Some(unrounded)));
}

/// A configuration table for half of the interrupts.
fn one_bit_less(offset: u64, value: u64) -> u64 {
    value - u64::from(offset == PROPBASER)
}

fn one_bit_more(offset: u64, value: u64) -> u64 {
    value + u64::from(offset == PROPBASER)
}

fn the_last_interrupt_arrives(write: fn(u64, u64) -> u64, read: fn(u64, u64) -> u64) -> bool {
    let rig = Rig::new(1, ItsConfig::default());
    let its = rig.driver(rig.config());
    let lpis = rig.lpis(LpiConfig {
        id_bits: 15,
        ..LpiConfig::default()
    });
    let inner = rig.sim.redistributor(0);
    let base = inner.base();
    let regs = Faulty { inner, write, read };
    let redistributor = Redistributor::start(&regs, base, None, &lpis, &rig.memory).unwrap();
    its.map_collection(0, redistributor.target()).unwrap();
    let mut last = lpis.allocate().unwrap();
    while let Ok(next) = lpis.allocate() {
        last = next;
    }
    let mut device = its.create_device(1, 1).unwrap();
    its.map(&mut device, 0, last, 0).unwrap();
    its.enable(&lpis, &device, 0).unwrap();
    rig.arrives(0, &device, 0)
}

#[test]
fn interrupts_past_the_configuration_table_are_caught() {
    assert!(the_last_interrupt_arrives(same, same));
    assert!(!the_last_interrupt_arrives(one_bit_less, one_bit_more));
}

/// Runs `act` for many seeds; whether all of them were in order.
fn on_seeds(act: impl Fn(u64) -> bool) -> bool {
    (0..40).all(act)
}

/// A life of a device on an ITS of which commands of one kind do nothing.
fn lives_without(opcode: Option<u8>, seed: u64) -> bool {
    let rig = Rig::new(seed, ItsConfig::default());
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    if let Some(opcode) = opcode {
        rig.sim.ignore(opcode);
    }
    let mut device = its.create_device(1, 1).unwrap();
    let lpi = lpis.allocate().unwrap();
    if its.map(&mut device, 0, lpi, 0).is_err() || its.enable(&lpis, &device, 0).is_err() {
        return false;
    }
    let mut held = rig.arrives(0, &device, 0);
    held &= its.disable(&lpis, &device, 0).is_ok() && !rig.arrives(0, &device, 0);
    held &= its.clear(&device, 0).is_ok();
    held &= !rig
        .sim
        .redistributor(0)
        .is_pending(device.interrupt(0).unwrap());
    held &= its.enable(&lpis, &device, 0).is_ok();
    held &= its.move_event(&mut device, 0, 1).is_ok() && rig.arrives(1, &device, 0);
    rig.sim.raise(1, 0);
    let dropped = rig.sim.dropped();
    let Ok(lpi) = its.unmap(&mut device, 0) else {
        return false;
    };
    held &= !rig.sim.redistributor(1).is_pending(lpi.number());
    rig.sim.raise(1, 0);
    held &= rig.sim.dropped() == dropped + 1;
    held &= its.destroy_device(device).is_ok();
    held && rig.machine.check().is_ok()
}

#[test]
fn each_kind_of_command_is_needed() {
    assert!(on_seeds(|seed| lives_without(None, seed)));
    for opcode in [0x01, 0x04, 0x05, 0x08, 0x0a, 0x0c, 0x0f] {
        assert!(
            !on_seeds(|seed| lives_without(Some(opcode), seed)),
            "{opcode:#x}"
        );
    }
}

#[test]
fn what_a_redistributor_remembers_of_a_crashed_owner_is_forgotten() {
    let stays_off = |ignores: bool| {
        let rig = Rig::new(3, ItsConfig::default());
        if ignores {
            rig.sim.ignore(0x0c);
            rig.sim.ignore(0x0d);
        }
        // Somebody has crashed: a redistributor is on, and has looked at the first LPI, which was on.
        let request = SegmentRequest {
            len: 0x1_0000,
            align: 0x1_0000,
            node: None,
            limit: DmaMask::ALL,
        };
        let [table, pending] = [0; 2].map(|_| rig.memory.allocate_table(&request).unwrap());
        table.window().fill(0xc3);
        let regs = rig.sim.redistributor(0);
        regs.write64(PROPBASER, table.range().start().raw() | 0x78f);
        regs.write64(PENDBASER, pending.range().start().raw() | 0x780);
        regs.write32(0, 1);
        regs.look_at(8192);
        let lpis = Lpis::take_over(rig.machine.clone(), table, LpiConfig::default()).unwrap();
        let redistributor = Redistributor::take_over(&regs, regs.base(), &lpis).unwrap();
        let its = rig.driver(rig.config());
        its.map_collection(0, redistributor.target()).unwrap();
        let mut device = its.create_device(1, 1).unwrap();
        let lpi = lpis.allocate().unwrap();
        its.map(&mut device, 0, lpi, 0).unwrap();
        !rig.arrives(0, &device, 0)
    };
    assert!(stays_off(false));
    assert!(!stays_off(true), "without INV and INVALL");
}

/// Whether interrupts arrive on an ITS that goes past caches, with registers that say so or not.
fn arrives_past_caches(config: ItsConfig, sharing: Sharing, seed: u64) -> bool {
    let rig = Rig::new(seed, config);
    let driver = dmakit_its::Config {
        sharing,
        levels: Levels::Two,
        ..rig.config()
    };
    let (machine, sim, memory) = (rig.machine.clone(), rig.sim.clone(), rig.memory.clone());
    let Ok(its) = Its::start(machine, sim, memory, driver) else {
        return false;
    };
    let lpis = rig.lpis(LpiConfig {
        sharing,
        ..LpiConfig::default()
    });
    for cpu in 0..2 {
        let regs = rig.sim.redistributor(cpu);
        let started = Redistributor::start(&regs, regs.base(), None, &lpis, &rig.memory);
        let Ok(redistributor) = started else {
            return false;
        };
        if its.map_collection(cpu, redistributor.target()).is_err() {
            return false;
        }
    }
    let Ok(mut device) = its.create_device(0x4000, 1) else {
        return false;
    };
    let lpi = lpis.allocate().unwrap();
    its.map(&mut device, 0, lpi, 0).is_ok()
        && its.enable(&lpis, &device, 0).is_ok()
        && rig.arrives(0, &device, 0)
}

#[test]
fn tables_commands_and_configuration_that_are_not_cleaned_are_caught() {
    // Registers that promise what the bus does not keep: a driver that believes them cleans nothing.
    let config = ItsConfig {
        bus_coherent: false,
        ..ItsConfig::default()
    };
    assert!(on_seeds(|seed| arrives_past_caches(
        config,
        Sharing::Never,
        seed
    )));
    assert!(!on_seeds(|seed| arrives_past_caches(
        config,
        Sharing::Negotiated,
        seed
    )));
    let honest = ItsConfig {
        shareable: Shareable::Never,
        ..ItsConfig::default()
    };
    assert!(on_seeds(|seed| arrives_past_caches(
        honest,
        Sharing::Negotiated,
        seed
    )));
}

/// A provider that leaves the zeroes of a table in the cache.
struct Unclean {
    rig: Rig,
}

impl TableMemory for &Unclean {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let segment = self.rig.memory.allocate(request)?;
        segment.window().fill(0);
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        self.rig.memory.free(segment);
    }
}

#[test]
fn a_table_is_cleaned_where_the_its_goes_past_caches() {
    let is_empty = |shareable, seed| {
        let unclean = Unclean {
            rig: Rig::new(
                seed,
                ItsConfig {
                    shareable,
                    ..ItsConfig::default()
                },
            ),
        };
        let rig = &unclean.rig;
        let its = rig.driver_over(rig.sim.clone(), &unclean, rig.config());
        map_first(&its, &rig.sim);
        rig.machine.take_violations().total == 0
    };
    // Garbage of an earlier owner lies in memory, and zeroes above it in the cache.
    for shareable in [Shareable::AsWritten, Shareable::Never] {
        assert!(on_seeds(|seed| is_empty(shareable, seed)), "{shareable:?}");
    }
}
