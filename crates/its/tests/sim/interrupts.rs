//! Interrupts arrive where they should, on every kind of ITS.

use dmakit_its::spec::table::TableKind;
use dmakit_its::{Config, Levels, LpiConfig, Sharing};
use dmakit_sim::{ItsConfig, OnCommandError, PageSizes, Shareable};

use crate::rig::{Rig, device, remove};

const SEEDS: u64 = 20;

/// Devices come and go, events move; every interrupt arrives once, on the right CPU.
fn exercise(rig: &Rig, config: Config, lpi_config: LpiConfig) {
    let (its, lpis) = rig.bring_up(config, lpi_config);
    let standing = rig.memory.outstanding_bytes();
    let last = its.table(TableKind::Devices).unwrap().layout.ids - 1;
    for round in 0..3 {
        let ids = [0, 7, (last / 2) as u32, last as u32];
        let mut devices = ids.map(|id| device(&its, &lpis, id, 3));
        for device in &mut devices {
            for (event, cpu) in [(0, 0), (1, 1), (2, 0)] {
                assert!(rig.arrives(cpu, device, event), "round {round}");
                assert!(
                    !rig.sim
                        .redistributor(1 - cpu)
                        .is_pending(device.interrupt(event).unwrap())
                );
            }
            its.move_event(device, 0, 1).unwrap();
            assert!(rig.arrives(1, device, 0));
            its.disable(&lpis, device, 2).unwrap();
            assert!(!rig.arrives(0, device, 2), "it is off");
            its.enable(&lpis, device, 2).unwrap();
            let interrupt = device.interrupt(2).unwrap();
            assert!(
                rig.sim.redistributor(0).take(interrupt),
                "it stayed pending"
            );
            its.raise(device, 1).unwrap();
            its.clear(device, 1).unwrap();
            let interrupt = device.interrupt(1).unwrap();
            assert!(!rig.sim.redistributor(1).is_pending(interrupt));
            // What was pending goes along.
            rig.sim.raise(device.id(), 0);
            its.move_event(device, 0, 0).unwrap();
            assert!(rig.sim.redistributor(0).take(device.interrupt(0).unwrap()));
        }
        assert_eq!(rig.strays(), [], "entries outside of tables");
        for device in devices {
            let id = device.id();
            remove(&its, &lpis, device);
            rig.sim.raise(id, 1);
        }
        assert_eq!(lpis.free_count(), lpis.count());
    }
    assert_eq!(rig.sim.refused(), 0);
    assert_eq!(rig.sim.dropped(), 12, "only those of devices that are gone");
    let leaves = its.table(TableKind::Devices).unwrap();
    let leaves = leaves.leaves * leaves.layout.page.bytes();
    assert_eq!(rig.memory.outstanding_bytes(), standing + leaves);
    its.stop(|_| panic!("there is one provider")).unwrap();
    rig.machine.check().unwrap();
}

fn on_seeds(config: ItsConfig, adjust: impl Fn(&mut Config), lpis: LpiConfig) {
    for seed in 0..SEEDS {
        let rig = Rig::new(seed, config);
        let mut driver = rig.config();
        adjust(&mut driver);
        exercise(&rig, driver, lpis);
    }
}

#[test]
fn flat_tables_serve() {
    let flat = |config: &mut Config| config.levels = Levels::Flat;
    on_seeds(ItsConfig::default(), flat, LpiConfig::default());
}

#[test]
fn two_levels_serve() {
    let two = |config: &mut Config| config.levels = Levels::Two;
    on_seeds(ItsConfig::default(), two, LpiConfig::default());
}

#[test]
fn entries_of_odd_sizes_serve() {
    let odd = ItsConfig {
        device_entry: 24,
        collection_entry: Some(5),
        event_entry: 12,
        by_address: true,
        ..ItsConfig::default()
    };
    for levels in [Levels::Flat, Levels::Two] {
        on_seeds(odd, |config| config.levels = levels, LpiConfig::default());
    }
}

#[test]
fn an_its_that_goes_past_caches_reads_what_was_written() {
    for shareable in [Shareable::Outer, Shareable::Never, Shareable::NeverCached] {
        let config = ItsConfig {
            shareable,
            on_error: OnCommandError::Skip,
            ..ItsConfig::default()
        };
        for levels in [Levels::Flat, Levels::Two] {
            on_seeds(
                config,
                |config| config.levels = levels,
                LpiConfig::default(),
            );
        }
    }
}

#[test]
fn a_bus_that_breaks_the_promise_of_the_registers_is_worked_around() {
    let config = ItsConfig {
        bus_coherent: false,
        ..ItsConfig::default()
    };
    let lpis = LpiConfig {
        sharing: Sharing::Never,
        ..LpiConfig::default()
    };
    on_seeds(config, |config| config.sharing = Sharing::Never, lpis);
}

#[test]
fn collections_without_memory_serve() {
    let config = ItsConfig {
        collection_entry: None,
        collections_inside: 4,
        collection_bits: Some(4),
        ..ItsConfig::default()
    };
    on_seeds(config, |_| {}, LpiConfig::default());
}

#[test]
fn a_single_page_size_is_found_and_used() {
    let sizes = [
        (true, false, false, 0x1000),
        (false, true, false, 0x4000),
        (false, false, true, 0x1_0000),
    ];
    for (k4, k16, k64, bytes) in sizes {
        let config = ItsConfig {
            pages: PageSizes { k4, k16, k64 },
            ..ItsConfig::default()
        };
        let rig = Rig::new(1, config);
        let its = rig.driver(rig.config());
        let page = its.table(TableKind::Devices).unwrap().layout.page;
        assert_eq!(page.bytes(), bytes);
        on_seeds(config, |_| {}, LpiConfig::default());
    }
}

#[test]
fn a_table_of_virtual_cpus_is_set_up_where_there_is_one() {
    let config = ItsConfig {
        virtual_cpu_entry: Some(16),
        ..ItsConfig::default()
    };
    let rig = Rig::new(1, config);
    let its = rig.driver(rig.config());
    let table = its.table(TableKind::VirtualCpus).unwrap();
    assert_eq!((table.layout.ids, table.leaves), (1 << 16, 0));
    its.reach_virtual_cpu(0xffff).unwrap();
    its.reach_virtual_cpu(0xfffe).unwrap();
    assert_eq!(its.table(TableKind::VirtualCpus).unwrap().leaves, 1);
    its.stop(|_| panic!("there is one provider")).unwrap();
    assert_eq!(rig.memory.outstanding_bytes(), 0);
    let mut without = rig.config();
    without.virtual_cpu_bits = None;
    let its = rig.driver(without);
    assert!(its.table(TableKind::VirtualCpus).is_none());
    rig.machine.check().unwrap();
}

#[test]
fn an_interrupt_with_the_number_of_its_event_takes_the_short_command() {
    let rig = Rig::new(1, ItsConfig::default());
    let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
    let mut device = its.create_device(3, 8193).unwrap();
    its.map(&mut device, 8192, lpis.allocate().unwrap(), 0)
        .unwrap();
    its.enable(&lpis, &device, 8192).unwrap();
    assert_eq!((rig.sim.consumed(0x0a), rig.sim.consumed(0x0b)), (0, 1));
    assert!(rig.arrives(0, &device, 8192));
}

#[test]
fn an_interrupt_is_off_until_it_is_enabled_whatever_is_remembered() {
    for seed in 0..SEEDS {
        let rig = Rig::new(seed, ItsConfig::default());
        let (its, lpis) = rig.bring_up(rig.config(), LpiConfig::default());
        let mut one = device(&its, &lpis, 1, 2);
        assert!(rig.arrives(0, &one, 0) && rig.arrives(1, &one, 1));
        // Off on one CPU, and on in the memory of the other.
        its.move_event(&mut one, 0, 1).unwrap();
        assert!(rig.arrives(1, &one, 0));
        its.disable(&lpis, &one, 0).unwrap();
        its.move_event(&mut one, 0, 0).unwrap();
        assert!(!rig.arrives(0, &one, 0), "moved");
        its.clear(&one, 0).unwrap();
        // A number in its second life.
        let number = one.interrupt(1).unwrap();
        lpis.free(its.unmap(&mut one, 1).unwrap());
        let again = lpis.allocate().unwrap();
        assert_eq!(again.number(), number);
        its.map(&mut one, 1, again, 1).unwrap();
        assert!(!rig.arrives(1, &one, 1), "reused");
    }
}
