//! Drivers that map through the public API: a disk and an `edu` behind the SMMU, every kind of
//! mapping, strict, batched and lazy.

mod disk;
mod mapped;

use std::os::unix::fs::FileExt;

use disk::{DISK, Random};
use dmakit_addr::{Attributes, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{DeviceId, DeviceInfo, DomainError, LinkError, MapError, Trust};
use dmakit_platform::{CpuBuffer, SegmentRequest};
use dmakit_qemu::devices::nvme::Operation;
use dmakit_qemu::smmu::Mode;
use mapped::{LANE, LANES, Load, Policy, canaries_hold, pool};

const MIB: u64 = 1 << 20;

/// One I/O for each hundred of the steps that other tests take, a third under each policy.
fn ios() -> u64 {
    let steps = std::env::var("DMAKIT_STEPS").ok();
    let steps = steps.and_then(|text| text.parse::<u64>().ok());
    steps.unwrap_or(1_000_000) / 100
}

fn random_load(policy: Policy, seed: u64) {
    let wanted = ios() / 3 + 1;
    println!("seed {seed}, {wanted} I/Os");
    let rig = disk::start(DmaMask::ALL, LANES * LANE);
    let mode = match policy {
        Policy::Lazy => Mode::Lazy,
        Policy::Strict | Policy::Batched => Mode::Strict,
    };
    let (port, mut disk) = rig.disk(mode);
    let pool = pool(&rig);
    let info = |id, trust| {
        let mut info = DeviceInfo::new(DeviceId::new(id), "disk", DmaMask::ALL);
        info.trust = trust;
        info
    };
    let devices = [(1, Trust::Trusted), (2, Trust::Untrusted)].map(|(id, trust)| {
        let bounce = Some((&pool, pool.attach(None).unwrap()));
        port.device(info(id, trust), bounce)
    });
    let mut load = Load::new(&rig, &port, &devices, &mut disk, policy, seed);
    while load.ios < wanted {
        load.round();
    }
    load.finish();
    let (model, kinds) = (load.model, load.kinds);
    assert!(kinds.iter().all(|&count| count > wanted / 40), "{kinds:?}");
    disk.flush().unwrap();
    assert!(
        rig.stored(0, model.len()) == model,
        "the file has other bytes"
    );
    rig.no_faults();
    for device in devices {
        let stats = device.remove().unwrap();
        println!("{stats:?}");
        assert_eq!((stats.live(), stats.coherent_live(), stats.lost), (0, 0, 0));
    }
    assert_eq!(pool.used(), 0);
    mapped::end_pool(&rig, pool);
    println!("{kinds:?}, {:?}", rig.stack.smmu().command_counts());
    rig.close_disk(port, disk);
}

#[test]
fn random_ios_of_every_kind_are_right_with_a_sync_for_each_round() {
    random_load(Policy::Strict, 0x5eed);
}

#[test]
fn random_ios_of_every_kind_are_right_in_batches() {
    random_load(Policy::Batched, 0xba7c);
}

#[test]
fn random_ios_of_every_kind_are_right_when_lazy() {
    random_load(Policy::Lazy, 0x1a2f);
}

#[test]
fn failures_of_addresses_and_of_tables_leave_nothing_mapped() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let (port, disk) = rig.disk(Mode::Strict);
    let before = port.counters();
    let mut info = DeviceInfo::new(DeviceId::new(1), "disk", DmaMask::ALL);
    info.streaming_mask = DmaMask::bits(17).unwrap();
    let narrow = port.device(info, None);
    let mut random = Random(5);
    let list = mapped::scattered(&rig, &mut random, 64 * 4096, 0).0;
    let mut segments = [Default::default(); 64];
    let none = Attributes::NONE;
    let failure = narrow
        .map_scatter::<ToDevice, _>(list, none, &mut segments)
        .unwrap_err();
    let is_full = matches!(failure.error, MapError::Domain(DomainError::Space(_)));
    assert!(is_full, "{failure}");
    let first = dmakit_addr::PhysAddr::new(0);
    let refused = narrow.reserve::<ToDevice>(first, MIB, 1, none).unwrap_err();
    assert!(matches!(refused, LinkError::Map(_)), "{refused}");
    assert_eq!(port.counters().iova_bytes, before.iova_bytes);
    assert_eq!(port.counters().leaves, before.leaves);
    let mut list = failure.memory;
    mapped::free(&rig, list);

    // With a wide device and no memory left for tables.
    info.streaming_mask = DmaMask::ALL;
    let wide = port.device(info, None);
    list = mapped::scattered(&rig, &mut random, 1024 * 4096, 0).0;
    let mut taken = Vec::new();
    for len in [MIB, 4096] {
        let request = SegmentRequest {
            len,
            align: 4096,
            node: None,
            limit: DmaMask::ALL,
        };
        while let Ok(segment) = rig.stack.memory().allocate(&request) {
            taken.push(segment);
        }
    }
    let mut segments = vec![Default::default(); 1024];
    let failure = wide
        .map_scatter::<FromDevice, _>(list, none, &mut segments)
        .unwrap_err();
    let is_table = matches!(failure.error, MapError::Domain(DomainError::Table(_)));
    assert!(is_table, "{failure}");
    list = failure.memory;
    let run = list.buffers()[0].runs().next().unwrap();
    let mut request = wide
        .reserve::<FromDevice>(run.start(), 4 * MIB, 1, none)
        .unwrap();
    let mut linked = 0;
    let error = loop {
        let buffer: &CpuBuffer = &list.buffers()[linked];
        let run = buffer.runs().next().unwrap();
        match wide.link(&mut request, run, buffer) {
            Ok(_) => linked += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, LinkError::Map(MapError::Domain(_))),
        "{error}"
    );
    assert_eq!(request.len(), linked as u64 * 4096);
    for segment in taken {
        rig.stack.memory().free(segment).unwrap();
    }
    let debt = wide.cancel(request, list, core::iter::empty()).unwrap();
    let list = wide.redeem(debt, &wide.sync().unwrap()).unwrap();
    assert_eq!(port.counters().iova_bytes, before.iova_bytes);
    assert_eq!(port.counters().leaves, before.leaves);
    mapped::free(&rig, list);
    rig.no_faults();
    rig.close_disk(port, disk);
}

#[test]
fn an_edu_reaches_what_was_mapped_for_it_and_not_a_byte_around() {
    let rounds = ios() / 50;
    let rig = disk::start(DmaMask::bits(28).unwrap(), MIB);
    let (port, edu) = rig.edu();
    let pool = pool(&rig);
    let mut info = DeviceInfo::new(DeviceId::new(1), "edu", edu.mask());
    info.trust = Trust::Untrusted;
    let bounce = Some((&pool, pool.attach(None).unwrap()));
    let device = port.device(info, bounce);
    let mut random = Random(77);
    for round in 0..rounds {
        let len = 1 + random.below(4095);
        let offset = random.below(4096);
        let (mut list, around) = mapped::scattered(&rig, &mut random, len, offset);
        let sent = random.bytes(len as usize);
        mapped::write(&mut list, &sent);
        let mut segments = [Default::default(); 2];
        let mapping = device
            .map_scatter::<ToDevice, _>(list, Attributes::NONE, &mut segments)
            .unwrap();
        assert_eq!(mapping.segment_count(), 1);
        let at = dmakit_addr::Iova::new(mapping.dma_addr().raw());
        edu.read(at, len).unwrap();
        let list = device.unmap_and_sync(mapping).unwrap();
        assert!(canaries_hold(&around), "round {round}");
        mapped::free_all(&rig, list, around);

        // Back, through a request.
        let (list, around) = mapped::scattered(&rig, &mut random, len, offset);
        let sealed = mapped::link_all::<FromDevice>(&device, &list);
        let segment = sealed.segment().unwrap();
        edu.write(dmakit_addr::Iova::new(segment.addr.raw()), len)
            .unwrap();
        let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
        let list = device.redeem(debt, &device.sync().unwrap()).unwrap();
        assert!(
            mapped::read(&list) == sent,
            "round {round}: {len} bytes at {offset:#x}"
        );
        assert!(canaries_hold(&around), "round {round}");
        mapped::free_all(&rig, list, around);
    }
    rig.no_faults();
    assert_eq!((device.remove().unwrap().live(), pool.used()), (0, 0));
    mapped::end_pool(&rig, pool);
    rig.close(port);
}

/// What makes the rest worth something: a write that was not mapped for is seen.
#[test]
fn a_write_outside_what_was_mapped_faults() {
    let rig = disk::start(DmaMask::ALL, MIB);
    let (port, mut disk) = rig.disk(Mode::Strict);
    rig.file.write_all_at(&[0x77; 8192], 0).unwrap();
    let info = DeviceInfo::new(DeviceId::new(1), "disk", DmaMask::ALL);
    let device = port.device(info, None);
    let (list, around) = mapped::scattered(&rig, &mut Random(9), 4096, 0);
    let sealed = mapped::link_all::<FromDevice>(&device, &list);
    let start = dmakit_addr::Iova::new(sealed.segment().unwrap().addr.raw());
    let beyond = dmakit_addr::IovaRange::new(start, 8192).unwrap();
    disk.transfer(Operation::Read, 0, beyond).unwrap();
    let (faults, _) = rig.stack.take_faults();
    assert!(!faults.is_empty());
    assert_eq!(faults[0].stream, u32::from(DISK.raw()));
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    let list = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert!(mapped::read(&list).iter().all(|&byte| byte == 0x77));
    mapped::free_all(&rig, list, around);
    rig.close_disk(port, disk);
}
