//! An ITS and redistributors that somebody has left running.

use dmakit_addr::{DmaMask, NodeId, PhysAddr};
use dmakit_its::spec::redistributor as reg;
use dmakit_its::spec::table::TableKind;
use dmakit_its::{FoundLpis, Levels, LpiConfig, Lpis, Redistributor, RedistributorError};
use dmakit_platform::{Mmio, SegmentRequest, TableMemory};

use crate::rig;

#[test]
fn lpis_that_are_on_are_taken_over_where_they_are_or_refused() {
    let rig = rig::start(Levels::Flat);
    let base = rig::redistributor(1);
    let regs = rig.machine.mmio(base);
    let found = FoundLpis::read(&regs).unwrap();
    assert_eq!(found.configuration.start(), rig.lpis.table().start());
    assert_eq!(found.pending, rig.redistributors[1].pending());
    assert_eq!(found.id_bits, 16);

    let memory = rig.stack.memory();
    let before = memory.outstanding_bytes();
    let other = Lpis::new(rig.machine.platform(), memory, LpiConfig::default()).unwrap();
    let with_other = memory.outstanding_bytes();
    let refused = Redistributor::start(&regs, base, None, &other, memory).unwrap_err();
    assert_eq!(refused, RedistributorError::InUse(found));
    let refused = Redistributor::take_over(&regs, base, &other).unwrap_err();
    assert_eq!(refused, RedistributorError::InUse(found));
    assert_eq!(memory.outstanding_bytes(), with_other, "nothing was kept");
    assert!(with_other > before);
    assert_eq!(FoundLpis::read(&regs), Some(found), "nothing was moved");

    let again = Redistributor::take_over(&regs, base, &rig.lpis).unwrap();
    assert_eq!(again.target(), rig.redistributors[1].target());
    assert_eq!(again.pending(), found.pending);
}

#[test]
fn firmware_s_tables_go_on_being_used() {
    let config = dmakit_qemu::Config::virt();
    let (machine, ram) = dmakit_qemu::Machine::start(&config).unwrap();
    let memory = dmakit_platform::host::SegmentStore::new();
    for (node, segment) in (0..).zip(ram) {
        memory.add(NodeId::new(node), segment);
    }
    let request = SegmentRequest {
        len: 0x1_0000,
        align: 0x1_0000,
        node: None,
        limit: DmaMask::ALL,
    };
    let [configuration, pending] = [0; 2].map(|_| memory.allocate_table(&request).unwrap());
    configuration.window().fill(0xa3);
    let base = rig::redistributor(0);
    let regs = machine.mmio(base);
    regs.write64(
        reg::PROPBASER,
        reg::propbaser(configuration.range().start().raw(), 16),
    );
    regs.write64(
        reg::PENDBASER,
        reg::pendbaser(pending.range().start().raw()),
    );
    regs.write32(reg::CTLR, 1);
    machine.mmio(PhysAddr::new(0x0800_0000)).write32(0, 0x12);

    let range = configuration.range();
    let lpis = Lpis::take_over(machine.platform(), configuration, LpiConfig::default()).unwrap();
    assert_eq!(lpis.table(), range);
    let redistributor = Redistributor::take_over(&regs, base, &lpis).unwrap();
    assert_eq!(redistributor.pending(), pending.range());
    let its = rig::its(&machine, memory.clone(), Levels::Flat);
    its.map_collection(0, redistributor.target()).unwrap();
    let mut device = its.create_device(5, 1).unwrap();
    let lpi = lpis.allocate().unwrap();
    let number = lpi.number();
    its.map(&mut device, 0, lpi, 0).unwrap();
    its.enable(&lpis, &device, 0).unwrap();
    its.raise(&device, 0).unwrap();
    let byte = pending.window().slice(u64::from(number) / 8, 1).unwrap();
    let mut bits = [0];
    byte.read(&mut bits);
    assert_eq!(bits, [1 << (number % 8)]);
}

#[test]
fn an_its_that_is_on_comes_to_rest_and_its_old_tables_are_not_touched() {
    let rig = rig::start(Levels::Flat);
    let device = rig.device(7);
    let old = rig.its.table(TableKind::Devices).unwrap();
    let (old_bytes, old_events) = (rig.bytes(old.range), rig.bytes(device.table()));
    // Nobody stops the first: a crash.
    let its = rig::its(&rig.machine, rig.stack.memory().clone(), Levels::Two);
    for (cpu, redistributor) in (0..).zip(&rig.redistributors) {
        its.map_collection(cpu, redistributor.target()).unwrap();
    }
    let new = its.table(TableKind::Devices).unwrap();
    assert!(!new.range.overlaps(&old.range));
    let mut again = its.create_device(7, 4).unwrap();
    let lpi = rig.lpis.allocate().unwrap();
    its.map(&mut again, 3, lpi, 0).unwrap();
    its.raise(&again, 3).unwrap();
    assert!(rig.is_pending(0, again.interrupt(3).unwrap()));
    assert_eq!(rig.bytes(old.range), old_bytes);
    assert_eq!(rig.bytes(device.table()), old_events);
    rig.check_canaries();
}
