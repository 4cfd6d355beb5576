//! A disk behind the SMMU: what it reads and writes is what was mapped for it, and nothing else.

mod disk;

use std::os::unix::fs::FileExt;

use disk::{DISK, Disk, Random, Rig};
use dmakit_addr::{IovaRange, PAGE_BYTES};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{FaultReason, Mapped};
use dmakit_qemu::devices::nvme::{NvmeError, Operation};
use dmakit_qemu::smmu::{Mode, Port, Scattered};

const ALL: dmakit_addr::DmaMask = dmakit_addr::DmaMask::ALL;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 512;

fn buffer(rig: &Rig, random: &mut Random, len: u64) -> Scattered {
    let pages = len.div_ceil(PAGE_BYTES) as usize;
    Scattered::allocate(rig.stack.memory(), 2, pages, |n| random.below(n)).unwrap()
}

fn map(port: &Port, buffer: &Scattered, operation: Operation) -> Mapped {
    let permissions = match operation {
        Operation::Read => Permissions::READ_WRITE,
        Operation::Write => Permissions::READ,
    };
    port.map(buffer.runs(), permissions).unwrap()
}

#[test]
fn a_megabyte_scattered_over_both_nodes_goes_to_the_disk_and_back() {
    let rig = disk::start(ALL, 4 * MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    let identity = disk.identity().clone();
    assert_eq!((identity.block, identity.blocks), (BLOCK, 4 * MIB / BLOCK));
    assert_eq!(identity.serial, "dmakit");
    assert_eq!(identity.transfer_max, 2 * MIB, "mdts=9");
    let mut random = Random(1);
    let source = buffer(&rig, &mut random, MIB);
    let nodes = source.runs().filter(|run| run.start().raw() >= 0x5000_0000);
    assert_eq!(nodes.count(), 128, "half of the pages are of node 1");
    let sent = random.bytes(MIB as usize);
    source.write(&sent);
    let mapped = map(&port, &source, Operation::Write);
    assert_eq!(mapped.range().len(), MIB, "one range of addresses");
    disk.transfer(Operation::Write, 2048, mapped.range())
        .unwrap();
    disk.flush().unwrap();
    assert!(
        rig.stored(MIB, MIB as usize) == sent,
        "the file has other bytes"
    );
    assert!(rig.stored(0, MIB as usize).iter().all(|&byte| byte == 0));
    assert!(
        rig.stored(2 * MIB, 2 * MIB as usize)
            .iter()
            .all(|&byte| byte == 0)
    );

    let kept = random.bytes(MIB as usize);
    rig.file.write_all_at(&kept, 2 * MIB).unwrap();
    let target = buffer(&rig, &mut random, MIB + 2 * PAGE_BYTES);
    target.fill(0xee);
    let canaries = map(&port, &target, Operation::Read);
    let middle = canaries.range().slice(PAGE_BYTES, MIB).unwrap();
    disk.transfer(Operation::Read, 4096, middle).unwrap();
    let seen = target.read(target.len() as usize);
    let (before, rest) = seen.split_at(PAGE_BYTES as usize);
    let (landed, after) = rest.split_at(MIB as usize);
    assert!(landed == kept, "memory has other bytes");
    assert!(
        before.iter().chain(after).all(|&byte| byte == 0xee),
        "canaries"
    );
    rig.no_faults();
    port.unmap([mapped, canaries]).unwrap();
    source.free(rig.stack.memory());
    target.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn faults_of_data_show_in_the_event_queue_and_not_in_the_status() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    rig.file.write_all_at(&[0x77; 8192], 0).unwrap();
    let mut random = Random(2);
    let page = buffer(&rig, &mut random, PAGE_BYTES);
    page.fill(0xee);
    let mapped = map(&port, &page, Operation::Read);
    let range = mapped.range();
    let both = IovaRange::new(range.start(), 2 * PAGE_BYTES).unwrap();
    disk.transfer(Operation::Read, 0, both).unwrap();
    assert_eq!(page.read(4096), [0x77; 4096], "the first page is mapped");
    let (faults, _) = rig.stack.take_faults();
    assert!(!faults.is_empty(), "the second is not");
    for fault in faults {
        assert_eq!(fault.stream, u32::from(DISK.raw()));
        assert_eq!(
            (fault.reason, fault.is_write),
            (FaultReason::Unmapped, Some(true))
        );
        let at = fault.iova.unwrap();
        assert!(both.contains(at) && !range.contains(at), "{fault}");
    }
    port.unmap([mapped]).unwrap();
    let only_read = map(&port, &page, Operation::Write);
    page.fill(0xee);
    disk.transfer(Operation::Read, 0, only_read.range())
        .unwrap();
    assert_eq!(page.read(4096), [0xee; 4096], "mapped for reading only");
    let (faults, _) = rig.stack.take_faults();
    assert!(!faults.is_empty());
    assert!(
        faults
            .iter()
            .all(|fault| fault.reason == FaultReason::Permission)
    );
    port.unmap([only_read]).unwrap();
    page.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn what_the_disk_cannot_do_is_refused_before_it_is_asked() {
    let rig = disk::start(ALL, 4 * MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    let mut random = Random(3);
    let large = buffer(&rig, &mut random, 2 * MIB + PAGE_BYTES);
    let mapped = map(&port, &large, Operation::Read);
    let whole = mapped.range();
    let part = |at, len| whole.slice(at, len).unwrap();
    assert!(matches!(
        disk.submit(Operation::Read, 0, whole),
        Err(NvmeError::TooLong { max, .. }) if max == 2 * MIB
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 0, part(0, 100)),
        Err(NvmeError::Shape { .. })
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 0, part(2, 512)),
        Err(NvmeError::Shape { .. })
    ));
    assert!(matches!(
        disk.submit(Operation::Read, 8191, part(0, 1024)),
        Err(NvmeError::Beyond { size: 8192, .. })
    ));
    for _ in 0..Disk::DEPTH_MAX {
        disk.submit(Operation::Read, 0, part(0, 512)).unwrap();
    }
    let full = disk.submit(Operation::Read, 0, part(0, 512));
    assert_eq!(full, Err(NvmeError::Full));
    for _ in 0..Disk::DEPTH_MAX {
        assert_eq!(disk.wait().unwrap().status, 0);
    }
    assert_eq!(disk.in_flight(), 0);
    rig.no_faults();
    port.unmap([mapped]).unwrap();
    large.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn an_unattached_disk_does_not_come_up() {
    let rig = disk::start(ALL, MIB);
    let (port, disk) = rig.disk(Mode::Strict);
    let memory = disk.stop().unwrap();
    rig.stack.smmu().detach(DISK.raw().into()).unwrap();
    let machine = rig.stack.machine();
    let regs = machine.pci().enable(DISK).unwrap().bar(0).unwrap();
    let failure = Disk::start(machine.platform(), regs, memory).err().unwrap();
    assert!(
        matches!(failure.error, NvmeError::Fatal { .. }),
        "{failure}"
    );
    // The architecture aborts such a stream without a record.
    rig.no_faults();
    port.free_block(failure.memory).unwrap();
    rig.close(port);
}

/// What makes tests for stale hits worth something.
#[test]
fn a_lazy_domain_lets_the_disk_in_until_it_is_flushed() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Lazy);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(4);
    let page = buffer(&rig, &mut random, PAGE_BYTES);
    let mapped = map(&port, &page, Operation::Read);
    let first = mapped.range().slice(0, BLOCK).unwrap();
    disk.transfer(Operation::Read, 0, first).unwrap();
    page.fill(0xcc);
    port.unmap([mapped]).unwrap();
    assert_eq!(port.exposure().bytes, PAGE_BYTES);
    disk.transfer(Operation::Read, 0, first).unwrap();
    assert_eq!(
        page.read(512),
        [0x77; 512],
        "a stale hit: that is what lazy means"
    );
    rig.no_faults();
    port.flush().unwrap();
    assert_eq!(port.exposure().bytes, 0);
    page.fill(0xcc);
    disk.transfer(Operation::Read, 0, first).unwrap();
    assert_eq!(page.read(512), [0xcc; 512]);
    assert!(!rig.stack.take_faults().0.is_empty());
    page.free(rig.stack.memory());
    rig.close_disk(port, disk);
}

#[test]
fn a_walk_ends_at_the_page_that_the_disk_writes() {
    let rig = disk::start(ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(5);
    let pages = buffer(&rig, &mut random, 4 * PAGE_BYTES);
    let mapped = map(&port, &pages, Operation::Read);
    let third = mapped.range().slice(2 * PAGE_BYTES, BLOCK).unwrap();
    disk.transfer(Operation::Read, 0, third).unwrap();
    let steps = port.walk(third.start());
    assert_eq!(steps.len(), 4);
    let levels: Vec<_> = steps.iter().map(|step| step.level).collect();
    assert_eq!(levels, [0, 1, 2, 3]);
    let dmakit_io_pgtable::Entry::Leaf(phys, _) = steps[3].entry else {
        panic!("{}", steps[3]);
    };
    assert_eq!(phys, pages.runs().nth(2).unwrap().start());
    let run = dmakit_addr::PhysRange::new(phys, 512).unwrap();
    let mut bytes = [0; 512];
    rig.stack
        .machine()
        .hardware_window(run)
        .unwrap()
        .read(&mut bytes);
    assert_eq!(bytes, [0x77; 512]);
    port.unmap([mapped]).unwrap();
    assert_eq!(
        port.walk(third.start()).last().unwrap().entry,
        dmakit_io_pgtable::Entry::Absent
    );
    pages.free(rig.stack.memory());
    rig.close_disk(port, disk);
}
