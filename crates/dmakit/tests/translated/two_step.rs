//! Reserve, link, seal, unlink, destroy; and pages in any order.

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, FromDevice, PhysAddr, PhysRange, ToDevice};
use dmakit::dma::{
    Batch, BatchConfig, BounceWhen, CoherentSource, Debt, Device, DeviceId, DmaSegment, Kind,
    Ledger, LinkError, Path, Request, ScatterList, Sealed, Translate,
};
use dmakit::platform::{CpuBuffer, Segment};
use dmakit_sim::{FaultPlan, Machine, Rng, Step};

use crate::rig::{Rig, TestDevice, bytes_of};

const NONE: Attributes = Attributes::NONE;

type List = ScatterList<Vec<CpuBuffer>>;

fn buffers(rig: &Rig, lens: &[(u64, u64)], byte: u8) -> Vec<CpuBuffer> {
    let one = |(len, offset): &(u64, u64)| rig.buffer(*len, *offset, byte).take();
    lens.iter().map(one).collect()
}

/// Links buffers one after the other: the request, and where each went.
fn linked<T: Translate, D: dmakit::addr::DirectionType>(
    device: &TestDevice<'_, T>,
    buffers: &[CpuBuffer],
) -> (Request<D>, Vec<DmaSegment>) {
    let len = buffers.iter().map(CpuBuffer::len).sum();
    let first = buffers[0].runs().next().unwrap().start();
    let mut request = device.reserve::<D>(first, len, 1, NONE).unwrap();
    let segments = buffers.iter().map(|buffer| {
        let run = buffer.runs().next().unwrap();
        device.link(&mut request, run, buffer).unwrap()
    });
    let segments = segments.collect();
    (request, segments)
}

#[test]
fn runs_follow_one_another_for_the_device_and_one_sync_ends_them() {
    let rig = Rig::coherent(40);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let lens = [(0x1f00, 0x100), (0x3000, 0), (0x1000, 0), (0x7ff, 0)];
    let memory = buffers(&rig, &lens, 0x31);
    let (request, segments) = linked::<_, Bidirectional>(&device, &memory);
    assert!(request.is_contiguous());
    let sealed = device.seal(request).unwrap();
    let segment = sealed.segment().unwrap();
    assert_eq!(segment.len, 0x1f00 + 0x4000 + 0x7ff);
    assert_eq!(segment.addr.raw() & 0xfff, 0x100);
    let mut at = segment.addr.raw();
    for one in &segments {
        assert_eq!(one.addr.raw(), at);
        at += one.len;
    }
    let mut seen = vec![0; segment.len as usize];
    rig.sim.read(segment.addr, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0x31));
    rig.sim
        .write(segment.addr, &vec![0x32; seen.len()])
        .unwrap();
    let syncs = rig.driver.command_counts().syncs;
    assert!(!device.needs_segments(&sealed));
    let list = ScatterList::new(memory).unwrap();
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    assert_eq!(rig.driver.command_counts().syncs, syncs);
    let list = device.redeem(debt, &device.sync().unwrap()).unwrap();
    for buffer in list.into_buffers() {
        assert!(bytes_of(&buffer).iter().all(|&byte| byte == 0x32));
    }
    assert_eq!(device.remove().unwrap().live(), 0);
    rig.close(domain);
}

#[test]
fn a_granule_may_be_shared_at_the_ends_only() {
    let rig = Rig::coherent(41);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let memory = buffers(
        &rig,
        &[(0x1000, 0), (0x800, 0x400), (0x800, 0), (0x1000, 0)],
        1,
    );
    let run = |i: usize| memory[i].runs().next().unwrap();
    let first = run(0).start();
    let mut request = device.reserve::<ToDevice>(first, 0x3000, 1, NONE).unwrap();
    device.link(&mut request, run(0), &memory[0]).unwrap();
    let middle = device.link(&mut request, run(1), &memory[1]).unwrap_err();
    assert!(
        matches!(middle, LinkError::Ragged { granule: 4096, .. }),
        "{middle}"
    );
    device.link(&mut request, run(2), &memory[2]).unwrap();
    let behind = device.link(&mut request, run(3), &memory[3]).unwrap_err();
    assert!(matches!(behind, LinkError::Ragged { .. }), "{behind}");
    assert_eq!(request.len(), 0x1800);
    let list = ScatterList::new(memory).unwrap();
    let debt = device.cancel(request, list, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    // No more than was reserved.
    let memory = buffers(&rig, &[(0x3000, 0)], 1);
    let run = memory[0].runs().next().unwrap();
    let mut request = device.reserve::<ToDevice>(first, 0x1000, 1, NONE).unwrap();
    let long = device.link(&mut request, run, &memory[0]).unwrap_err();
    assert_eq!(
        long,
        LinkError::Full {
            reserved: 0x1000,
            end: 0x3000
        }
    );
    let unsealed = device.seal(request).unwrap_err();
    assert!(
        matches!(unsealed.error, LinkError::NotLinked { .. }),
        "{unsealed}"
    );
    let list = ScatterList::new(memory).unwrap();
    let debt = device
        .cancel(unsealed.state, list, core::iter::empty())
        .unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    rig.close(domain);
}

#[test]
fn a_state_of_another_domain_comes_back_with_the_error() {
    let rig = Rig::coherent(42);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let info = dmakit::dma::DeviceInfo::new(DeviceId::new(1), "plain", dmakit::addr::DmaMask::ALL);
    let plain = Device::<_>::new(
        rig.machine.clone(),
        info,
        Path::Direct,
        CoherentSource::None,
    );
    let memory = buffers(&rig, &[(0x1000, 0)], 1);
    let (mut request, _) = linked::<_, ToDevice>(&device, &memory);
    let run = memory[0].runs().next().unwrap();
    let wrong = plain.link(&mut request, run, &memory[0]).unwrap_err();
    assert!(matches!(wrong, LinkError::WrongDomain { .. }), "{wrong}");
    let unmoved = plain.seal(request).unwrap_err();
    assert!(matches!(unmoved.error, LinkError::WrongDomain { .. }));
    let sealed = device.seal(unmoved.state).unwrap();
    let list = ScatterList::new(memory).unwrap();
    let unmoved = plain
        .destroy(sealed, list, core::iter::empty())
        .unwrap_err();
    assert!(matches!(unmoved.error, LinkError::WrongDomain { .. }));
    let (sealed, list) = unmoved.state;
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    rig.close(domain);
}

#[test]
fn only_head_and_tail_of_an_untrusted_devices_request_are_copied() {
    let rig = Rig::coherent(43);
    let domain = rig.strict();
    let device = rig.device(rig.untrusted(), &domain);
    let memory = buffers(&rig, &[(0x1f00, 0x100), (0x2000, 0), (0x1080, 0)], 0x41);
    let (request, _) = linked::<_, Bidirectional>(&device, &memory);
    let sealed = device.seal(request).unwrap();
    assert!(sealed.is_bounced());
    assert_eq!(device.stats().bytes_copied_in, 0xf00 + 0x80);
    let segment = sealed.segment().unwrap();
    let mut seen = vec![0; segment.len as usize];
    rig.sim.read(segment.addr, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0x41));
    let before = DmaAddr::new(segment.addr.raw() - 0x100);
    let mut others = [1; 0x100];
    rig.sim.read(before, &mut others).unwrap();
    assert_eq!(others, [0; 0x100], "nobody's bytes");
    let sent: Vec<u8> = (0..seen.len()).map(|i| (i * 13) as u8).collect();
    rig.sim.write(segment.addr, &sent).unwrap();
    let list = ScatterList::new(memory).unwrap();
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    assert_eq!(
        rig.pool.used(),
        0,
        "hardware has forgotten the slots already"
    );
    let list: List = device.redeem(debt, &device.sync().unwrap()).unwrap();
    let seen: Vec<u8> = list.into_buffers().iter().flat_map(bytes_of).collect();
    assert!(seen == sent);
    rig.close(domain);
}

#[test]
fn a_failed_link_undoes_what_was_linked_and_nothing_else() {
    for nth in 0..4 {
        let rig = Rig::coherent(44);
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let memory = buffers(&rig, &[(0x1000, 0), (0x40_0800, 0)], 1);
        let run = |i: usize| memory[i].runs().next().unwrap();
        let mut request = device
            .reserve::<FromDevice>(run(0).start(), 0x40_1800, 1, NONE)
            .unwrap();
        device.link(&mut request, run(0), &memory[0]).unwrap();
        rig.machine
            .inject(&FaultPlan::none().after(Step::ALLOCATE_TABLE, nth));
        let result = device.link(&mut request, run(1), &memory[1]);
        rig.machine.inject(&FaultPlan::none());
        if let Err(error) = result {
            assert!(matches!(error, LinkError::Map(_)), "{error}");
            assert_eq!(request.len(), 0x1000);
            assert_eq!(rig.pool.used(), 0, "slots");
            let whole = dmakit::addr::IovaRange::new(dmakit::addr::Iova::new(0), 1 << 40).unwrap();
            assert_eq!(domain.table().leaves(whole).count(), 1, "the first run");
            device.link(&mut request, run(1), &memory[1]).unwrap();
        } else {
            assert!(nth > 1, "a link of 4 MiB needs tables");
        }
        let list = ScatterList::new(memory).unwrap();
        let sealed = device.seal(request).unwrap();
        let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
        device.redeem(debt, &device.sync().unwrap()).unwrap();
        rig.close(domain);
    }
}

#[test]
fn addresses_are_linked_again_once_hardware_has_forgotten() {
    let rig = Rig::coherent(45);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut memory = buffers(&rig, &[(0x2000, 0)], 0x51);
    let (request, _) = linked::<_, ToDevice>(&device, &memory);
    let mut sealed = device.seal(request).unwrap();
    let segment = sealed.segment().unwrap();
    for round in 0..40 {
        let mut seen = [0; 0x2000];
        rig.sim.read(segment.addr, &mut seen).unwrap();
        assert!(
            seen.iter().all(|&byte| byte == 0x51 + round),
            "round {round}"
        );
        let list = ScatterList::new(memory).unwrap();
        let (mut request, debt) = device.unlink(sealed, list, core::iter::empty()).unwrap();
        assert!(request.is_empty());
        memory = buffers(&rig, &[(0x2000, 0)], 0x52 + round);
        let run = memory[0].runs().next().unwrap();
        device.link(&mut request, run, &memory[0]).unwrap();
        sealed = device.seal(request).unwrap();
        assert_eq!(sealed.segment(), Some(segment), "the same addresses");
        device.redeem(debt, &device.sync().unwrap()).unwrap();
    }
    let list = ScatterList::new(memory).unwrap();
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    rig.close(domain);
}

#[test]
fn many_requests_share_a_sync_and_a_lazy_one_needs_none() {
    let rig = Rig::coherent(46);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut batch = Batch::new(device.domain(), BatchConfig::default()).unwrap();
    let syncs = rig.driver.command_counts().syncs;
    let mut given = 0;
    for _ in 0..32 {
        let memory = buffers(&rig, &[(0x1000, 0), (0x1000, 0)], 1);
        let (request, _) = linked::<_, FromDevice>(&device, &memory);
        let sealed = device.seal(request).unwrap();
        let list = ScatterList::new(memory).unwrap();
        device
            .destroy_batched(&mut batch, sealed, list, core::iter::empty(), |_| {
                given += 1;
            })
            .unwrap()
            .unwrap();
    }
    assert_eq!((given, rig.driver.command_counts().syncs - syncs), (32, 1));
    rig.close(domain);

    let lazy = rig.lazy();
    let device = rig.device(rig.info(), &lazy);
    let syncs = rig.driver.command_counts().syncs;
    // More is reserved than linked: all of it is free again after the flush.
    let memory = buffers(&rig, &[(0x3000, 0)], 1);
    let run = memory[0].runs().next().unwrap();
    let mut request = device
        .reserve::<FromDevice>(run.start(), 0x9000, 1, NONE)
        .unwrap();
    device.link(&mut request, run, &memory[0]).unwrap();
    let sealed = device.seal(request).unwrap();
    let list = ScatterList::new(memory).unwrap();
    let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(rig.driver.command_counts().syncs, syncs);
    assert_eq!(lazy.exposure().bytes, 0x3000);
    rig.close_lazy(lazy);
}

/// A driver that maps a request, whatever its device's path.
fn send<T: Translate>(
    device: &TestDevice<'_, T>,
    memory: Vec<CpuBuffer>,
    act: impl Fn(&[DmaSegment]),
) -> List {
    let (request, mut segments) = linked::<T, Bidirectional>(device, &memory);
    let sealed: Sealed<Bidirectional> = device.seal(request).unwrap();
    if let Some(one) = sealed.segment() {
        segments = vec![one];
    }
    act(&segments);
    let list = ScatterList::new(memory).unwrap();
    let debt: Debt<List> = device.destroy(sealed, list, segments.into_iter()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap()
}

#[test]
fn the_same_calls_work_without_an_iommu_and_with_slots() {
    let rig = Rig::coherent(47);
    let lens = [(0x1800, 0x800), (0x1000, 0), (0x234, 0)];
    let plain = rig
        .machine
        .add_device(dmakit_sim::DeviceConfig::new().identity());
    let check = |sim: &dmakit_sim::SimDevice, segments: &[DmaSegment], count: usize| {
        assert_eq!(segments.len(), count);
        for segment in segments {
            let mut seen = vec![0; segment.len as usize];
            sim.read(segment.addr, &mut seen).unwrap();
            assert!(seen.iter().all(|&byte| byte == 0x61));
            sim.write(segment.addr, &vec![0x62; seen.len()]).unwrap();
        }
    };
    let good = |list: List| {
        let mut buffers = list.into_buffers();
        assert!(
            buffers
                .iter_mut()
                .all(|b| bytes_of(b).iter().all(|&byte| byte == 0x62))
        );
    };
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    good(send(&device, buffers(&rig, &lens, 0x61), |segments| {
        check(&rig.sim, segments, 1);
    }));
    device.remove().unwrap();
    rig.close(domain);
    let mut info = rig.info();
    info.streaming_mask = dmakit::addr::DmaMask::ALL;
    let id = rig.pool.attach(None).unwrap();
    for when in [None, Some(BounceWhen::Always)] {
        let path = when.map_or(Path::Direct, |when| Path::Bounced {
            pool: &rig.pool,
            id,
            when,
        });
        let device = Device::<_>::new(rig.machine.clone(), info, path, CoherentSource::None);
        good(send(&device, buffers(&rig, &lens, 0x61), |segments| {
            check(&plain, segments, 3);
        }));
        assert_eq!(rig.pool.used(), 0);
        device.remove().unwrap();
    }
}

#[test]
fn what_is_forgotten_is_counted_and_named() {
    let rig = Rig::coherent(48);
    let domain = rig.strict();
    let ledger = Ledger::<Machine, 32, 8>::new(&rig.machine);
    let device = rig.device(rig.info(), &domain).watched(&ledger);
    let memory = buffers(&rig, &[(0x1000, 0), (0x1000, 0)], 1);
    let run = |i: usize| memory[i].runs().next().unwrap();
    let mut request = device
        .reserve::<FromDevice>(run(0).start(), 0x2000, 1, NONE)
        .unwrap();
    device.link(&mut request, run(0), &memory[0]).unwrap();
    device.link(&mut request, run(1), &memory[1]).unwrap();
    assert_eq!(ledger.live(), 3);
    // The same memory in a window: somebody writes there twice.
    let mut window = device.open_window::<FromDevice>(0x4000, 1, NONE).unwrap();
    device.link_page(&mut window, 0x1000, run(1)).unwrap();
    assert_eq!(ledger.counts().overlaps, 1);
    let debt = device
        .unlink_pages(&mut window, 0x1000, 0x1000, ())
        .unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    device.close_window(window).unwrap();
    assert_eq!(ledger.live(), 3);
    drop(request);
    assert_eq!(device.stats().live(), 1);
    let left = device.remove().unwrap_err();
    assert_eq!(left.mappings, 1);
    let finding = ledger.finding(1).unwrap();
    assert_eq!(
        (finding.party.kind, ledger.counts().leaks),
        (Kind::Request, 1)
    );
    assert!(finding.to_string().contains("two_step.rs"), "{finding}");
    assert_eq!(ledger.live(), 0);
}

#[test]
fn pages_come_and_go_in_any_order() {
    let rig = Rig::coherent(49);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let pages: Vec<Segment> = (0..16).map(|_| rig.segment(4096)).collect();
    let mut window = device
        .open_window::<Bidirectional>(16 << 12, 16 << 12, NONE)
        .unwrap();
    let mut is_linked = [false; 16];
    let mut rng = Rng::new(3);
    for round in 0..400 {
        let index = rng.below(16) as usize;
        let offset = (index as u64) << 12;
        let at = window.dma_addr(offset).unwrap();
        if is_linked[index] {
            rig.sim.write(at, &[round as u8; 64]).unwrap();
            let mut seen = [0; 64];
            pages[index].window().read(&mut seen);
            assert_eq!(seen, [round as u8; 64]);
            let taken = device
                .link_page(&mut window, offset, pages[0].range())
                .unwrap_err();
            assert!(matches!(taken, LinkError::Map(_)), "{taken}");
            let debt = device.unlink_pages(&mut window, offset, 4096, ()).unwrap();
            rig.machine.disturb();
            device.redeem(debt, &device.sync().unwrap()).unwrap();
            let mut seen = [0; 1];
            assert!(
                rig.sim.read(at, &mut seen).is_err(),
                "round {round}: a stale hit"
            );
        } else {
            let absent = device
                .unlink_pages(&mut window, offset, 4096, 5)
                .unwrap_err();
            assert_eq!(absent.state, 5);
            let run = pages[(index * 7 + round) % 16].range();
            let run = if round % 2 == 0 {
                pages[index].range()
            } else {
                run
            };
            let segment = device.link_page(&mut window, offset, run).unwrap();
            device.announce_pages(&mut window, offset, 4096).unwrap();
            assert_eq!(segment.addr, at);
            if run != pages[index].range() {
                let debt = device.unlink_pages(&mut window, offset, 4096, ()).unwrap();
                device.redeem(debt, &device.sync().unwrap()).unwrap();
                continue;
            }
        }
        is_linked[index] = !is_linked[index];
    }
    let count = is_linked.iter().filter(|linked| **linked).count() as u64;
    assert_eq!(window.linked(), count << 12);
    let unmoved = device.close_window(window).unwrap_err();
    assert_eq!(unmoved.error, LinkError::StillLinked { bytes: count << 12 });
    let mut window = unmoved.state;
    for index in (0..16).filter(|&index| is_linked[index]) {
        let debt = device
            .unlink_pages(&mut window, (index as u64) << 12, 4096, ())
            .unwrap();
        drop(debt);
    }
    device.close_window(window).unwrap();
    device.remove().unwrap();
    pages.into_iter().for_each(|page| rig.memory.free(page));
    // Debts that nobody redeemed leak nothing here: no table fell out.
    rig.close(domain);
}

#[test]
fn a_large_region_takes_the_largest_leaves_that_its_alignment_allows() {
    let rig = Rig::coherent(50);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let segment = rig.aligned_segment(16 << 20, 2 << 20);
    let run = segment.range();
    let memory = CpuBuffer::from_segment(segment, run.len()).unwrap();
    let mut request = device
        .reserve::<FromDevice>(run.start(), run.len(), 16 << 20, NONE)
        .unwrap();
    device.link(&mut request, run, &memory).unwrap();
    let whole = dmakit::addr::IovaRange::new(dmakit::addr::Iova::new(0), 1 << 40).unwrap();
    assert_eq!(domain.table().leaves(whole).count(), 8, "blocks of 2 MiB");
    let sealed = device.seal(request).unwrap();
    assert_eq!(sealed.segment().unwrap().addr.raw() % (16 << 20), 0);
    let debt = device.destroy(sealed, memory, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    rig.close(domain);
}

#[test]
fn impossible_shapes_are_refused() {
    let rig = Rig::coherent(51);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let first = PhysAddr::new(0);
    for (len, align) in [(1 << 40, 1), (4096, 3)] {
        let error = device
            .reserve::<ToDevice>(first, len, align, NONE)
            .unwrap_err();
        assert!(matches!(error, LinkError::Shape { .. }), "{error}");
    }
    let error = device.reserve::<ToDevice>(first, 0, 1, NONE).unwrap_err();
    assert!(matches!(error, LinkError::Map(_)), "{error}");
    let run = PhysRange::new(PhysAddr::new(crate::rig::RAM), 100).unwrap();
    let mut window = device.open_window::<ToDevice>(4096, 1, NONE).unwrap();
    let error = device.link_page(&mut window, 0, run).unwrap_err();
    assert!(matches!(error, LinkError::Ragged { .. }), "{error}");
    device.close_window(window).unwrap();
    assert_eq!(device.stats().live(), 0);
    rig.close(domain);
}
