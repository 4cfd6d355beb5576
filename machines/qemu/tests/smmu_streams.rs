//! Which stream reaches what, and what is forgotten when.

mod rig;

use dmakit_addr::{Granule, Iova, IovaRange};
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_iommu::{FaultReason, Hardware, Invalidation};
use dmakit_smmuv3::Config;
use rig::{OTHER, faults, folded, rig};

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
        let around = [1, 2, 3].map(|index| rig.frame(index, 0xee).range());
        rig.transfer_by(&rig.other, iova + 0x800, 64, false);
        for frame in around {
            let bytes = rig.bytes(frame.start(), frame.len());
            assert!(bytes.iter().all(|&b| b == 0xee), "attached: {attached}");
        }
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
            assert_eq!(folded.fault.is_write, Some(true));
            assert_eq!(folded.fault.iova.map(Iova::raw), Some(iova + 0x800));
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
