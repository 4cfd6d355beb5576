//! One call to map, one to unmap.

use dmakit::addr::{Attributes, Bidirectional, DmaMask, FromDevice, PhysRange, ToDevice};
use dmakit::dma::{
    Batch, BatchConfig, BounceWhen, CoherentSource, Device, DmaSegment, DomainError, MapError,
    Path, RedeemError, SegmentLimits, StrictDomain, Translate,
};
use dmakit::platform::CpuBuffer;
use dmakit_sim::Rng;

use crate::rig::{BOTH, Rig, at, bytes_of};

const NONE: Attributes = Attributes::NONE;

#[test]
fn a_device_with_few_bits_reaches_all_memory_as_one_segment() {
    let rig = Rig::coherent(1);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut buffer = rig.scattered(16, &mut Rng::new(3));
    let sent: Vec<u8> = (0..16 << 12).map(|i| (i * 7 + i / 4096) as u8).collect();
    buffer.write(0, &sent);
    let mapping = device.map::<Bidirectional>(buffer, NONE).unwrap();
    assert!(!mapping.is_bounced() && !mapping.needs_sync());
    assert!(mapping.dma_addr().raw() >> 32 == 0);
    let mut seen = vec![0; 16 << 12];
    rig.sim.read(mapping.dma_addr(), &mut seen).unwrap();
    assert!(seen == sent);
    rig.sim
        .write(at(mapping.dma_addr(), 0x7ff0), &[9; 32])
        .unwrap();
    let buffer = device.unmap_and_sync(mapping).unwrap();
    let seen = bytes_of(&buffer);
    assert_eq!(seen[0x7ff0..0x8010], [9; 32]);
    assert!(seen[..0x7ff0] == sent[..0x7ff0] && seen[0x8010..] == sent[0x8010..]);
    assert_eq!(device.remove().unwrap().bounced, 0);
    rig.close(domain);
}

#[test]
fn memory_is_owed_until_a_sync_of_its_own_domain() {
    let rig = Rig::coherent(2);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let early = device.sync().unwrap();
    let mapping = device
        .map::<ToDevice>(rig.buffer(4096, 0, 1).take(), NONE)
        .unwrap();
    let debt = device.unmap(mapping).unwrap();
    let failure = device.redeem(debt, &early).unwrap_err();
    assert!(matches!(failure.error, RedeemError::Unpaid(_)), "{failure}");
    assert_eq!(
        domain.space().statistics().used,
        4096,
        "addresses are owed too"
    );
    // Of a device with the same number as the domain, and no translation.
    let alone = Device::<_>::new(
        rig.machine.clone(),
        dmakit::dma::DeviceInfo::new(dmakit::dma::DeviceId::new(1), "alone", DmaMask::ALL),
        Path::Direct,
        CoherentSource::None,
    );
    let foreign = alone.sync().unwrap();
    let failure = device.redeem(failure.debt, &foreign).unwrap_err();
    assert!(matches!(failure.error, RedeemError::Unpaid(_)), "{failure}");
    let proof = device.sync().unwrap();
    device.redeem(failure.debt, &proof).unwrap();
    rig.close(domain);
}

#[test]
fn a_lazy_domain_gives_memory_back_at_once_and_counts_what_is_exposed() {
    let rig = Rig::coherent(3);
    let lazy = rig.lazy();
    let device = rig.device(rig.info(), &lazy);
    let mapping = device
        .map::<FromDevice>(rig.buffer(4096, 0, 1).take(), NONE)
        .unwrap();
    let syncs = rig.driver.command_counts().syncs;
    let debt = device.unmap(mapping).unwrap();
    let proof = device.sync().unwrap();
    device.redeem(debt, &proof).unwrap();
    assert_eq!(
        rig.driver.command_counts().syncs,
        syncs,
        "nothing was waited for"
    );
    assert_eq!(lazy.exposure().bytes, 4096);
    // The proof of a device on a lazy domain pays for nothing that is strict.
    let ticket = {
        use dmakit::platform::Platform;
        let cpu = rig.machine.enter_cpu();
        let run = rig.segment(4096).range();
        let permissions = dmakit::io_pgtable::Permissions::READ;
        let runs = core::iter::once(run);
        let strict = lazy.domain();
        let mapped = strict
            .map(&cpu, runs, permissions, 1, DmaMask::ALL)
            .unwrap();
        let ticket = strict.unmap(mapped).unwrap();
        strict
            .redeem(&cpu, ticket, &device.sync().unwrap())
            .unwrap_err()
            .ticket
    };
    let proof = lazy.domain().sync().unwrap();
    {
        use dmakit::platform::Platform;
        let cpu = rig.machine.enter_cpu();
        lazy.domain().redeem(&cpu, ticket, &proof).unwrap();
    }
    rig.close_lazy(lazy);
}

#[test]
fn untrusted_devices_wait_for_a_sync_also_where_the_domain_is_lazy() {
    let rig = Rig::coherent(4);
    let lazy = rig.lazy();
    let device = rig.device(rig.untrusted(), &lazy);
    let mapping = device
        .map::<FromDevice>(rig.buffer(4096, 0, 1).take(), NONE)
        .unwrap();
    let early = device.sync().unwrap();
    let debt = device.unmap(mapping).unwrap();
    let debt = device.redeem(debt, &early).unwrap_err().debt;
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(lazy.exposure().bytes, 0);
    rig.close_lazy(lazy);
}

#[test]
fn only_the_edges_of_an_untrusted_devices_buffer_are_copied() {
    for (len, offset, copied) in [
        (4096, 0, 0),
        (3 * 4096, 0, 0),
        (100, 7, 100),
        (8192, 0x100, 8192 - 4096),
        (4096 + 1, 0, 1),
        (600, 0xf00, 600),
        (5 * 4096, 0xfff, 4097 - 1),
    ] {
        let rig = Rig::coherent(5);
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let mut around = rig.buffer(len, offset, 0x11);
        let mapping = device.map::<Bidirectional>(around.take(), NONE).unwrap();
        let start = mapping.dma_addr();
        assert_eq!(start.raw() & 0xfff, offset);
        let stats = device.stats();
        assert_eq!(stats.bytes_copied_in, copied, "{len} bytes at {offset:#x}");
        assert_eq!(mapping.is_bounced(), copied > 0);
        let mut seen = vec![0; len as usize];
        rig.sim.read(start, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == 0x11));
        // What is around it in its granules is nobody's.
        let head = offset as usize;
        let tail = (0x1000 - (offset + len) % 0x1000) as usize % 0x1000;
        for (place, room) in [
            (at(start, -(head as i64)), head),
            (at(start, len as i64), tail),
        ] {
            let mut seen = vec![1; room];
            rig.sim.read(place, &mut seen).unwrap();
            assert!(seen.iter().all(|&byte| byte == 0), "bytes of others");
            rig.sim.write(place, &vec![0xbb; room]).unwrap();
        }
        rig.sim.write(start, &vec![0x22; len as usize]).unwrap();
        let buffer = device.unmap_and_sync(mapping).unwrap();
        assert!(around.is_untouched(), "{len} bytes at {offset:#x}");
        assert!(bytes_of(&buffer).iter().all(|&byte| byte == 0x22));
        assert_eq!(device.stats().bytes_copied_out, copied);
        let mut seen = [0; 1];
        assert!(rig.sim.read(start, &mut seen).is_err());
        rig.close(domain);
    }
}

#[test]
fn what_was_not_validated_does_not_come_back_from_edges() {
    let rig = Rig::coherent(6);
    let domain = rig.strict();
    let device = rig.device(rig.untrusted(), &domain);
    let mut around = rig.buffer(0x300, 0xf00, 0x11);
    let mapping = device.map::<FromDevice>(around.take(), NONE).unwrap();
    rig.sim.write(mapping.dma_addr(), &[0x22; 0x300]).unwrap();
    let buffer = device.unmap_validated_and_sync(mapping, 0x180).unwrap();
    let seen = bytes_of(&buffer);
    assert!(seen[..0x180].iter().all(|&byte| byte == 0x22));
    assert!(seen[0x180..].iter().all(|&byte| byte == 0x11));
    rig.close(domain);
}

#[test]
fn parts_of_a_mapping_with_edges_are_synced_where_they_lie() {
    let rig = Rig::non_coherent(7);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut around = rig.buffer(0x2100, 0xf13, 0x11);
    let mut mapping = device.map::<Bidirectional>(around.take(), NONE).unwrap();
    assert!(mapping.is_bounced(), "lines are shared at both ends");
    let start = mapping.dma_addr();
    rig.sim.write(start, &[0x33; 0x2100]).unwrap();
    let mut seen = [0; 0x40];
    for offset in [0, 0x80, 0xed, 0x1000, 0x20c0] {
        let part = device
            .sync_part_for_cpu(&mut mapping, offset, 0x40)
            .unwrap();
        part.read(0, &mut seen);
        assert_eq!(seen, [0x33; 0x40], "at {offset:#x}");
    }
    let mut part = device
        .sync_part_for_cpu(&mut mapping, 0x80, 0x2040)
        .unwrap();
    part.write(0, &[0x44; 0x2040]);
    device.sync_part_for_device(part).unwrap();
    let mut seen = vec![0; 0x2100];
    rig.sim.read(start, &mut seen).unwrap();
    assert!(seen[..0x80].iter().all(|&byte| byte == 0x33));
    assert!(seen[0x80..0x20c0].iter().all(|&byte| byte == 0x44));
    let buffer = device.unmap_and_sync(mapping).unwrap();
    assert!(bytes_of(&buffer) == seen);
    assert!(around.is_untouched());
    rig.close(domain);
}

#[test]
fn a_list_is_joined_where_granules_meet_and_cut_where_the_device_asks() {
    let rig = Rig::coherent(8);
    let domain = rig.strict();
    let mut info = rig.info();
    info.limits = SegmentLimits {
        max_bytes: 0x5000,
        ..SegmentLimits::NONE
    };
    let device = rig.device(info, &domain);
    let mut segments = [DmaSegment::default(); 8];
    let buffer = rig.scattered(8, &mut Rng::new(5));
    let mapping = device
        .map_scatter::<ToDevice, _>(buffer, NONE, &mut segments)
        .unwrap();
    let lens: Vec<_> = segments[..mapping.segment_count()]
        .iter()
        .map(|s| s.len)
        .collect();
    assert_eq!(lens, [0x5000, 0x3000]);
    device.unmap_and_sync(mapping).unwrap();

    // Too little room is known only when the addresses are, and leaves nothing mapped.
    let buffer = rig.scattered(8, &mut Rng::new(6));
    let failure = device
        .map_scatter::<ToDevice, _>(buffer, NONE, &mut segments[..1])
        .unwrap_err();
    assert!(matches!(
        failure.error,
        MapError::TooManySegments { needed: 2, room: 1 }
    ));
    rig.close(domain);
}

#[test]
fn coherent_memory_and_blocks_of_it_come_through_the_domain() {
    let rig = Rig::coherent(9);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let block = device.alloc_coherent::<u64>(1000, NONE).unwrap();
    assert_eq!(block.dma_addr().raw() % 8192, 0, "aligned to its size");
    let view = device.view(&block).unwrap();
    view.at(999).unwrap().write(&0x1122_3344_5566_7788);
    let addr = block.dma_addr_of(999).unwrap();
    let mut seen = [0; 8];
    rig.sim.read(addr, &mut seen).unwrap();
    assert_eq!(u64::from_le_bytes(seen), 0x1122_3344_5566_7788);
    rig.sim.write(addr, &7_u64.to_le_bytes()).unwrap();
    assert_eq!(view.at(999).unwrap().read(), 7);
    let addr = block.dma_addr();
    device.free_coherent(block).unwrap();
    assert!(rig.sim.read(addr, &mut seen).is_err());
    device.remove().unwrap();
    rig.close(domain);
}

#[test]
fn borrowed_bytes_are_copied_behind_the_domain() {
    let rig = Rig::coherent(10);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let sent = [0x5a; 5000];
    device
        .bounce_to_device(&sent[3..], NONE, |segment| {
            assert!(segment.addr.raw() >> 32 == 0);
            let mut seen = vec![0; segment.len as usize];
            rig.sim.read(segment.addr, &mut seen).unwrap();
            assert!(seen == sent[3..]);
        })
        .unwrap();
    let mut got = [0x11; 100];
    device
        .bounce_from_device::<FromDevice, _>(&mut got, NONE, |segment| {
            rig.sim.write(segment.addr, &[0x77; 100]).unwrap();
            ((), 60)
        })
        .unwrap();
    assert!(got[..60].iter().all(|&byte| byte == 0x77));
    assert!(got[60..].iter().all(|&byte| byte == 0x11));
    device.remove().unwrap();
    rig.close(domain);
}

#[test]
fn raw_handles_are_held_against_the_page_table() {
    for (offset, len) in [(0, 4096), (0x10, 0x2345)] {
        let rig = Rig::coherent(11);
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let around = rig.buffer(len, offset, 0);
        let mut bytes = vec![0x5a; len as usize];
        let handle = device.map_raw(around.run, &bytes[..], BOTH, NONE).unwrap();
        rig.sim.write(handle.addr, &[0x66; 16]).unwrap();
        let other = rig.segment(len).range();
        let wrong = PhysRange::new(other.start(), len).unwrap();
        let refused = device.unmap_raw(handle, BOTH, wrong, &mut bytes[..], NONE);
        assert!(refused.is_err(), "other memory");
        device
            .unmap_raw(handle, BOTH, around.run, &mut bytes[..], NONE)
            .unwrap();
        if offset != 0 {
            assert_eq!(bytes[..16], [0x66; 16], "the head was in slots");
            assert!(around.is_untouched());
        }
        assert!(
            device
                .unmap_raw(handle, BOTH, around.run, &mut bytes[..], NONE)
                .is_err()
        );
        rig.close(domain);
    }
}

#[test]
fn doorbells_and_windows_are_mapped_as_they_are() {
    let rig = Rig::coherent(12);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let doorbell = crate::rig::phys(0x0808_0040, 4);
    let way = dmakit::addr::Direction::FromDevice;
    let handle = device.map_resource(doorbell, way, NONE).unwrap();
    assert_eq!(handle.addr.raw() & 0xfff, 0x40);
    let iova = dmakit::addr::Iova::new(handle.addr.raw());
    assert_eq!(domain.lookup(iova), Some(doorbell.start()));
    device.unmap_resource(handle, way).unwrap();
    assert_eq!(domain.lookup(iova), None);
    assert!(
        device.unmap_resource(handle, way).is_err(),
        "there is nothing any more"
    );
    rig.close(domain);
}

/// A driver of any device, whatever its path.
fn round_trip<T: Translate>(
    device: &Device<'_, dmakit_sim::Machine, dmakit::swiotlb::NoGrowth, dmakit::dma::Unchecked, T>,
    buffers: [CpuBuffer; 2],
    act: impl Fn(DmaSegment, DmaSegment),
) -> CpuBuffer {
    let [request, answer] = buffers;
    let request = device.map::<ToDevice>(request, NONE).unwrap();
    let answer = device.map::<FromDevice>(answer, NONE).unwrap();
    let segment = |addr, len| DmaSegment { addr, len };
    act(
        segment(request.dma_addr(), request.len()),
        segment(answer.dma_addr(), answer.len()),
    );
    let request = device.unmap(request).unwrap();
    let answer = device.unmap(answer).unwrap();
    let proof = device.sync().unwrap();
    device.redeem(request, &proof).unwrap();
    device.redeem(answer, &proof).unwrap()
}

#[test]
fn a_drivers_code_is_the_same_on_every_path() {
    let rig = Rig::coherent(13);
    let buffers = || {
        [
            rig.buffer(512, 64, 0x42).take(),
            rig.buffer(512, 0, 0).take(),
        ]
    };
    let act = |sim: &dmakit_sim::SimDevice, from: DmaSegment, to: DmaSegment| {
        let mut bytes = vec![0; from.len as usize];
        sim.read(from.addr, &mut bytes).unwrap();
        sim.write(to.addr, &bytes).unwrap();
    };
    let good = |buffer: CpuBuffer| assert_eq!(bytes_of(&buffer), [0x42; 512]);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    good(round_trip(&device, buffers(), |from, to| {
        act(&rig.sim, from, to);
    }));
    device.remove().unwrap();
    rig.close(domain);
    let lazy = rig.lazy();
    let device = rig.device(rig.info(), &lazy);
    good(round_trip(&device, buffers(), |from, to| {
        act(&rig.sim, from, to);
    }));
    device.remove().unwrap();
    rig.close_lazy(lazy);
    let plain = rig
        .machine
        .add_device(dmakit_sim::DeviceConfig::new().identity());
    let mut info = rig.info();
    info.streaming_mask = DmaMask::ALL;
    let bounced = Path::Bounced {
        pool: &rig.pool,
        id: rig.pool.attach(None).unwrap(),
        when: BounceWhen::Always,
    };
    for path in [Path::Direct, bounced] {
        let device = Device::<_>::new(rig.machine.clone(), info, path, CoherentSource::None);
        good(round_trip(&device, buffers(), |from, to| {
            act(&plain, from, to);
        }));
        device.remove().unwrap();
    }
}

#[test]
fn a_domain_without_room_refuses_with_its_numbers_and_keeps_nothing() {
    let rig = Rig::coherent(14);
    let domain = rig.domain_of(1 << 20);
    let device = rig.device(rig.info(), &domain);
    let failure = device
        .map::<ToDevice>(rig.scattered(300, &mut Rng::new(1)), NONE)
        .unwrap_err();
    let MapError::Domain(DomainError::Space(error)) = failure.error else {
        panic!("{failure}");
    };
    assert_eq!(error.asked, 300 << 12);
    let stats = device.stats();
    assert_eq!((stats.failed.domain, stats.live()), (1, 0));
    rig.close(domain);
}

#[test]
fn a_batch_shares_one_sync_and_holds_everything_until_then() {
    let rig = Rig::coherent(15);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut batch = Batch::new(device.domain(), BatchConfig::default()).unwrap();
    let mut given = Vec::new();
    let syncs = rig.driver.command_counts().syncs;
    for i in 0..32 {
        let buffer = rig.buffer(4096, 0, i).take();
        let mapping = device.map::<FromDevice>(buffer, NONE).unwrap();
        assert!(given.is_empty());
        device
            .unmap_batched(&mut batch, mapping, |buffer| given.push(buffer))
            .unwrap();
    }
    assert_eq!(given.len(), 32, "closed when full");
    assert_eq!(rig.driver.command_counts().syncs - syncs, 1);

    // Another device's batch is refused; what cannot wait does not.
    let mapping = device
        .map::<FromDevice>(given.pop().unwrap(), NONE)
        .unwrap();
    let mut foreign = Batch::new(dmakit::dma::DomainId(2), BatchConfig::default()).unwrap();
    let refused = device
        .unmap_batched(&mut foreign, mapping, drop)
        .unwrap_err();
    let dmakit::dma::BatchFailure::Refused(refused) = refused else {
        panic!("{refused}");
    };
    device.unmap_and_sync(refused.token).unwrap();
    let wary = rig.device(rig.untrusted(), &domain);
    let mapping = wary
        .map::<FromDevice>(rig.buffer(10, 10, 1).take(), NONE)
        .unwrap();
    wary.unmap_batched(&mut batch, mapping, |buffer| given.push(buffer))
        .unwrap();
    assert_eq!(given.len(), 32);
    rig.close(domain);
}

#[test]
fn segments_of_a_request_follow_from_its_memory() {
    let rig = Rig::coherent(16);
    let domain = rig.strict();
    let mut info = rig.info();
    info.limits.max_bytes = 0x3000;
    let device = rig.device(info, &domain);
    let lens = [(0x2000, 0), (0x1800, 0x800), (0x1000, 0), (0x900, 0x10)];
    let list = || {
        let buffers = lens.map(|(len, offset)| rig.buffer(len, offset, 1).take());
        dmakit::dma::ScatterList::new(buffers).unwrap()
    };
    let mut written = [DmaSegment::default(); 8];
    let mapping = device
        .map_scatter::<ToDevice, _>(list(), NONE, &mut written)
        .unwrap();
    let count = mapping.segment_count();
    assert!(
        device
            .segments(&mapping)
            .eq(written[..count].iter().copied())
    );
    device.unmap_and_sync(mapping).unwrap();
    let mapping = device.map_request::<ToDevice, _>(list(), NONE).unwrap();
    let lens: Vec<_> = device
        .segments(&mapping)
        .map(|segment| segment.len)
        .collect();
    assert_eq!(lens.iter().sum::<u64>(), mapping.len());
    assert!(lens.iter().all(|&len| len <= 0x3000));
    for segment in device.segments(&mapping) {
        let mut seen = vec![0; segment.len as usize];
        rig.sim.read(segment.addr, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == 1));
    }
    device.unmap_and_sync(mapping).unwrap();
    rig.close(domain);
}

/// Lists of the same four pieces, joined and apart, by whatever way the device reaches them.
#[test]
fn whoever_lends_a_list_chooses_whether_its_pieces_are_joined() {
    let rig = Rig::coherent(18);
    let domain = rig.strict();
    let mut info = rig.info();
    info.limits.max_bytes = 0x4000;
    let pool = (&rig.pool, rig.pool.attach(None).unwrap());
    let translated = rig.device(info, &domain);
    let bounced = Path::Bounced {
        pool: pool.0,
        id: pool.1,
        when: BounceWhen::Always,
    };
    info.streaming_mask = DmaMask::ALL;
    let bounced = Device::<_>::new(rig.machine.clone(), info, bounced, CoherentSource::None);
    let pieces = [0x1000, 0x1000, 0x5000, 0x800];
    let list = || {
        let buffers = pieces.map(|len| rig.buffer(len, 0, 1).take());
        dmakit::dma::ScatterList::new(buffers).unwrap()
    };
    let mapping = translated.map_request::<ToDevice, _>(list(), NONE).unwrap();
    let lens = |segment: DmaSegment| segment.len;
    let joined: Vec<_> = translated.segments(&mapping).map(lens).collect();
    assert_eq!(joined, [0x4000, 0x3800]);
    let apart: Vec<_> = translated.segments_apart(&mapping).collect();
    let apart_lens: Vec<_> = apart.iter().map(|segment| segment.len).collect();
    assert_eq!(apart_lens, [0x1000, 0x1000, 0x4000, 0x1000, 0x800]);
    // One stretch of addresses all the same.
    let meet = |pair: &[DmaSegment]| at(pair[0].addr, pair[0].len as i64) == pair[1].addr;
    assert!(apart.windows(2).all(meet));
    translated.unmap_and_sync(mapping).unwrap();

    let mapping = bounced.map_request::<ToDevice, _>(list(), NONE).unwrap();
    let apart = bounced.segments_apart(&mapping);
    assert_eq!(apart.map(lens).collect::<Vec<_>>(), apart_lens);
    bounced.unmap_and_sync(mapping).unwrap();
    assert_eq!(bounced.remove().unwrap().live(), 0);
    rig.close(domain);
}

#[test]
fn memory_in_pieces_is_one_segment_and_goes_home() {
    let rig = Rig::coherent(17);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let before = rig.memory.outstanding_bytes();
    let mapping = device
        .alloc_noncontiguous::<Bidirectional>(&rig.memory, 9 << 20, NONE)
        .unwrap();
    rig.sim
        .write(at(mapping.dma_addr(), (9 << 20) - 64), &[7; 64])
        .unwrap();
    let mapping = device.sync_for_cpu(mapping).unwrap();
    let mut seen = [0; 64];
    mapping.read((9 << 20) - 64, &mut seen);
    assert_eq!(seen, [7; 64]);
    let mapping = device.sync_for_device(mapping).unwrap();
    device.free_noncontiguous(&rig.memory, mapping).unwrap();
    let error = device
        .alloc_noncontiguous::<Bidirectional>(&rig.memory, 1 << 30, NONE)
        .unwrap_err();
    assert!(
        matches!(error, dmakit::dma::NoncontiguousError::NoMemory(_)),
        "{error}"
    );
    assert!(
        rig.memory.outstanding_bytes() - before <= 64 << 10,
        "tables only"
    );
    device.remove().unwrap();
    rig.close(domain);
}

/// What bouncing edges is for: the same device, taken for a trusted one, reaches its neighbours.
#[test]
fn a_granule_shared_with_an_untrusted_device_is_found_out() {
    for (is_described, reaches) in [(true, false), (false, true)] {
        let rig = Rig::coherent(7);
        let domain = rig.strict();
        let info = if is_described {
            rig.untrusted()
        } else {
            rig.info()
        };
        let device = rig.device(info, &domain);
        let mut around = rig.buffer(100, 64, 1);
        rig.sim.confine();
        rig.sim.grant(around.run, BOTH);
        rig.sim.grant(rig.pool_memory, BOTH);
        let mapping = device.map::<Bidirectional>(around.take(), NONE).unwrap();
        let before = at(mapping.dma_addr(), -64);
        rig.sim.write(before, &[9; 64]).unwrap();
        assert_eq!(!around.is_untouched(), reaches);
        assert_eq!(rig.machine.take_violations().total > 0, reaches);
        device.unmap_and_sync(mapping).unwrap();
        rig.close(domain);
    }
}
