//! A disk behind the SMMU: what it reads and writes is what was mapped for it, and nothing else.

mod disk;

use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use disk::{DISK, Disk, Random, disk_info, part};
use dmakit_addr::{Attributes, DmaAddr, FromDevice, Iova, PAGE_BYTES, ToDevice};
use dmakit_dma::{CoherentSource, Device, DmaMemory, DmaSegment, Mapping, Path};
use dmakit_iommu::FaultReason;
use dmakit_platform::host::SegmentStore;
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_qemu::devices::nvme::{DEPTH_MAX, NvmeError, Operation};
use dmakit_qemu::pieces::Pieces;
use dmakit_qemu::smmu::{Mode, QemuDevice};

const ALL: dmakit_addr::DmaMask = dmakit_addr::DmaMask::ALL;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 512;
const NONE: Attributes = Attributes::NONE;

fn segment<D: dmakit_addr::DirectionType>(
    device: &QemuDevice<'_>,
    mapping: &Mapping<D, Pieces>,
) -> DmaSegment {
    let segments: Vec<_> = device.segments(mapping).collect();
    assert_eq!(segments.len(), 1, "one range of addresses");
    segments[0]
}

fn bytes(pieces: &Pieces) -> Vec<u8> {
    let mut bytes = vec![0; pieces.runs().map(|run| run.len()).sum::<u64>() as usize];
    pieces.read(0, &mut bytes);
    bytes
}

fn fill(pieces: &mut Pieces, byte: u8) {
    let len: u64 = pieces.runs().map(|run| run.len()).sum();
    pieces.write(0, &vec![byte; len as usize]);
}

#[test]
fn a_megabyte_scattered_over_both_nodes_goes_to_the_disk_and_back() {
    let rig = disk::start(ALL, 4 * MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    let identity = disk.identity().clone();
    assert_eq!((identity.block, identity.blocks), (BLOCK, 4 * MIB / BLOCK));
    assert_eq!(identity.serial, "dmakit");
    assert_eq!(identity.transfer_max, 2 * MIB, "mdts=9");
    let mut random = Random(1);
    let mut source = rig.scattered(&mut random, MIB);
    let nodes = source.runs().filter(|run| run.start().raw() >= 0x5000_0000);
    assert_eq!(nodes.count(), 128, "half of the pages are of node 1");
    let sent = random.bytes(MIB as usize);
    source.write(0, &sent);
    let mapping = device.map_request::<ToDevice, _>(source, NONE).unwrap();
    let from = segment(&device, &mapping);
    assert_eq!(from.len, MIB);
    disk.transfer(Operation::Write, 2048, &[from]).unwrap();
    rig.free(device.unmap_and_sync(mapping).unwrap());
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
    let target = rig.scattered(&mut random, MIB + 2 * PAGE_BYTES);
    let mapping = device.map_request::<FromDevice, _>(target, NONE).unwrap();
    let middle = part(segment(&device, &mapping), PAGE_BYTES, MIB);
    disk.transfer(Operation::Read, 4096, &[middle]).unwrap();
    let target = device.unmap_and_sync(mapping).unwrap();
    let seen = bytes(&target);
    let (before, rest) = seen.split_at(PAGE_BYTES as usize);
    let (landed, after) = rest.split_at(MIB as usize);
    assert!(landed == kept, "memory has other bytes");
    assert!(
        before.iter().chain(after).all(|&byte| byte == 0xee),
        "canaries"
    );
    rig.no_faults();
    rig.free(target);
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn faults_of_data_show_in_the_event_queue_and_not_in_the_status() {
    let rig = disk::start(ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    rig.file.write_all_at(&[0x77; 8192], 0).unwrap();
    let mut random = Random(2);
    let page = rig.scattered(&mut random, PAGE_BYTES);
    let mapping = device.map_request::<FromDevice, _>(page, NONE).unwrap();
    let mapped = segment(&device, &mapping);
    // Below: above it are the disk's own queues.
    let start = mapped.addr.raw() - PAGE_BYTES;
    let outside = start..mapped.addr.raw();
    let both = DmaSegment {
        addr: DmaAddr::new(start),
        len: 2 * PAGE_BYTES,
    };
    disk.transfer(Operation::Read, 0, &[both]).unwrap();
    let (faults, _) = rig.stack().take_faults();
    assert!(!faults.is_empty(), "the first page is not mapped");
    for fault in faults {
        assert_eq!(fault.stream, u32::from(DISK.raw()));
        assert_eq!(
            (fault.reason, fault.is_write),
            (FaultReason::Unmapped, Some(true))
        );
        assert!(outside.contains(&fault.iova.unwrap().raw()), "{fault}");
    }
    let mut page = device.unmap_and_sync(mapping).unwrap();
    assert_eq!(bytes(&page), [0x77; 4096], "the second page is mapped");

    fill(&mut page, 0xee);
    let mapping = device.map_request::<ToDevice, _>(page, NONE).unwrap();
    let only_read = segment(&device, &mapping);
    disk.transfer(Operation::Read, 0, &[only_read]).unwrap();
    let (faults, _) = rig.stack().take_faults();
    assert!(!faults.is_empty());
    let inside = only_read.addr.raw()..only_read.addr.raw() + only_read.len;
    for fault in faults {
        assert_eq!(fault.stream, u32::from(DISK.raw()));
        assert_eq!(
            (fault.reason, fault.is_write),
            (FaultReason::Permission, Some(true))
        );
        assert!(inside.contains(&fault.iova.unwrap().raw()), "{fault}");
    }
    let page = device.unmap_and_sync(mapping).unwrap();
    assert_eq!(bytes(&page), [0xee; 4096], "mapped for reading only");
    rig.free(page);
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn what_the_disk_cannot_do_is_refused_before_it_is_asked() {
    let rig = disk::start(ALL, 4 * MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    let mut random = Random(3);
    let large = rig.scattered(&mut random, 2 * MIB + PAGE_BYTES);
    let mapping = device.map_request::<FromDevice, _>(large, NONE).unwrap();
    let whole = segment(&device, &mapping);
    let mut refused =
        |lba, segments: &[DmaSegment]| disk.submit(Operation::Read, lba, segments).unwrap_err();
    assert!(matches!(
        refused(0, &[whole]),
        NvmeError::TooLong { max, .. } if max == 2 * MIB
    ));
    let odd = refused(0, &[part(whole, 0, 100)]);
    assert!(matches!(odd, NvmeError::Blocks { len: 100, .. }));
    let odd = refused(0, &[part(whole, 2, 512)]);
    assert!(matches!(odd, NvmeError::Misplaced { .. }));
    let gap = refused(0, &[part(whole, 0, 512), part(whole, 4096, 512)]);
    assert!(matches!(gap, NvmeError::Misplaced { .. }));
    assert!(matches!(
        refused(8191, &[part(whole, 0, 1024)]),
        NvmeError::Beyond { size: 8192, .. }
    ));
    rig.no_faults();
    rig.free(device.unmap_and_sync(mapping).unwrap());
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn sixty_four_commands_are_in_flight_at_once_and_not_one_more() {
    assert_eq!(DEPTH_MAX, 64);
    let rig = disk::start(ALL, 4 * MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    let mut random = Random(6);
    let stored = random.bytes(2 * MIB as usize);
    rig.file.write_all_at(&stored, 0).unwrap();
    // Twice round a queue of 65, so that it wraps with all of them in flight.
    for round in 0..3 {
        let target = rig.scattered(&mut random, 64 * 8 * BLOCK);
        let mapping = device.map_request::<FromDevice, _>(target, NONE).unwrap();
        let whole = segment(&device, &mapping);
        let lane = |slot| part(whole, slot * 8 * BLOCK, 8 * BLOCK);
        for slot in 0..64 {
            let lba = (round * 64 + slot) * 8;
            disk.submit(Operation::Read, lba, &[lane(slot)]).unwrap();
        }
        assert_eq!(disk.in_flight(), 64);
        let full = disk.submit(Operation::Read, 0, &[lane(0)]);
        assert_eq!(full, Err(NvmeError::Full));
        for _ in 0..64 {
            assert_eq!(disk.wait().unwrap().status, 0);
        }
        assert_eq!(disk.in_flight(), 0);
        let target = device.unmap_and_sync(mapping).unwrap();
        let len = 64 * 8 * BLOCK as usize;
        assert!(bytes(&target) == stored[round as usize * len..][..len]);
        rig.free(target);
    }
    rig.no_faults();
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn an_unattached_disk_does_not_come_up_and_keeps_nothing() {
    let rig = disk::start(ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    rig.disk(&device).stop().unwrap();
    rig.stack().smmu().detach(DISK.raw().into()).unwrap();
    let platform = rig.machine.platform();
    let failure = Disk::start(platform, &device, rig.regs(DISK), None);
    let error = failure.err().unwrap();
    assert!(matches!(error, NvmeError::Fatal { .. }), "{error}");
    // The architecture aborts such a stream without a record.
    rig.no_faults();
    rig.close(device.remove().unwrap(), attachment);
}

/// A machine's memory, of which only so many blocks can be had.
struct Scarce {
    memory: SegmentStore,
    left: AtomicU32,
}

impl TableMemory for Scarce {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let taken = self
            .left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        match taken {
            Ok(_) => self.memory.allocate_table(request),
            Err(_) => Err(NoMemory {
                request: *request,
                largest_free: None,
            }),
        }
    }

    fn free_table(&self, segment: Segment) {
        self.memory.free_table(segment);
    }
}

#[test]
fn a_disk_without_memory_for_all_it_needs_keeps_none_of_it() {
    let rig = disk::start(ALL, MIB);
    rig.bypass(DISK);
    let platform = rig.machine.platform();
    let mut count = 0;
    loop {
        let scarce = Scarce {
            memory: rig.memory.clone(),
            left: AtomicU32::new(count),
        };
        let source = CoherentSource::Cached(&scarce);
        let device: QemuDevice<'_> =
            Device::new(platform.clone(), disk_info(), Path::Direct, source);
        let started = Disk::start(platform.clone(), &device, rig.regs(DISK), None);
        let is_up = match started {
            Ok(disk) => {
                disk.stop().unwrap();
                true
            }
            Err(error) => {
                assert!(matches!(error, NvmeError::Memory(_)), "{count}: {error}");
                false
            }
        };
        rig.all_is_back(&[device.remove().unwrap()]);
        if is_up {
            break;
        }
        count += 1;
    }
    assert_eq!(count, 6, "two pairs of queues, lists, a page");
}

/// What makes tests for stale hits worth something.
#[test]
fn a_lazy_domain_lets_the_disk_in_until_it_is_flushed() {
    let rig = disk::start(ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Lazy);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(4);
    let page = rig.scattered(&mut random, PAGE_BYTES);
    let mapping = device.map_request::<FromDevice, _>(page, NONE).unwrap();
    let first = part(segment(&device, &mapping), 0, BLOCK);
    disk.transfer(Operation::Read, 0, &[first]).unwrap();
    let mut page = device.unmap_and_sync(mapping).unwrap();
    fill(&mut page, 0xcc);
    assert_eq!(attachment.exposure().bytes, PAGE_BYTES);
    disk.transfer(Operation::Read, 0, &[first]).unwrap();
    assert_eq!(
        bytes(&page)[..512],
        [0x77; 512],
        "a stale hit: that is what lazy means"
    );
    rig.no_faults();
    attachment.flush().unwrap();
    assert_eq!(attachment.exposure().bytes, 0);
    fill(&mut page, 0xcc);
    disk.transfer(Operation::Read, 0, &[first]).unwrap();
    assert_eq!(bytes(&page), [0xcc; 4096]);
    assert!(!rig.stack().take_faults().0.is_empty());
    rig.free(page);
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

#[test]
fn a_walk_ends_at_the_page_that_the_disk_writes() {
    let rig = disk::start(ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    rig.file.write_all_at(&[0x77; 512], 0).unwrap();
    let mut random = Random(5);
    let pages = rig.scattered(&mut random, 4 * PAGE_BYTES);
    let third = pages.runs().nth(2).unwrap().start();
    let mapping = device.map_request::<FromDevice, _>(pages, NONE).unwrap();
    let target = part(segment(&device, &mapping), 2 * PAGE_BYTES, BLOCK);
    disk.transfer(Operation::Read, 0, &[target]).unwrap();
    let iova = Iova::new(target.addr.raw());
    let steps = attachment.walk(iova);
    assert_eq!(steps.len(), 4);
    let levels: Vec<_> = steps.iter().map(|step| step.level).collect();
    assert_eq!(levels, [0, 1, 2, 3]);
    let dmakit_io_pgtable::Entry::Leaf(phys, _) = steps[3].entry else {
        panic!("{}", steps[3]);
    };
    assert_eq!(phys, third);
    let run = dmakit_addr::PhysRange::new(phys, 512).unwrap();
    let mut seen = [0; 512];
    rig.machine.hardware_window(run).unwrap().read(&mut seen);
    assert_eq!(seen, [0x77; 512]);
    rig.free(device.unmap_and_sync(mapping).unwrap());
    assert_eq!(
        attachment.walk(iova).last().unwrap().entry,
        dmakit_io_pgtable::Entry::Absent
    );
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}
