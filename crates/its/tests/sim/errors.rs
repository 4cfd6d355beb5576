//! What goes wrong is said, bounded, and leaves no trace.

use dmakit_its::spec::{command, registers};
use dmakit_its::{
    COMMAND_TIME_MAX, CommandFailure, CreateError, DestroyError, EventError, FoundLpis, Its,
    LpiConfig, LpiTableError, Lpis, ProbeError, Redistributor, RedistributorError, StartError,
};
use dmakit_platform::{Mmio, Platform};
use dmakit_sim::{ItsConfig, OnCommandError, PageSizes, SimIts, for_each_failure};

use crate::rig::{Driver, Rig, device, remove};

fn stalling() -> Rig {
    Rig::new(
        5,
        ItsConfig {
            on_error: OnCommandError::Stall,
            ..ItsConfig::default()
        },
    )
}

#[test]
fn each_allocation_that_fails_leaves_nothing() {
    let failures = for_each_failure(|plan| {
        let rig = Rig::new(
            2,
            ItsConfig {
                virtual_cpu_entry: Some(8),
                ..ItsConfig::default()
            },
        );
        rig.machine.inject(plan);
        let config = rig.config();
        let (machine, sim) = (rig.machine.clone(), rig.sim.clone());
        let its = match Its::start(machine, sim, rig.memory.clone(), config) {
            Ok(its) => its,
            Err(error) => {
                assert!(matches!(error, StartError::Memory(_)), "{error}");
                assert_eq!(rig.memory.outstanding_bytes(), 0);
                rig.machine.check().unwrap();
                return;
            }
        };
        let given = rig.memory.outstanding_bytes();
        match Lpis::new(rig.machine.clone(), &rig.memory, LpiConfig::default()) {
            Ok(lpis) => {
                let regs = rig.sim.redistributor(0);
                let given = rig.memory.outstanding_bytes();
                match Redistributor::start(&regs, regs.base(), None, &lpis, &rig.memory) {
                    Ok(redistributor) => {
                        its.map_collection(0, redistributor.target()).unwrap();
                    }
                    Err(error) => {
                        assert!(matches!(error, RedistributorError::Memory(_)), "{error}");
                        assert_eq!(rig.memory.outstanding_bytes(), given);
                        assert_eq!(FoundLpis::read(&regs), None);
                    }
                }
            }
            Err(error) => {
                assert!(matches!(error, LpiTableError::Memory(_)), "{error}");
                assert_eq!(rig.memory.outstanding_bytes(), given);
            }
        }
        let given = rig.memory.outstanding_bytes();
        match its.create_device(0xffff, 2) {
            Err(CreateError::NoCollection) => {}
            Ok(device) => {
                assert!(its.destroy_device(device).unwrap().is_none());
            }
            Err(error) => assert!(matches!(error, CreateError::Memory(_)), "{error}"),
        }
        // At most the page of a second level, which the ITS may remember.
        let page = rig.memory.outstanding_bytes() - given;
        assert!(page == 0 || page == 0x1_0000);
        its.stop(|_| panic!("there is one provider")).unwrap();
        rig.machine.check().unwrap();
    });
    // Three tables, the queue, two for LPIs, a second level and a device.
    assert_eq!(failures, 8);
}

#[test]
fn a_refused_command_is_replaced_named_and_harms_no_other() {
    let rig = stalling();
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let other = device(&its, &lpis, 1, 2);
    let given = rig.memory.outstanding_bytes();

    rig.sim.refuse(0x08);
    let error = its.create_device(2, 4).unwrap_err();
    let CreateError::Refused(CommandFailure::Refused(refused)) = error else {
        panic!("{error}");
    };
    assert_eq!(command::opcode(refused.command), 0x08);
    assert_eq!(rig.memory.outstanding_bytes(), given, "the table went home");
    let mut two = its.create_device(2, 4).unwrap();

    rig.sim.refuse(0x0a);
    let free = lpis.free_count();
    let error = its
        .map(&mut two, 0, lpis.allocate().unwrap(), 0)
        .unwrap_err();
    assert!(matches!(
        error.error,
        EventError::Commands(CommandFailure::Refused(_))
    ));
    lpis.free(error.lpi.unwrap());
    assert_eq!((two.interrupt(0), lpis.free_count()), (None, free));

    its.map(&mut two, 0, lpis.allocate().unwrap(), 0).unwrap();
    its.enable(&lpis, &two, 0).unwrap();
    for opcode in [0x01, 0x03, 0x04, 0x05, 0x0c, 0x0f] {
        rig.sim.refuse(opcode);
        let result = match opcode {
            0x01 => its.move_event(&mut two, 0, 1),
            0x03 => its.raise(&two, 0),
            0x04 | 0x05 => its.clear(&two, 0),
            0x0c => its.disable(&lpis, &two, 0),
            _ => its.unmap(&mut two, 0).map(drop),
        };
        let Err(EventError::Commands(CommandFailure::Refused(refused))) = result else {
            panic!("{opcode:#x}: {result:?}");
        };
        assert_eq!(command::opcode(refused.command), opcode);
        its.enable(&lpis, &two, 0).unwrap();
        assert!(rig.arrives(0, &two, 0), "after {opcode:#x}: as before");
        assert!(rig.arrives(1, &other, 1));
    }
    // And the one after the refused MAPTI, which was about nothing then.
    assert_eq!(its.command_counts().refused, 9);
    remove(&its, &lpis, two);
    remove(&its, &lpis, other);
    rig.machine.check().unwrap();
}

#[test]
fn what_a_refused_sync_leaves_is_known() {
    let rig = stalling();
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let mut one = its.create_device(1, 2).unwrap();
    rig.sim.refuse(0x05);
    let error = its
        .map(&mut one, 0, lpis.allocate().unwrap(), 0)
        .unwrap_err();
    assert_eq!(error.lpi, None, "the event is mapped");
    its.enable(&lpis, &one, 0).unwrap();
    assert!(rig.arrives(0, &one, 0));
    rig.sim.refuse(0x05);
    assert!(its.move_event(&mut one, 0, 1).is_err());
    its.enable(&lpis, &one, 0).unwrap();
    assert!(rig.arrives(1, &one, 0), "it has moved");
    remove(&its, &lpis, one);
}

#[test]
fn an_its_that_leaves_wrong_commands_out_goes_on() {
    let rig = Rig::new(
        6,
        ItsConfig {
            on_error: OnCommandError::Skip,
            ..ItsConfig::default()
        },
    );
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    rig.sim.refuse(0x03);
    let device = device(&its, &lpis, 1, 1);
    // Nothing says so: the interrupt does not come, and the next does.
    its.raise(&device, 0).unwrap();
    let interrupt = device.interrupt(0).unwrap();
    assert!(!rig.sim.redistributor(0).take(interrupt));
    its.raise(&device, 0).unwrap();
    assert!(rig.sim.redistributor(0).take(interrupt));
    assert_eq!(its.command_counts().refused, 0);
}

#[test]
fn an_its_that_is_stuck_fails_in_time_and_keeps_what_it_may_use() {
    let rig = stalling();
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let mut one = its.create_device(1, 2).unwrap();
    its.map(&mut one, 0, lpis.allocate().unwrap(), 0).unwrap();
    rig.sim.stick(true);
    let start = rig.machine.now();
    let error = its
        .map(&mut one, 1, lpis.allocate().unwrap(), 0)
        .unwrap_err();
    let took = rig.machine.now().saturating_since(start);
    assert!(
        took >= COMMAND_TIME_MAX && took < 2 * COMMAND_TIME_MAX,
        "{took:?}"
    );
    assert!(matches!(
        error.error,
        EventError::Commands(CommandFailure::Timeout { .. })
    ));
    assert_eq!(error.lpi, None, "it may be in use");
    assert!(one.interrupt(1).is_some());

    let error = its.create_device(2, 2).unwrap_err();
    let CreateError::Pending { device: two, .. } = error else {
        panic!("{error}");
    };
    let given = rig.memory.outstanding_bytes();
    let error = its.destroy_device(two).unwrap_err();
    let DestroyError::Commands { device: two, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(rig.memory.outstanding_bytes(), given, "nothing was freed");

    rig.sim.stick(false);
    // All of it can be ended now.
    assert!(its.destroy_device(two).unwrap().is_none());
    for event in 0..2 {
        lpis.free(its.unmap(&mut one, event).unwrap());
    }
    assert!(its.destroy_device(one).unwrap().is_none());
    assert_eq!(lpis.free_count(), lpis.count());
    rig.machine.check().unwrap();
}

#[test]
fn a_read_index_that_strays_is_an_error_and_not_a_wait() {
    let rig = stalling();
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let device = device(&its, &lpis, 1, 1);
    for stray in [0x1_0000, 0xf_ffe0, 0x8000] {
        rig.sim.stray(Some(stray));
        let error = its.raise(&device, 0).unwrap_err();
        let EventError::Commands(CommandFailure::Strayed { creadr, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(u64::from(creadr), stray);
        rig.sim.stray(None);
        its.raise(&device, 0).unwrap();
        its.clear(&device, 0).unwrap();
    }
    remove(&its, &lpis, device);
}

#[test]
fn misuse_is_refused_before_the_its_hears_of_it() {
    let rig = stalling();
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let mut one = device(&its, &lpis, 1, 2);
    let commands = its.command_counts().commands;
    let lpi = lpis.allocate().unwrap();
    let error = its.map(&mut one, 2, lpi, 0).unwrap_err();
    assert_eq!(
        error.error,
        EventError::Unknown {
            event: 2,
            events: 2
        }
    );
    let error = its.map(&mut one, 0, error.lpi.unwrap(), 0).unwrap_err();
    assert_eq!(error.error, EventError::InUse { event: 0 });
    let error = its.map(&mut one, 0, error.lpi.unwrap(), 2).unwrap_err();
    assert_eq!(error.error, EventError::NoCollection { collection: 2 });
    lpis.free(error.lpi.unwrap());
    assert!(matches!(
        its.create_device(1, 1),
        Err(CreateError::InUse { device: 1 })
    ));
    assert!(matches!(
        its.create_device(0x1_0000, 1),
        Err(CreateError::Unknown { ids: 0x1_0000, .. })
    ));
    assert!(matches!(
        its.create_device(2, 0),
        Err(CreateError::Events { .. })
    ));
    assert!(matches!(
        its.create_device(2, 0x1_0001),
        Err(CreateError::Events { bits: 16, .. })
    ));
    let error = its.destroy_device(one).unwrap_err();
    let DestroyError::InUse {
        device: one,
        event: 0,
    } = error
    else {
        panic!("{error}");
    };
    let elsewhere = Rig::new(
        1,
        ItsConfig {
            base: 0x3_0000_0000,
            ..ItsConfig::default()
        },
    );
    let (other, _) = elsewhere.bring_up(elsewhere.config(), LpiConfig::default());
    assert_eq!(other.raise(&one, 0), Err(EventError::Foreign { device: 1 }));
    assert!(matches!(
        other.destroy_device(one),
        Err(DestroyError::Foreign { .. })
    ));
    assert_eq!(its.command_counts().commands, commands);
}

#[test]
fn all_lpis_can_be_had_once_and_the_last_arrives() {
    let rig = Rig::new(
        7,
        ItsConfig {
            interrupt_bits: 14,
            ..ItsConfig::default()
        },
    );
    let config = LpiConfig {
        id_bits: 14,
        ..LpiConfig::default()
    };
    let (its, lpis) = rig.bring_up(rig.config(), config);
    let mut all: Vec<_> = (0..lpis.count())
        .map(|_| lpis.allocate().unwrap())
        .collect();
    let numbers: Vec<u32> = all.iter().map(dmakit_its::Lpi::number).collect();
    assert_eq!(numbers, (8192..16384).collect::<Vec<_>>());
    assert_eq!(lpis.allocate().unwrap_err().count, 8192);
    let mut device = its.create_device(4, 1).unwrap();
    its.map(&mut device, 0, all.pop().unwrap(), 1).unwrap();
    its.enable(&lpis, &device, 0).unwrap();
    assert!(rig.arrives(1, &device, 0));
    let lowest = all.swap_remove(17);
    lpis.free(lowest);
    assert_eq!(lpis.allocate().unwrap().number(), 8192 + 17);
    rig.machine.check().unwrap();
}

#[test]
fn tables_for_lpis_have_bounds() {
    let rig = stalling();
    for id_bits in [0, 13, 33] {
        let config = LpiConfig {
            id_bits,
            ..LpiConfig::default()
        };
        let error = Lpis::new(rig.machine.clone(), &rig.memory, config)
            .err()
            .unwrap();
        assert!(matches!(error, LpiTableError::IdBits { asked } if asked == id_bits));
    }
    // More than the redistributor has: it says less when it is read back.
    let config = LpiConfig {
        id_bits: 17,
        ..LpiConfig::default()
    };
    let lpis = rig.lpis(config);
    let regs = rig.sim.redistributor(0);
    let given = rig.memory.outstanding_bytes();
    let error = Redistributor::start(&regs, regs.base(), None, &lpis, &rig.memory).unwrap_err();
    assert!(matches!(error, RedistributorError::Refused(_)), "{error}");
    assert_eq!(rig.memory.outstanding_bytes(), given);
    assert_eq!(FoundLpis::read(&regs), None);
}

#[test]
fn lpis_of_a_crashed_owner_are_refused_or_taken_over_in_place() {
    let rig = stalling();
    let (_its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let regs = rig.sim.redistributor(1);
    let found = FoundLpis::read(&regs).unwrap();
    assert_eq!(found.configuration.start(), lpis.table().start());
    let other = rig.lpis(LpiConfig::default());
    let refused = Redistributor::start(&regs, regs.base(), None, &other, &rig.memory);
    assert_eq!(refused.unwrap_err(), RedistributorError::InUse(found));
    let refused = Redistributor::take_over(&regs, regs.base(), &other);
    assert_eq!(refused.unwrap_err(), RedistributorError::InUse(found));
    let again = Redistributor::take_over(&regs, regs.base(), &lpis).unwrap();
    assert_eq!(again.pending(), found.pending);
    // Nobody stopped the ITS: it is turned off, rests, and begins anew.
    let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
    let its: Driver = Its::start(machine, rig.sim.clone(), memory, rig.config()).unwrap();
    its.map_collection(1, again.target()).unwrap();
    let mut one = its.create_device(1, 1).unwrap();
    its.map(&mut one, 0, lpis.allocate().unwrap(), 1).unwrap();
    its.enable(&lpis, &one, 0).unwrap();
    assert!(rig.arrives(1, &one, 0));
    rig.machine.check().unwrap();
}

#[test]
fn an_its_that_never_rests_is_left_alone() {
    let rig = stalling();
    let (its, _lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let given = rig.memory.outstanding_bytes();
    rig.sim.never_rest();
    let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
    let error = Its::start(machine, rig.sim.clone(), memory, rig.config()).err();
    assert!(matches!(error, Some(StartError::Busy { .. })), "{error:?}");
    assert_eq!(rig.memory.outstanding_bytes(), given);
    let error = its.stop(|_| panic!("nothing is freed")).unwrap_err();
    assert!(matches!(error, StartError::Busy { .. }));
    assert_eq!(rig.memory.outstanding_bytes(), given);
    rig.machine.check().unwrap();
}

/// Registers of which some read otherwise.
#[derive(Clone)]
struct Odd(SimIts, fn(u64, u64) -> u64);

impl Mmio for Odd {
    fn read32(&self, offset: u64) -> u32 {
        self.1(offset, self.0.read32(offset).into()) as u32
    }

    fn read64(&self, offset: u64) -> u64 {
        self.1(offset, self.0.read64(offset))
    }

    fn write32(&self, offset: u64, value: u32) {
        self.0.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.0.write64(offset, value);
    }
}

#[test]
fn what_is_no_usable_its_is_told_apart() {
    let start = |odd: fn(u64, u64) -> u64| {
        let rig = stalling();
        let regs = Odd(rig.sim.clone(), odd);
        let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
        let error = Its::start(machine, regs, memory, rig.config())
            .err()
            .unwrap();
        assert_eq!(rig.memory.outstanding_bytes(), 0);
        rig.machine.check().unwrap();
        error
    };
    assert_eq!(
        start(|_, _| u64::MAX),
        StartError::Probe(ProbeError::Absent)
    );
    let error = start(|offset, value| {
        if offset == registers::PIDR2 {
            0x2b
        } else {
            value
        }
    });
    assert_eq!(
        error,
        StartError::Probe(ProbeError::Architecture { pidr2: 0x2b })
    );
    let error = start(|offset, value| if offset == registers::TYPER { 0 } else { value });
    assert_eq!(
        error,
        StartError::Probe(ProbeError::NoPhysicalLpis { typer: 0 })
    );
    let error = start(|offset, value| {
        if offset == registers::baser(0) {
            0
        } else {
            value
        }
    });
    assert!(matches!(error, StartError::NoTable(_)), "{error}");
    // A register that keeps no address, one that flips its attributes, one with an unknown page.
    for odd in [
        (|offset, value| match offset == registers::baser(0) {
            true => value & !0xffff_ffff_f000,
            false => value,
        }) as fn(u64, u64) -> u64,
        |offset, value| match offset == registers::CBASER {
            true => value ^ 0b11 << 10,
            false => value,
        },
        |offset, value| match offset == registers::baser(1) {
            true => value | 0b11 << 8,
            false => value,
        },
    ] {
        let error = start(odd);
        assert!(matches!(error, StartError::Refused(_)), "{error}");
    }
    assert_eq!(PageSizes::ALL, ItsConfig::default().pages);
}
