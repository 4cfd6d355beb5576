//! Drivers that map through the public API: a disk and an `edu`, every kind of mapping, behind the SMMU
//! strict, batched and lazy, past it, and on a board without one.
//!
//! `DMAKIT_STEPS` sets the number of I/Os, a hundredth of it in all; `DMAKIT_SEED` changes every seed.

mod disk;
mod fabric;
mod mapped;

use std::os::unix::fs::FileExt;

use disk::{DISK, EDU, Random, disk_info, edu_info};
use dmakit_addr::{Attributes, DmaAddr, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{
    BounceWhen, DeviceInfo, DmaSegment, DomainError, LinkError, MapError, Path, Trust, UnmapFailure,
};
use dmakit_platform::{CpuBuffer, Segment, SegmentRequest};
use dmakit_qemu::Config;
use dmakit_qemu::devices::nvme::{DEPTH_MAX, Operation};
use dmakit_qemu::devices::{Lent, Steps};
use dmakit_qemu::smmu::{Attachment, Mode};
use mapped::buffers::{self, end_pool, pool};
use mapped::{LANE, LANES, Load, Policy, Rounds};

const MIB: u64 = 1 << 20;
const NONE: Attributes = Attributes::NONE;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One I/O for each hundred of the steps that other tests take, a third each strict, batched and lazy;
/// the other ways come on top.
fn ios() -> u64 {
    number("DMAKIT_STEPS").unwrap_or(1_000_000) / 100
}

/// `wanted` commands of a disk.
fn random_load(config: &Config, policy: Policy, seed: u64, wanted: u64) {
    let seed = seed ^ number("DMAKIT_SEED").unwrap_or(0);
    println!("{policy:?}, seed {seed:#x}, {wanted} I/Os");
    let rig = disk::start_on(config, DmaMask::ALL, LANES * LANE);
    let attachment = policy.attach(&rig, DISK);
    // All that can be in flight, and room to keep each buffer's place in its page.
    let bytes = match policy {
        Policy::Bounced | Policy::Direct => 2 * LANES * LANE,
        _ => 4 * MIB,
    };
    let slots = pool(&rig, DmaMask::ALL, bytes);
    let devices = policy.devices(&rig, attachment.as_ref(), disk_info(), &slots);
    let disk = rig.disk(&devices[0]);
    let mut load = Load::new(&rig, attachment.as_ref(), &devices, disk, policy, seed);
    // Enough rounds for each thing that not every round does.
    while load.ios < wanted || load.rounds < 4 {
        load.round();
    }
    let (kinds, hiccups, refused) = (load.kinds, load.hiccups, load.refused);
    let (tried, deepest) = (load.tried, load.deepest);
    let (model, mut disk) = load.finish();
    println!(
        "by kind {kinds:?}, {hiccups} failed syncs, {refused} refused, {tried} tried after their end, \
         {deepest} in flight"
    );
    assert_eq!(tried > wanted / 4, policy != Policy::Direct, "{tried}");
    assert_eq!(deepest, DEPTH_MAX);
    assert!(refused > 0);
    assert_eq!(hiccups > 0, policy.translates());
    let absent = if policy == Policy::Bounced { 2 } else { 0 };
    let used = kinds.iter().filter(|&&count| count > wanted / 100).count();
    assert_eq!(used, kinds.len() - absent, "{kinds:?}");
    disk.flush().unwrap();
    assert!(
        rig.stored(0, model.len()) == model,
        "the file has other bytes"
    );
    disk.stop().unwrap();
    let stats = devices.map(|device| device.remove().unwrap());
    println!("{stats:?}");
    assert!(stats[1].bounced > 0, "edges at least");
    end_pool(&rig, slots);
    if let Some(attachment) = attachment {
        println!("{:?}", rig.stack().smmu().command_counts());
        rig.close(stats[1], attachment);
    }
    rig.all_is_back(&stats);
}

#[test]
fn random_ios_of_every_kind_are_right_with_a_sync_for_each_round() {
    random_load(&Config::virt(), Policy::Strict, 0x5eed, ios() / 3 + 1);
}

#[test]
fn random_ios_of_every_kind_are_right_in_batches() {
    random_load(&Config::virt(), Policy::Batched, 0xba7c, ios() / 3 + 1);
}

#[test]
fn random_ios_of_every_kind_are_right_when_lazy() {
    random_load(&Config::virt(), Policy::Lazy, 0x1a2f, ios() / 3 + 1);
}

#[test]
fn random_ios_of_every_kind_are_right_past_the_smmu() {
    random_load(&Config::virt(), Policy::Direct, 0xd12e, ios() / 10);
    random_load(&Config::virt(), Policy::Bounced, 0xb0ce, ios() / 10);
}

#[test]
fn random_ios_of_every_kind_are_right_without_an_iommu() {
    random_load(&disk::q35(), Policy::Direct, 0x35d1, ios() / 20);
    random_load(&disk::q35(), Policy::Bounced, 0x35b0, ios() / 20);
}

/// `count` times there and back.
fn edu_load(config: &Config, bits: u32, policy: Policy, count: u64) {
    println!("{policy:?}, {bits} bits, {count} rounds");
    let mask = DmaMask::bits(bits).unwrap();
    let rig = disk::start_on(config, mask, MIB);
    let attachment = policy.attach(&rig, EDU);
    // Its own reach counts where it is told of the pool itself.
    let reach = if policy.translates() {
        DmaMask::ALL
    } else {
        mask
    };
    let slots = pool(&rig, reach, MIB);
    let devices = policy.devices(&rig, attachment.as_ref(), edu_info(mask), &slots);
    let edu = rig.edu(&devices[0]);
    let mut rounds = Rounds::new(&rig, attachment.as_ref(), &devices, &edu, policy);
    for number in 0..count {
        match number % 8 {
            0 => rounds.coherent_round(),
            _ => rounds.round(),
        }
    }
    drop(rounds);
    edu.stop();
    let stats = devices.map(|device| device.remove().unwrap());
    println!("{stats:?}");
    end_pool(&rig, slots);
    if let Some(attachment) = attachment {
        rig.close(stats[1], attachment);
    }
    rig.all_is_back(&stats);
}

#[test]
fn an_edu_reaches_what_was_mapped_for_it_and_not_a_byte_around() {
    let count = ios() / 50;
    for policy in [Policy::Strict, Policy::Batched, Policy::Lazy] {
        edu_load(&Config::virt(), 28, policy, count);
    }
    for policy in [Policy::Direct, Policy::Bounced] {
        edu_load(&Config::virt(), 64, policy, count / 2);
        // Half of this board's memory is out of its reach.
        edu_load(&disk::q35(), 28, policy, count / 2);
    }
}

/// A driver that does no more than it must.
#[test]
fn a_buffer_goes_to_an_edu_and_comes_back() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(EDU, Mode::Strict);
    let device = attachment.device(edu_info(DmaMask::ALL), None);
    let edu = rig.edu(&device);
    let mut random = Random(11);
    let sent = random.bytes(4095);
    let mut pieces = rig.scattered(&mut random, 4095);
    buffers::write(&mut pieces, &sent);
    let mut pieces = edu.send(pieces).unwrap();
    buffers::write(&mut pieces, &[0xee; 4095]);
    let pieces = edu.receive(pieces).unwrap();
    assert!(buffers::read(&pieces) == sent);
    rig.free(pieces);
    let failure = edu.receive(rig.scattered(&mut random, 4096)).unwrap_err();
    rig.free(failure.memory.unwrap());
    rig.no_faults();
    edu.stop();
    rig.close(device.remove().unwrap(), attachment);
}

/// An SMMU whose queue is off: what was unmapped stays the device's, which indeed still reaches it, and
/// comes back once the queue is on again.
#[test]
fn a_failed_sync_gives_nothing_back_and_leaves_nothing_mapped() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    rig.file.write_all_at(&[0x77; 4096], 0).unwrap();
    let mut random = Random(12);
    let before = held(&attachment);
    for steps in [Steps::One, Steps::Two] {
        let pieces = rig.scattered(&mut random, 4096);
        let phys = dmakit_dma::DmaMemory::runs(&pieces).next().unwrap();
        let seen = || {
            let mut bytes = [0; 4096];
            let window = rig.machine.hardware_window(phys).unwrap();
            window.read(&mut bytes);
            bytes
        };
        let lent = Lent::<FromDevice>::new(&device, steps, pieces);
        let lent = lent.map_err(|(error, _)| error).unwrap();
        let segments = lent.segments(&device);
        disk.transfer(Operation::Read, 0, &segments).unwrap();
        assert_eq!(seen(), [0x77; 4096]);
        rig.file.write_all_at(&[0x78; 4096], 0).unwrap();
        let queue = rig.stop_commands();
        let Ok(debt) = lent.take(&device) else {
            panic!("another device's");
        };
        assert!(device.sync().is_err());
        // So it is good that nobody has it yet.
        disk.transfer(Operation::Read, 0, &segments).unwrap();
        assert_eq!(seen(), [0x78; 4096], "{steps:?}");
        rig.no_faults();
        queue.go_on();
        let pieces = device.redeem(debt, &device.sync().unwrap()).unwrap();
        rig.file.write_all_at(&[0x77; 4096], 0).unwrap();
        disk.transfer(Operation::Read, 0, &segments).unwrap();
        assert_eq!(seen(), [0x78; 4096], "{steps:?}: a stale hit");
        assert!(!rig.stack().take_faults().0.is_empty());
        rig.free(pieces);
    }
    // Whoever asks for a mapping's end and its sync in one gets the debt.
    let pieces = rig.scattered(&mut random, 8192);
    let mapping = device.map_request::<ToDevice, _>(pieces, NONE).unwrap();
    let queue = rig.stop_commands();
    let failure = device.unmap_and_sync(mapping).unwrap_err();
    let UnmapFailure::Owed { debt, .. } = failure else {
        panic!("{failure}");
    };
    queue.go_on();
    rig.free(device.redeem(debt, &device.sync().unwrap()).unwrap());
    assert_eq!(held(&attachment), before);
    rig.no_faults();
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

/// What a domain holds.
fn held(attachment: &Attachment) -> (u64, u64, u64) {
    let counters = attachment.counters();
    (counters.iova_bytes, counters.leaves, counters.quarantined)
}

/// Where nobody can wait for a sync by himself, what a failed one covers is lost, and counted; nothing
/// stays mapped.
#[test]
fn what_cannot_wait_for_a_failed_sync_is_lost_and_counted() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let slots = pool(&rig, DmaMask::ALL, MIB);
    let info = DeviceInfo {
        trust: Trust::Untrusted,
        ..disk_info()
    };
    let device = attachment.device(info, Some((&slots, slots.attach(None).unwrap())));
    let before = held(&attachment);
    let block = device.alloc_coherent::<[u8; 4096]>(1, NONE).unwrap();
    let (pieces, _around) = buffers::scattered(&rig, &mut Random(13), 8192, 512);
    let mapping = device.map_request::<FromDevice, _>(pieces, NONE).unwrap();
    assert!(mapping.is_bounced(), "its edges");
    let queue = rig.stop_commands();
    device.free_coherent(block).unwrap();
    let failure = device.unmap_and_sync(mapping).unwrap_err();
    assert!(
        matches!(failure, UnmapFailure::Owed { .. } | UnmapFailure::Lost(_)),
        "{failure}"
    );
    queue.go_on();
    device.sync().unwrap();
    let stats = device.stats();
    assert_eq!((stats.lost, stats.live(), stats.coherent_live()), (2, 0, 0));
    let (iova, leaves, quarantined) = held(&attachment);
    println!("{iova} bytes of addresses, {quarantined} of them in quarantine");
    assert_eq!(leaves, before.1, "nothing is mapped");
    assert!(iova > before.0, "and nobody gets the addresses");
    assert!(slots.used() > 0, "or the slots");
}

#[test]
fn failures_of_addresses_leave_nothing_mapped() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let before = held(&attachment);
    let narrow = DeviceInfo {
        streaming_mask: DmaMask::bits(17).unwrap(),
        ..disk_info()
    };
    let device = attachment.device(narrow, None);
    let pieces = rig.scattered(&mut Random(5), 64 * 4096);
    let mut segments = [Default::default(); 64];
    let failure = device
        .map_scatter::<ToDevice, _>(pieces, NONE, &mut segments)
        .unwrap_err();
    let is_full = matches!(failure.error, MapError::Domain(DomainError::Space(_)));
    assert!(is_full, "{failure}");
    let first = dmakit_addr::PhysAddr::new(0);
    let refused = device.reserve::<ToDevice>(first, MIB, 1, NONE).unwrap_err();
    assert!(matches!(refused, LinkError::Map(_)), "{refused}");
    assert_eq!(held(&attachment), before);
    rig.free(failure.memory);
    rig.no_faults();
    rig.close(device.remove().unwrap(), attachment);
}

/// Everything that is free, in pieces.
fn all_memory(rig: &disk::Rig) -> Vec<Segment> {
    let mut taken = Vec::new();
    for len in [MIB, 4096] {
        let request = SegmentRequest {
            len,
            align: 4096,
            node: None,
            limit: DmaMask::ALL,
        };
        while let Ok(segment) = rig.memory.allocate(&request) {
            taken.push(segment);
        }
    }
    taken
}

#[test]
fn failures_of_tables_leave_nothing_mapped() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let before = held(&attachment);
    let device = attachment.device(disk_info(), None);
    let pieces = rig.scattered(&mut Random(5), 1024 * 4096);
    let taken = all_memory(&rig);
    let failure = device
        .map_request::<FromDevice, _>(pieces, NONE)
        .unwrap_err();
    let is_table = matches!(failure.error, MapError::Domain(DomainError::Table(_)));
    assert!(is_table, "{failure}");
    let pieces = failure.memory;
    let run = pieces.buffers()[0].runs().next().unwrap();
    let mut request = device
        .reserve::<FromDevice>(run.start(), 4 * MIB, 1, NONE)
        .unwrap();
    let mut linked = 0;
    let error = loop {
        let buffer: &CpuBuffer = &pieces.buffers()[linked];
        let run = buffer.runs().next().unwrap();
        match device.link(&mut request, run, buffer) {
            Ok(_) => linked += 1,
            Err(error) => break error,
        }
    };
    let is_table = matches!(error, LinkError::Map(MapError::Domain(_)));
    assert!(is_table, "{error}");
    assert_eq!(request.len(), linked as u64 * 4096);
    for segment in taken {
        rig.memory.free(segment).unwrap();
    }
    let debt = device.cancel(request, pieces, core::iter::empty()).unwrap();
    let pieces = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(held(&attachment), before);
    rig.free(pieces);
    rig.no_faults();
    rig.close(device.remove().unwrap(), attachment);
}

/// What makes the rest worth something: a write that was not mapped for is seen.
#[test]
fn a_write_outside_what_was_mapped_faults() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let attachment = rig.attach(DISK, Mode::Strict);
    let device = attachment.device(disk_info(), None);
    let mut disk = rig.disk(&device);
    rig.file.write_all_at(&[0x77; 8192], 0).unwrap();
    let pieces = rig.scattered(&mut Random(9), 4096);
    let lent = Lent::<FromDevice>::new(&device, Steps::Two, pieces);
    let lent = lent.map_err(|(error, _)| error).unwrap();
    // Below: above it are the disk's own queues.
    let both = DmaSegment {
        addr: DmaAddr::new(lent.segments(&device)[0].addr.raw() - 4096),
        len: 8192,
    };
    disk.transfer(Operation::Read, 0, &[both]).unwrap();
    let (faults, _) = rig.stack().take_faults();
    assert!(!faults.is_empty());
    assert_eq!(faults[0].stream, u32::from(DISK.raw()));
    let Ok(debt) = lent.take(&device) else {
        panic!("another device's");
    };
    let pieces = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert!(buffers::read(&pieces).iter().all(|&byte| byte == 0x77));
    rig.free(pieces);
    disk.stop().unwrap();
    rig.close(device.remove().unwrap(), attachment);
}

/// A device on a bus that a pool does not reach, and one whose memory is out of its own reach.
#[test]
fn without_an_iommu_what_is_out_of_reach_is_copied_or_refused() {
    let mask = DmaMask::bits(28).unwrap();
    let rig = disk::start_on(&disk::q35(), mask, MIB);
    let slots = pool(&rig, mask, MIB);
    let id = slots.attach(None).unwrap();
    let when = BounceWhen::Needed;
    let paths = [
        Path::Direct,
        Path::Bounced {
            pool: &slots,
            id,
            when,
        },
    ];
    for path in paths {
        let device = rig.untranslated(edu_info(mask), path);
        for node in [0, 1] {
            let request = SegmentRequest {
                len: 4096,
                align: 4096,
                node: Some(dmakit_addr::NodeId::new(node)),
                limit: DmaMask::ALL,
            };
            let page = rig.memory.allocate(&request).unwrap();
            let buffer = CpuBuffer::from_segment(page, 4096).unwrap();
            let is_far = node == 1;
            let buffer = match device.map::<ToDevice>(buffer, NONE) {
                Ok(mapping) => {
                    assert_eq!(mapping.is_bounced(), is_far, "{path:?}");
                    device.unmap_and_sync(mapping).unwrap()
                }
                Err(failure) => {
                    assert!(is_far && matches!(path, Path::Direct), "{failure}");
                    let says = matches!(failure.error, MapError::NoBouncePool(_));
                    assert!(says, "{failure}");
                    failure.memory
                }
            };
            rig.memory.free(buffer.into_segment().unwrap()).unwrap();
        }
        device.remove().unwrap();
    }
    end_pool(&rig, slots);
}
