//! What a mapping does, refuses and leaves behind.
// A refused token comes back in the error, and tokens own their memory.
#![allow(clippy::result_large_err)]

mod rig;

use dmakit_addr::{Attributes, Bidirectional, DmaMask, FromDevice, ToDevice};
use dmakit_dma::{
    BounceCause, Coherence, Device, MapError, Mapping, RedeemError, ScatterList, TokenError,
};
use dmakit_iommu::RedeemError as Unpaid;
use dmakit_platform::CpuBuffer;
use rig::{Forgetful, HIGH, LOW, PathKind, Rig, bytes_of, pattern, phys};

const NONE: Attributes = Attributes::NONE;

#[test]
fn a_buffer_in_reach_is_lent_as_it_lies() {
    let rig = Rig::coherent(1);
    let (sim, device) = rig.ready(PathKind::Needed);
    let buffer = rig.filled(100, 7, false);
    let run = buffer.runs().next().unwrap();
    let mapping = device.map::<ToDevice>(buffer, NONE).unwrap();
    assert!(!mapping.is_bounced() && !mapping.needs_sync());
    let dma = device.info().bus.dma(run).unwrap();
    assert_eq!((mapping.dma_addr(), mapping.len()), (dma.start(), 100));
    let mut seen = vec![0; 100];
    sim.read(mapping.dma_addr(), &mut seen).unwrap();
    assert_eq!(seen, pattern(1, 100));
    assert_eq!(rig.machine.counts().lines_maintained, 0);
    device.unmap_and_sync(mapping).unwrap();
    assert_eq!(device.remove().unwrap().bytes_copied_in, 0);
}

#[test]
fn memory_comes_back_for_a_later_proof_of_its_own_device_only() {
    let rig = Rig::coherent(2);
    let (_, one) = rig.ready(PathKind::Direct);
    let (_, other) = rig.device(2, 64, Coherence::Coherent);
    let other = rig.attach(other, PathKind::Direct);
    let early = one.sync().unwrap();
    let mapping = one
        .map::<FromDevice>(rig.filled(64, 0, false), NONE)
        .unwrap();
    let debt = one.unmap(mapping).unwrap();

    let failure = one.redeem(debt, &early).unwrap_err();
    assert!(
        matches!(
            failure.error,
            RedeemError::Unpaid(Unpaid::OlderProof { .. })
        ),
        "{failure}"
    );
    let foreign = other.sync().unwrap();
    let failure = one.redeem(failure.debt, &foreign).unwrap_err();
    assert!(
        matches!(
            failure.error,
            RedeemError::Unpaid(Unpaid::ForeignProof { .. })
        ),
        "{failure}"
    );
    let proof = one.sync().unwrap();
    let failure = other.redeem(failure.debt, &proof).unwrap_err();
    assert!(
        matches!(failure.error, RedeemError::ForeignDebt { .. }),
        "{failure}"
    );
    assert_eq!(one.redeem(failure.debt, &proof).unwrap().len(), 64);
}

#[test]
fn one_proof_pays_all_earlier_debts_and_no_later_one() {
    let rig = Rig::coherent(3);
    let (_, device) = rig.ready(PathKind::Direct);
    let unmap = || {
        let mapping = device
            .map::<ToDevice>(rig.filled(8, 0, false), NONE)
            .unwrap();
        device.unmap(mapping).unwrap()
    };
    let early: Vec<_> = (0..3).map(|_| unmap()).collect();
    let proof = device.sync().unwrap();
    let late = unmap();
    for debt in early {
        device.redeem(debt, &proof).unwrap();
    }
    assert!(device.redeem(late, &proof).is_err());
}

#[test]
fn a_token_of_another_device_is_given_back() {
    for path in [PathKind::Direct, PathKind::Always] {
        let rig = Rig::coherent(4);
        let (_, one) = rig.ready(path);
        let (_, other) = rig.device(2, 64, Coherence::Coherent);
        let other = rig.attach(other, path);
        let mapping = one
            .map::<Bidirectional>(rig.filled(64, 0, false), NONE)
            .unwrap();
        let refused = other.unmap(mapping).unwrap_err();
        let foreign = TokenError::Foreign {
            owner: one.info().id,
            device: other.info().id,
        };
        assert_eq!(refused.error, foreign);
        let mut mapping = refused.token;
        assert!(other.sync_part_for_cpu(&mut mapping, 0, 1).is_err());
        assert!(other.unmap_and_sync(mapping).is_err());
        assert_eq!((other.stats().unmapped, one.stats().live()), (0, 1));
    }
}

#[test]
fn the_bus_limit_counts_as_much_as_the_mask() {
    let rig = Rig::coherent(6);
    let limit = LOW + 0x4000_0000 + 0xfff;
    let (_, device) = rig.ready_with(PathKind::Direct, 64, |info| {
        info.bus_limit = DmaMask::up_to(limit);
    });
    let info = device.info();
    let at = |start: u64, len: u64| info.direct(phys(start, len), dmakit_dma::MaskKind::Streaming);
    assert!(at(LOW, 0x1000).is_some() && at(LOW, 0x1001).is_none());
    assert!(at(HIGH, 1).is_none());
    assert!(!info.reaches_all(rig.machine.ram().map(|(_, range)| range)));
}

#[test]
fn attributes_are_honoured_or_refused() {
    let rig = Rig::non_coherent(18);
    let (_, info) = rig.device(1, 64, Coherence::NonCoherent);
    let plain = rig.attach(info, PathKind::Needed);
    let (_, coherent) = rig.device(2, 64, Coherence::Coherent);
    let forced = rig.attach(coherent, PathKind::Always);
    let direct = rig.attach(coherent, PathKind::Direct);
    let map = |device: &Device<'_, Forgetful>, attributes| {
        device.map::<FromDevice>(rig.filled(4096, 0, false), attributes)
    };
    for attributes in [
        Attributes::MMIO,
        Attributes::WRITE_COMBINE,
        Attributes::NO_KERNEL_MAPPING,
        Attributes::FORCE_CONTIGUOUS,
        Attributes::ALLOC_SINGLE_PAGES,
        Attributes::from_bits(1 << 13),
    ] {
        let refused = map(&plain, attributes | Attributes::NO_WARN).unwrap_err();
        assert_eq!(refused.error, MapError::Attributes(attributes));
    }
    let stats = plain.stats();
    assert_eq!((stats.failed.request, stats.failed_expected), (6, 6));

    let required = Attributes::REQUIRE_COHERENT;
    assert_eq!(
        map(&plain, required).unwrap_err().error,
        MapError::NotCoherent
    );
    let refused = map(&forced, required).unwrap_err().error;
    assert_eq!(refused, MapError::WouldBounce(BounceCause::Forced));
    assert_eq!(forced.stats().failed.coherence, 1);
    direct
        .unmap_and_sync(map(&direct, required).unwrap())
        .unwrap();

    let before = rig.machine.counts().lines_maintained;
    let mapping = map(
        &plain,
        Attributes::SKIP_CPU_SYNC | Attributes::WEAK_ORDERING,
    )
    .unwrap();
    plain.unmap_and_sync(mapping).unwrap();
    assert_eq!(rig.machine.counts().lines_maintained, before);
    let copied = forced.stats().bytes_copied_out;
    let mapping = map(&forced, Attributes::SKIP_CPU_SYNC | Attributes::PRIVILEGED).unwrap();
    forced.unmap_and_sync(mapping).unwrap();
    assert_eq!(forced.stats().bytes_copied_out, copied);
}

#[test]
fn forgotten_tokens_leak_are_counted_and_hurt_nobody() {
    let rig = Rig::coherent(20);
    let (sim, device) = rig.ready(PathKind::Always);
    sim.confine();
    let map = || {
        device
            .map::<Bidirectional>(rig.filled(3000, 0, false), NONE)
            .unwrap()
    };
    let used = |mapping: &Mapping<Bidirectional>| (mapping.dma_addr(), rig.pool.used());
    let (forgotten, slots) = used(&map());
    core::mem::forget(device.sync_for_cpu(map()).unwrap());
    drop(map());
    let debt = device.unmap(map()).unwrap();
    core::mem::forget(debt);
    assert_eq!(rig.pool.used(), 3 * slots, "a debt holds no slots here");
    let later = map();
    assert_ne!(
        later.dma_addr(),
        forgotten,
        "leaked slots are not given again"
    );
    device.unmap_and_sync(later).unwrap();
    assert_eq!(device.stats().live(), 3);
    let left = device.remove().unwrap_err();
    assert_eq!((left.mappings, left.coherent), (3, 0));
}

#[test]
fn mappings_begin_and_end_in_interrupts_and_on_other_cpus() {
    for path in [PathKind::Direct, PathKind::Always] {
        let rig = Rig::coherent(23);
        let (_, device) = rig.ready(path);
        let buffer = rig.filled(4096, 0, false);
        let mapping = rig
            .machine
            .in_interrupt(|| device.map::<FromDevice>(buffer, NONE))
            .unwrap();
        let other = dmakit_platform::CpuId::new(1);
        let debt = rig
            .machine
            .on_cpu(other, || rig.machine.in_interrupt(|| device.unmap(mapping)));
        let proof = rig.machine.in_interrupt(|| device.sync()).unwrap();
        rig.machine
            .in_interrupt(|| device.redeem(debt.unwrap(), &proof))
            .unwrap();
        rig.machine.check().unwrap();
    }
}

/// A token that did not compile here could not go to the interrupt handler that ends it.
#[test]
fn tokens_can_be_sent_and_devices_shared() {
    fn sent<T: Send>() {}
    fn shared<T: Sync>() {}
    sent::<Mapping<FromDevice>>();
    sent::<Mapping<Bidirectional, ScatterList<Vec<CpuBuffer>>>>();
    sent::<dmakit_dma::CpuMapping<Bidirectional>>();
    sent::<dmakit_dma::Debt<CpuBuffer>>();
    sent::<dmakit_dma::Coherent<u64>>();
    shared::<Device<'static, Forgetful>>();
    shared::<dmakit_dma::DmaPool<Forgetful, [dmakit_dma::PoolChunk; 1]>>();
    shared::<dmakit_dma::CoherentPool<Forgetful, [dmakit_dma::PageChunk; 1]>>();
}

#[test]
fn threads_map_and_unmap_for_each_other() {
    let rig = Rig::coherent(27);
    let (_, device) = rig.ready(PathKind::Needed);
    let (send, receive) = std::sync::mpsc::channel();
    let buffers: Vec<_> = (0..64)
        .map(|i| rig.filled(100 + i, 1, i % 2 == 0))
        .collect();
    std::thread::scope(|scope| {
        let device = &device;
        scope.spawn(move || {
            for buffer in buffers {
                send.send(device.map::<Bidirectional>(buffer, NONE).unwrap())
                    .unwrap();
            }
        });
        scope.spawn(move || {
            for mapping in receive {
                let len = mapping.len();
                let buffer = device.unmap_and_sync(mapping).unwrap();
                assert_eq!(bytes_of(&buffer), pattern(1, len));
            }
        });
    });
    assert_eq!((device.stats().mapped, device.stats().live()), (64, 0));
}
