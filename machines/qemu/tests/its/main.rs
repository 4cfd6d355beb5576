//! Interrupts of devices, through the SMMU and the ITS, into the pending tables of CPUs.
//!
//! No CPU runs here, so what a redistributor has is seen where it keeps it: a bit for each interrupt
//! in a table in RAM, until it is cleared.

mod rig;
mod take_over;

use std::time::Duration;

use dmakit_addr::{Attributes, Direction, NodeId, PAGE_BYTES};
use dmakit_dma::{DeviceInfo, DmaSegment};
use dmakit_iommu::FaultReason;
use dmakit_its::Levels;
use dmakit_its::spec::table::TableKind;
use dmakit_qemu::devices::nvme::{Nvme, Operation};
use rig::{DISK, EDU, Rig};

/// In the second page of the second level of a device table with 64 KiB pages.
const FAR: u32 = 0x2008;

fn edu_interrupts(levels: Levels) {
    let rig = rig::start(levels);
    let mut device = rig.device(EDU.raw().into());
    let attachment = rig.attach(EDU);
    let client = attachment.device(rig::info("edu"), None);
    let doorbell = rig.map_doorbell(&client);
    for (event, cpu) in [(0, 0), (1, 1), (3, 1), (2, 0)] {
        rig::set_msi(&rig.edu, doorbell.addr, event);
        rig::interrupt(&rig.edu);
        rig.take(cpu, &device, event);
    }
    rig.its.move_event(&mut device, 2, 1).unwrap();
    rig::interrupt(&rig.edu);
    rig.take(1, &device, 2);
    assert_eq!(rig.stack.take_faults().0, []);
    client
        .unmap_resource(doorbell, Direction::FromDevice)
        .unwrap();
    client.remove().unwrap();
    attachment.close().unwrap();
    rig.remove(device);
}

#[test]
fn interrupts_of_edu_reach_their_cpus_over_a_flat_table() {
    edu_interrupts(Levels::Flat);
}

#[test]
fn interrupts_of_edu_reach_their_cpus_over_two_levels() {
    edu_interrupts(Levels::Two);
}

fn disk_interrupts(levels: Levels) {
    let rig = rig::start(levels);
    let mut device = rig.device(DISK.raw().into());
    let attachment = rig.attach(DISK);
    let info = DeviceInfo {
        node: Some(NodeId::new(1)),
        ..rig::info("disk")
    };
    let client = attachment.device(info, None);
    let doorbell = rig.map_doorbell(&client);
    // The admin queue interrupts by vector 0, the other by the one that it is told.
    for (vector, event) in [(0, 1), (5, 2)] {
        rig::set_msi_x(&rig.disk, vector, doorbell.addr, event);
    }
    let regs = rig.disk.bar(0).unwrap();
    let platform = rig.machine.platform();
    let mut disk = Nvme::start(platform, &client, regs, Some(5)).unwrap();
    rig.take(1, &device, 1);

    let block = client
        .alloc_coherent::<[u8; 4096]>(1, Attributes::NONE)
        .unwrap();
    let whole = DmaSegment {
        addr: block.dma_addr(),
        len: 4096,
    };
    for (round, cpu) in [0, 0, 1].into_iter().enumerate() {
        if cpu == 1 {
            rig.its.move_event(&mut device, 2, 1).unwrap();
        }
        let slot = disk.submit(Operation::Read, 8, &[whole]).unwrap();
        rig.take(cpu, &device, 2);
        // The interrupt comes after what it tells of.
        let done = disk.complete().unwrap().unwrap();
        assert_eq!((done.slot, done.status), (slot, 0), "round {round}");
        assert_eq!(disk.complete(), Ok(None));
    }
    assert_eq!(rig.stack.take_faults().0, []);
    client.free_coherent(block).unwrap();
    disk.stop().unwrap();
    client
        .unmap_resource(doorbell, Direction::FromDevice)
        .unwrap();
    client.remove().unwrap();
    attachment.close().unwrap();
    rig.remove(device);
}

#[test]
fn interrupts_of_both_queues_of_a_disk_reach_their_cpus_over_a_flat_table() {
    disk_interrupts(Levels::Flat);
}

#[test]
fn interrupts_of_both_queues_of_a_disk_reach_their_cpus_over_two_levels() {
    disk_interrupts(Levels::Two);
}

/// Waits long enough for an interrupt to come that must not.
fn nothing_comes(rig: &Rig) {
    let mut looks = 0;
    rig.machine
        .wait_for("nothing", Duration::from_secs(10), || {
            looks += 1;
            (looks > 200).then_some(())
        })
        .unwrap();
    assert_eq!([rig.pending(0), rig.pending(1)], [vec![], vec![]]);
}

#[test]
fn without_its_mapping_the_doorbell_is_out_of_reach() {
    let rig = rig::start(Levels::Two);
    let device = rig.device(EDU.raw().into());
    let attachment = rig.attach(EDU);
    let client = attachment.device(rig::info("edu"), None);
    let doorbell = rig.map_doorbell(&client);
    rig::set_msi(&rig.edu, doorbell.addr, 1);
    rig::interrupt(&rig.edu);
    rig.take(1, &device, 1);
    client
        .unmap_resource(doorbell, Direction::FromDevice)
        .unwrap();
    rig::interrupt(&rig.edu);
    nothing_comes(&rig);
    let (faults, _) = rig.stack.take_faults();
    let fault = faults.first().unwrap();
    assert_eq!(fault.stream, u32::from(EDU.raw()));
    assert_eq!(fault.reason, FaultReason::Unmapped);
    assert_eq!(fault.is_write, Some(true));
    let page = fault.iova.unwrap().raw() & !(PAGE_BYTES - 1);
    assert_eq!(page, doorbell.addr.raw() & !(PAGE_BYTES - 1));
    // And it is the mapping that made the difference.
    let doorbell = rig.map_doorbell(&client);
    rig::set_msi(&rig.edu, doorbell.addr, 1);
    rig::interrupt(&rig.edu);
    rig.take(1, &device, 1);
    client
        .unmap_resource(doorbell, Direction::FromDevice)
        .unwrap();
    client.remove().unwrap();
    attachment.close().unwrap();
    rig.remove(device);
}

#[test]
fn an_event_or_device_that_is_not_mapped_raises_nothing() {
    let rig = rig::start(Levels::Two);
    // The disk's events are no business of `edu`, although the event is the same.
    let other = rig.device(DISK.raw().into());
    let attachment = rig.attach(EDU);
    let client = attachment.device(rig::info("edu"), None);
    let doorbell = rig.map_doorbell(&client);
    rig::set_msi(&rig.edu, doorbell.addr, 1);
    rig::interrupt(&rig.edu);
    nothing_comes(&rig);
    let mut device = rig.device(EDU.raw().into());
    rig::interrupt(&rig.edu);
    rig.take(1, &device, 1);
    rig.lpis.free(rig.its.unmap(&mut device, 1).unwrap());
    rig::interrupt(&rig.edu);
    nothing_comes(&rig);
    let lpi = rig.lpis.allocate().unwrap();
    rig.its.map(&mut device, 1, lpi, 0).unwrap();
    rig::interrupt(&rig.edu);
    rig.take(0, &device, 1);
    assert_eq!(
        rig.stack.take_faults().0,
        [],
        "the ITS drops it, not the SMMU"
    );
    client
        .unmap_resource(doorbell, Direction::FromDevice)
        .unwrap();
    client.remove().unwrap();
    attachment.close().unwrap();
    rig.remove(device);
    rig.remove(other);
}

fn tables_lie_where_they_were_put(levels: Levels) {
    let rig = rig::start(levels);
    let devices = [0, u32::from(EDU.raw()), FAR, 0xffff].map(|id| rig.device(id));
    for device in &devices {
        for event in 0..4 {
            rig.its.raise(device, event).unwrap();
            rig.take(event as usize % 2, device, event);
        }
    }
    rig.check_canaries();
    let table = rig.its.table(TableKind::Devices).unwrap();
    let node_1 = |start: u64| start >= 0x4200_0000;
    assert!(node_1(table.range.start().raw()), "on the node of the ITS");
    assert_eq!(table.layout.ids, 1 << 16);
    let bytes = rig.bytes(table.range);
    let used = |at: usize| bytes[at..at + 8].iter().any(|byte| *byte != 0);
    match levels {
        Levels::Flat => {
            assert_eq!((table.range.len(), table.leaves), (512 << 10, 0));
            let entries = (0..1 << 16).filter(|id| used(id * 8));
            let ids: Vec<u32> = entries.map(|id| id as u32).collect();
            assert_eq!(ids, devices.each_ref().map(|device| device.id()));
        }
        _ => {
            assert_eq!((table.range.len(), table.leaves), (1 << 16, 3));
            let entries: Vec<_> = (0..1 << 13).filter(|index| used(index * 8)).collect();
            assert_eq!(entries, [0, 1, 7]);
        }
    }
    for device in &devices {
        assert!(node_1(device.table().start().raw()));
        assert_eq!(
            device.table().len(),
            256,
            "four entries of 12 bytes, aligned"
        );
        let bytes = rig.bytes(device.table());
        assert!(
            bytes[..48]
                .chunks(12)
                .all(|entry| entry.iter().any(|byte| *byte != 0))
        );
        assert!(bytes[48..].iter().all(|byte| *byte == 0));
    }
    let collections = rig.its.table(TableKind::Collections).unwrap();
    let bytes = rig.bytes(collections.range);
    assert!(
        bytes[..16]
            .chunks(8)
            .all(|entry| entry.iter().any(|byte| *byte != 0))
    );
    assert!(bytes[16..].iter().all(|byte| *byte == 0));
    let before = rig.stack.memory().outstanding_bytes();
    let tables = devices
        .iter()
        .map(|device| device.table().len())
        .sum::<u64>();
    devices.into_iter().for_each(|device| rig.remove(device));
    assert_eq!(rig.stack.memory().outstanding_bytes(), before - tables);
    assert_eq!(rig.lpis.free_count(), rig.lpis.count());
    assert_eq!(rig.its.command_counts().refused, 0);
}

#[test]
fn bytes_of_flat_tables_lie_where_they_were_put_and_nowhere_else() {
    tables_lie_where_they_were_put(Levels::Flat);
}

#[test]
fn bytes_of_two_level_tables_lie_where_they_were_put_and_nowhere_else() {
    tables_lie_where_they_were_put(Levels::Two);
}

#[test]
fn a_queue_that_wraps_loses_nothing() {
    let rig = rig::start(Levels::Flat);
    let device = rig.device(EDU.raw().into());
    // Two commands each, twice round a ring of 2048.
    for _ in 0..2100 {
        rig.its.raise(&device, 3).unwrap();
    }
    assert!(rig.its.command_counts().commands > 4096);
    rig.take(1, &device, 3);
    rig.remove(device);
}

#[test]
fn what_the_its_used_comes_back_when_it_stops() {
    let rig = rig::start(Levels::Two);
    let device = rig.device(FAR);
    rig.remove(device);
    let Rig { its, stack, .. } = rig;
    let table = its.table(TableKind::Devices).unwrap();
    let collections = its.table(TableKind::Collections).unwrap();
    let given = table.range.len() + collections.range.len() + (2 << 16);
    let before = stack.memory().outstanding_bytes();
    its.stop(|segment| panic!("{segment:?} is of the only provider"))
        .unwrap();
    assert_eq!(stack.memory().outstanding_bytes(), before - given);
}
