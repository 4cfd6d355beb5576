//! Which stream reaches what, and what is forgotten when.

mod rig;

use dmakit_addr::{Granule, IovaRange};
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_iommu::{FaultReason, Hardware, Invalidation};
use dmakit_smmuv3::{Config, Inherited, ReleaseFailure, Smmu, Tag};
use rig::{EDU, OTHER, faults, folded, rig};

#[test]
fn streams_translate_through_one_level_and_through_two() {
    for two_levels in [false, true] {
        let rig = rig();
        let smmu = rig.smmu_with(Config {
            two_levels,
            ..Config::default()
        });
        let domain = rig.domain(&smmu, Granule::K4);
        rig.arm(&domain, 0x5a);
        rig.frame(2, 0xee);
        let frame = rig.frame(2, 0xee).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        rig.transfer(mapped.range().start().raw(), 64, false);
        assert_eq!(faults(&smmu), [], "two levels: {two_levels}");
        assert_eq!(rig.first(2), [0x5a; 64]);
        rig.unmap(&domain, mapped);
        let unknown = smmu.attach(1 << 16, domain.hardware().context());
        assert!(unknown.is_err(), "a stream beyond the table");
    }
}

#[test]
fn a_foreign_stream_reaches_nothing_of_a_domain() {
    let rig = rig();
    let smmu = rig.smmu();
    let mine = rig.domain(&smmu, Granule::K4);
    let foreign = rig.detached_domain(&smmu, Granule::K4, 2);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&mine, &[frame], Permissions::READ_WRITE);
    let iova = mapped.range().start().raw();
    // Its translation is in the cache, of another tag.
    rig.transfer(iova, 64, true);
    assert_eq!(faults(&smmu), []);
    for attached in [false, true] {
        if attached {
            smmu.attach(OTHER.raw().into(), foreign.hardware().context())
                .unwrap();
        }
        rig.frame(2, 0xee);
        rig.transfer_by(&rig.other, iova, 64, false);
        assert_eq!(rig.first(2), [0xee; 64], "attached: {attached}");
        let seen = folded(&smmu);
        let streams: Vec<_> = seen.faults().map(|folded| folded.fault.stream).collect();
        // A stream that nobody attached is aborted in silence.
        let expected = if attached {
            vec![u32::from(OTHER.raw())]
        } else {
            vec![]
        };
        assert_eq!(streams, expected);
        for folded in seen.faults() {
            assert_eq!(folded.fault.reason, FaultReason::Unmapped);
            assert_eq!(folded.records, 16, "one for every 4 bytes");
        }
    }
    // The control: attached to the domain, the same device writes there.
    smmu.attach(OTHER.raw().into(), mine.hardware().context())
        .unwrap();
    let source = rig.frame(3, 0x77).range();
    let source = rig.map(&mine, &[source], Permissions::READ);
    rig.transfer_by(&rig.other, source.range().start().raw(), 64, true);
    rig.transfer_by(&rig.other, iova, 64, false);
    assert_eq!(faults(&smmu), []);
    assert_eq!(rig.first(2), [0x77; 64]);
}

#[test]
fn only_the_right_range_of_the_right_tag_is_forgotten() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let other = rig.detached_domain(&smmu, Granule::K4, 2);
    let frames = [2, 3].map(|index| rig.frame(index, 0x5a).range());
    let mapped = rig.map(&domain, &frames, Permissions::READ_WRITE);
    let range = mapped.range();
    let iova = range.start().raw();
    rig.transfer(iova, 64, true);
    let mut gather = Gather::new();
    domain.table().unmap(range, &mut gather).unwrap();
    let page = |index: u64| Invalidation {
        range: range.slice(index << 12, 0x1000).unwrap(),
        granule: Granule::K4,
        leaf_height: Some(0),
        leaf_shift: Some(12),
        tables: false,
    };
    let stale = |what: &str| {
        rig.frame(2, 0xee);
        rig.transfer(iova, 64, false);
        assert_eq!(faults(&smmu), [], "{what}: still cached");
        assert_eq!(rig.first(2), [0x5a; 64], "{what}: still cached");
    };
    stale("nothing invalidated");
    smmu.invalidate(domain.hardware().context().tag(), &page(1))
        .unwrap();
    smmu.sync().unwrap();
    stale("the neighbour's page");
    other.hardware().invalidate(&page(0)).unwrap();
    smmu.sync().unwrap();
    stale("another tag");
    smmu.invalidate(domain.hardware().context().tag(), &page(0))
        .unwrap();
    smmu.sync().unwrap();
    rig.frame(2, 0xee);
    rig.transfer(iova, 64, false);
    let seen = folded(&smmu);
    let seen: Vec<_> = seen.faults().map(|folded| folded.fault).collect();
    assert_eq!(seen.len(), 1);
    assert!(
        IovaRange::new(range.start(), 64)
            .unwrap()
            .contains(seen[0].iova.unwrap())
    );
    assert_eq!(rig.first(2), [0xee; 64]);
}

#[test]
fn a_tag_used_again_knows_nothing_of_its_earlier_life() {
    let rig = rig();
    let taken: Vec<u16> = (3..=u16::MAX).collect();
    let inherited = Inherited {
        asids: &taken,
        ..Inherited::default()
    };
    let smmu = Smmu::take_over(
        rig.machine.platform(),
        rig.regs(),
        &rig.memory,
        Config::default(),
        inherited,
    )
    .unwrap();
    let mut tags = Vec::new();
    let mut last = None;
    for round in 0..6_u64 {
        let domain = rig.domain(&smmu, Granule::K4);
        tags.push(domain.hardware().context().tag());
        if let Some(iova) = last {
            // The same addresses, the same tag as two rounds ago, and nothing mapped.
            rig.frame(2, 0xee);
            rig.transfer(iova, 64, false);
            assert_eq!(rig.first(2), [0xee; 64], "round {round}");
            assert!(!faults(&smmu).is_empty(), "round {round}");
        }
        let frame = rig.frame(2, round as u8 + 1).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        let iova = mapped.range().start().raw();
        last = Some(iova);
        rig.transfer(iova, 64, true);
        assert_eq!(faults(&smmu), []);
        rig.unmap(&domain, mapped);
        let Ok((hardware, _table)) = domain.close() else {
            panic!("it has no debts");
        };
        // A tag that a stream still uses stays.
        let refused = smmu.release_context(hardware.into_context());
        let Err(ReleaseFailure::InUse { context, stream }) = refused else {
            panic!("released while a stream is attached: {refused:?}");
        };
        assert_eq!(stream, u32::from(EDU.raw()));
        smmu.detach(stream).unwrap();
        smmu.release_context(context).unwrap();
    }
    let [one, two] = [Tag::Asid(1), Tag::Asid(2)];
    assert_eq!(tags, [one, two, one, two, one, two]);
}

#[test]
fn a_domain_with_a_ticket_keeps_its_tag() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let frame = rig.frame(2, 0).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let ticket = domain.unmap(mapped).unwrap();
    let Err((domain, used)) = domain.close() else {
        panic!("closed with a debt");
    };
    assert_eq!(used, 0x1000);
    let proof = domain.sync().unwrap();
    let platform = rig.machine.platform();
    let cpu = dmakit_platform::Platform::enter_cpu(&platform);
    domain.redeem(&cpu, ticket, &proof).unwrap();
    smmu.detach(EDU.raw().into()).unwrap();
    rig.close(&smmu, domain);
}
