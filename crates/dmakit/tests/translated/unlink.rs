//! Parts of requests and windows that leave the device's reach while it goes on with the rest.

use dmakit::addr::{Attributes, Bidirectional, DirectionType, FromDevice, Iova, PhysAddr};
use dmakit::dma::{
    CoherentSource, Device, DeviceInfo, DmaSegment, LinkError, Path, Request, ScatterList,
    StrictDomain, Translate,
};
use dmakit::platform::{CpuBuffer, Segment};

use crate::rig::{Rig, TestDevice, at, bytes_of};

const NONE: Attributes = Attributes::NONE;
const PAGE: u64 = 4096;

type List = ScatterList<Vec<CpuBuffer>>;

/// A request of whole pages, each one run, but for the edges that are asked for.
fn linked<T: Translate, D: DirectionType>(
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

fn pages(rig: &Rig, count: u64, byte: u8) -> Vec<CpuBuffer> {
    let page = |_| rig.buffer(PAGE, 0, byte).take();
    (0..count).map(page).collect()
}

fn list(buffers: Vec<CpuBuffer>) -> List {
    ScatterList::new(buffers).unwrap()
}

fn all(list: &List) -> Vec<u8> {
    list.buffers().iter().flat_map(bytes_of).collect()
}

#[test]
fn a_tail_comes_back_and_others_follow_while_the_device_goes_on_with_the_rest() {
    let rig = Rig::coherent(60);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut head = pages(&rig, 6, 0x11);
    let (request, _) = linked::<_, Bidirectional>(&device, &head);
    let mut sealed = device.seal(request).unwrap();
    let start = sealed.segment().unwrap().addr;
    for round in 0..20_u64 {
        let keep = 1 + round % 5;
        let tail = head.split_off(keep as usize);
        let gone = tail.len() as u64 * PAGE;
        rig.sim
            .write(at(start, (keep * PAGE) as i64), &[round as u8; 64])
            .unwrap();
        let mut request = sealed.reopen();
        let none = core::iter::empty();
        let debt = device
            .unlink_tail(&mut request, keep * PAGE, list(tail), none)
            .unwrap();
        assert_eq!(request.len(), keep * PAGE);
        // The rest is the device's all the while.
        rig.sim.write(start, &[round as u8; 64]).unwrap();
        let tail = device.redeem(debt, &device.sync().unwrap()).unwrap();
        assert_eq!(all(&tail)[..64], [round as u8; 64]);
        let mut seen = [0; 8];
        assert!(
            rig.sim
                .read(at(start, (keep * PAGE) as i64), &mut seen)
                .is_err(),
            "a stale hit"
        );
        let more = pages(&rig, gone / PAGE, round as u8);
        for page in &more {
            let run = page.runs().next().unwrap();
            device.link(&mut request, run, page).unwrap();
        }
        sealed = device.seal(request).unwrap();
        assert_eq!(
            sealed.segment(),
            Some(DmaSegment {
                addr: start,
                len: 6 * PAGE
            })
        );
        let last = at(start, (5 * PAGE) as i64);
        rig.sim.read(last, &mut seen).unwrap();
        assert_eq!(seen, [round as u8; 8]);
        head.extend(more);
    }
    let none = core::iter::empty();
    let debt = device.destroy(sealed, list(head), none).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(device.remove().unwrap().live(), 0);
    rig.close(domain);
}

#[test]
fn nothing_is_linked_where_hardware_may_know_what_was_there() {
    let rig = Rig::coherent(61);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mut memory = pages(&rig, 2, 1);
    let (mut request, segments) = linked::<_, FromDevice>(&device, &memory);
    let last = Iova::new(segments[1].addr.raw());
    let mut debts = Vec::new();
    let unlink = |request: &mut Request<FromDevice>, memory: &mut Vec<CpuBuffer>| {
        let tail = list(memory.split_off(1));
        let none = core::iter::empty();
        device.unlink_tail(request, PAGE, tail, none).unwrap()
    };
    debts.push(unlink(&mut request, &mut memory));
    let more = pages(&rig, 2, 2);
    let run = |index: usize| more[index].runs().next().unwrap();
    let syncs = rig.driver.command_counts().syncs;
    device.link(&mut request, run(0), &more[0]).unwrap();
    assert_eq!(rig.driver.command_counts().syncs, syncs + 1);
    let sealed = device.seal(request).unwrap();
    assert_eq!(rig.driver.command_counts().syncs, syncs + 1, "and once");
    let mut request = sealed.reopen();
    memory.push(pages(&rig, 1, 3).remove(0));
    debts.push(unlink(&mut request, &mut memory));
    rig.smmu.stick(true);
    let refused = device.link(&mut request, run(1), &more[1]).unwrap_err();
    assert!(matches!(refused, LinkError::Hardware(_)), "{refused}");
    assert_eq!((request.len(), domain.lookup(last)), (PAGE, None));
    rig.smmu.stick(false);
    device.link(&mut request, run(1), &more[1]).unwrap();
    assert_eq!(domain.lookup(last), Some(run(1).start()));
    let none = core::iter::empty();
    debts.push(device.cancel(request, list(memory), none).unwrap());
    let proof = device.sync().unwrap();
    for debt in debts {
        device.redeem(debt, &proof).unwrap();
    }
    rig.close(domain);
}

#[test]
fn a_tail_that_begins_inside_a_leaf_or_past_the_end_stays() {
    let rig = Rig::coherent(62);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let segment = rig.aligned_segment(4 << 20, 2 << 20);
    let run = segment.range();
    let memory = CpuBuffer::from_segment(segment, run.len()).unwrap();
    let mut request = device
        .reserve::<Bidirectional>(run.start(), run.len(), 2 << 20, NONE)
        .unwrap();
    device.link(&mut request, run, &memory).unwrap();
    for from in [1, PAGE, (2 << 20) - PAGE, (2 << 20) + 1, (4 << 20) - 1] {
        let none = core::iter::empty();
        let kept = device
            .unlink_tail(&mut request, from, list(Vec::new()), none)
            .unwrap_err();
        assert!(
            matches!(kept.error, LinkError::PartOfLeaf { offset, .. } if offset == from),
            "{kept}"
        );
        assert!(kept.state.buffers().is_empty());
    }
    let none = core::iter::empty();
    let past = device.unlink_tail(&mut request, (4 << 20) + 1, list(Vec::new()), none);
    assert!(matches!(
        past.unwrap_err().error,
        LinkError::NotLinked { .. }
    ));
    assert_eq!(request.len(), 4 << 20);
    // Half of it is a leaf of its own; nothing is no tail.
    let none = core::iter::empty();
    let nothing = device.unlink_tail(&mut request, 4 << 20, list(Vec::new()), none.clone());
    let debt = device.unlink_tail(&mut request, 2 << 20, list(Vec::new()), none);
    let proof = device.sync().unwrap();
    device.redeem(nothing.unwrap(), &proof).unwrap();
    device.redeem(debt.unwrap(), &proof).unwrap();
    assert_eq!(request.len(), 2 << 20);
    let none = core::iter::empty();
    let debt = device.cancel(request, memory, none).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!((device.stats().lost, domain.quarantined()), (0, 0));
    rig.close(domain);
}

#[test]
fn pages_of_one_leaf_are_unlinked_together_or_not_at_all() {
    let rig = Rig::coherent(63);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let huge = rig.aligned_segment(2 << 20, 2 << 20);
    let small: Segment = rig.segment(PAGE);
    let mut window = device
        .open_window::<Bidirectional>(4 << 20, 2 << 20, NONE)
        .unwrap();
    device.link_page(&mut window, 0, huge.range()).unwrap();
    device
        .link_page(&mut window, 2 << 20, small.range())
        .unwrap();
    for (offset, len) in [(0, PAGE), (PAGE, 2 << 20), ((2 << 20) - PAGE, 2 * PAGE)] {
        let kept = device
            .unlink_pages(&mut window, offset, len, 5)
            .unwrap_err();
        assert!(
            matches!(kept.error, LinkError::PartOfLeaf { .. }),
            "{offset}: {kept}"
        );
        assert_eq!(kept.state, 5);
    }
    assert_eq!(window.linked(), (2 << 20) + PAGE);
    let debt = device.unlink_pages(&mut window, 0, (2 << 20) + PAGE, ());
    device
        .redeem(debt.unwrap(), &device.sync().unwrap())
        .unwrap();
    device.close_window(window).unwrap();
    assert_eq!((device.stats().lost, domain.quarantined()), (0, 0));
    rig.memory.free(huge);
    rig.memory.free(small);
    rig.close(domain);
}

/// Edges of an untrusted device's request lie in slots: those of the tail come back with it.
#[test]
fn only_the_tails_edges_are_copied_back_with_it() {
    for (coherent, head_offset) in [(true, 0x300), (true, 0), (false, 0x300), (false, 0)] {
        let rig = match coherent {
            true => Rig::coherent(64),
            false => Rig::non_coherent(64),
        };
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let mut memory = vec![
            rig.buffer(2 * PAGE - head_offset, head_offset, 0x21).take(),
            rig.buffer(PAGE, 0, 0x21).take(),
            rig.buffer(PAGE + 0x123, 0, 0x21).take(),
        ];
        let (request, _) = linked::<_, Bidirectional>(&device, &memory);
        let sealed = device.seal(request).unwrap();
        let segment = sealed.segment().unwrap();
        let sent: Vec<u8> = (0..segment.len).map(|i| (i * 7 + i / 256) as u8).collect();
        rig.sim.write(segment.addr, &sent).unwrap();
        let mut request = sealed.reopen();
        let keep = 2 * PAGE - head_offset;
        let tail = list(memory.split_off(1));
        let none = core::iter::empty();
        let debt = device.unlink_tail(&mut request, keep, tail, none).unwrap();
        let tail = device.redeem(debt, &device.sync().unwrap()).unwrap();
        assert!(all(&tail) == sent[keep as usize..], "{coherent}");
        let sealed = device.seal(request).unwrap();
        assert_eq!(sealed.is_bounced(), head_offset > 0);
        assert_eq!(rig.pool.used() > 0, head_offset > 0);
        let none = core::iter::empty();
        let debt = device.destroy(sealed, list(memory), none).unwrap();
        let head = device.redeem(debt, &device.sync().unwrap()).unwrap();
        assert!(all(&head) == sent[..keep as usize], "{coherent}");
        assert_eq!(device.remove().unwrap().live(), 0);
        rig.close(domain);
    }
}

#[test]
fn without_an_iommu_a_tail_is_named_by_its_segments() {
    let rig = Rig::coherent(65);
    let plain = rig
        .machine
        .add_device(dmakit_sim::DeviceConfig::new().identity());
    let mut info = rig.info();
    info.streaming_mask = dmakit::addr::DmaMask::ALL;
    let path = Path::Bounced {
        pool: &rig.pool,
        id: rig.pool.attach(None).unwrap(),
        when: dmakit::dma::BounceWhen::Always,
    };
    let device = Device::<_>::new(rig.machine.clone(), info, path, CoherentSource::None);
    let mut memory = pages(&rig, 3, 0x31);
    let len = 3 * PAGE;
    let first = PhysAddr::new(0);
    let mut request = device
        .reserve::<Bidirectional>(first, len, 1, NONE)
        .unwrap();
    let segments: Vec<_> = memory
        .iter()
        .map(|page| {
            let run = page.runs().next().unwrap();
            device.link(&mut request, run, page).unwrap()
        })
        .collect();
    let used = rig.pool.used();
    for (index, segment) in segments.iter().enumerate() {
        plain.write(segment.addr, &[index as u8; 64]).unwrap();
    }
    let tail = list(memory.split_off(1));
    let one = segments[1..2].iter().copied();
    let short = device
        .unlink_tail(&mut request, PAGE, tail, one)
        .unwrap_err();
    assert_eq!(short.error, LinkError::Segments { missing: PAGE });
    let two = segments[1..].iter().copied();
    let debt = device.unlink_tail(&mut request, PAGE, short.state, two);
    let tail = device
        .redeem(debt.unwrap(), &device.sync().unwrap())
        .unwrap();
    assert_eq!(all(&tail)[..64], [1; 64]);
    assert_eq!(rig.pool.used(), used / 3);
    let sealed = device.seal(request).unwrap();
    assert_eq!(sealed.len(), PAGE);
    let one = segments[..1].iter().copied();
    let debt = device.destroy(sealed, list(memory), one).unwrap();
    let head = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(all(&head)[..64], [0; 64]);
    assert_eq!((rig.pool.used(), device.remove().unwrap().live()), (0, 0));
}

/// Hardware that does not say that it has forgotten a part keeps the addresses of the whole.
#[test]
fn addresses_of_which_a_part_is_lost_are_never_given_back() {
    let rig = Rig::coherent(66);
    let domain = rig.strict();
    let device = rig.device(rig.untrusted(), &domain);
    let mut memory = vec![
        rig.buffer(PAGE, 0, 1).take(),
        rig.buffer(0x123, 0, 1).take(),
    ];
    let (mut request, _) = linked::<_, Bidirectional>(&device, &memory);
    rig.smmu.stick(true);
    let tail = list(memory.split_off(1));
    let none = core::iter::empty();
    let lost = device.unlink_tail(&mut request, PAGE, tail, none).unwrap();
    rig.smmu.stick(false);
    let proof = device.sync().unwrap();
    assert!(device.redeem(lost, &proof).is_err());
    let sealed = device.seal(request).unwrap();
    let none = core::iter::empty();
    let debt = device.destroy(sealed, list(memory), none).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(domain.space().statistics().used, 2 * PAGE);
    let whole = dmakit::addr::IovaRange::new(Iova::new(0), 1 << 40).unwrap();
    assert_eq!(
        domain.table().leaves(whole).count(),
        0,
        "and nothing is mapped"
    );

    // A page of a window.
    let device = rig.device(
        DeviceInfo {
            id: dmakit::dma::DeviceId::new(9),
            ..rig.info()
        },
        &domain,
    );
    let page = rig.segment(PAGE);
    let mut window = device.open_window::<Bidirectional>(PAGE, 1, NONE).unwrap();
    device.link_page(&mut window, 0, page.range()).unwrap();
    rig.smmu.stick(true);
    let debt = device.unlink_pages(&mut window, 0, PAGE, ()).unwrap();
    let unmoved = device.close_window(window).unwrap_err();
    assert!(matches!(unmoved.error, LinkError::Hardware(_)));
    rig.smmu.stick(false);
    device.close_window(unmoved.state).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert_eq!(domain.space().statistics().used, 2 * PAGE);
}
