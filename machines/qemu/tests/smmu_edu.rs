//! The SMMUv3 driver and Arm page tables against QEMU's SMMUv3, with `edu` as the device.

mod rig;

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::{Format, Permissions};
use dmakit_iommu::FaultReason;
use dmakit_platform::Platform;
use dmakit_qemu::Config;
use rig::{Driver, EDU, RAM, Rig, TestDomain, faults, rig, rig_on};

#[test]
fn edu_reaches_what_is_mapped_and_faults_on_the_rest() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let page = rig.buffers.window().slice(0x20_0000, 0x3000).unwrap();
    page.fill(0xee);
    page.slice(0, 256).unwrap().write(&[0x5a; 256]);
    let phys = page.range().start();
    // Two frames, neighbours in device addresses the other way round.
    let low = PhysRange::new(phys, 0x1000).unwrap();
    let high = PhysRange::new(PhysAddr::new(phys.raw() + 0x1000), 0x1000).unwrap();
    let mapped = rig.map(&domain, &[high, low], Permissions::READ_WRITE);
    let range = mapped.range();
    let iova = range.start().raw();

    rig.transfer(iova + 0x1000, 256, true);
    rig.transfer(iova + 0xf80, 256, false);
    assert_eq!(faults(&smmu), []);
    let bytes = rig.bytes(phys, 0x3000);
    assert!(
        bytes[0x1f80..0x2000].iter().all(|&b| b == 0x5a),
        "end of the upper frame"
    );
    assert!(
        bytes[..0x80].iter().all(|&b| b == 0x5a),
        "start of the lower frame"
    );
    assert!(
        bytes[256..0x1f80]
            .iter()
            .chain(&bytes[0x2000..])
            .all(|&b| b == 0xee)
    );

    let ticket = domain.unmap(mapped).unwrap();
    let proof = domain.sync().unwrap();
    page.fill(0xee);
    rig.transfer(iova, 64, false);
    let seen = faults(&smmu);
    assert!(!seen.is_empty());
    for fault in seen {
        assert_eq!(fault.reason, FaultReason::Unmapped);
        assert_eq!(
            (fault.stream, fault.is_write),
            (EDU.raw().into(), Some(true))
        );
        assert!(range.contains(fault.iova.unwrap()), "{fault}");
    }
    assert!(
        rig.bytes(phys, 0x3000).iter().all(|&b| b == 0xee),
        "nothing landed"
    );
    let platform = rig.machine.platform();
    domain
        .redeem(&platform.enter_cpu(), ticket, &proof)
        .unwrap();
    let again = rig.map(&domain, &[low, high], Permissions::READ_WRITE);
    assert_eq!(again.range(), range, "warm addresses come back first");
    rig.transfer(iova, 64, true);
    assert_eq!(faults(&smmu), []);
}

#[test]
fn without_invalidation_the_old_translation_is_still_used() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let page = rig.buffers.window().slice(0x20_0000, 0x1000).unwrap();
    page.fill(0xee);
    let mapped = rig.map(&domain, &[page.range()], Permissions::READ_WRITE);
    let iova = mapped.range();
    rig.transfer(iova.start().raw(), 64, true);
    let mut gather = dmakit_io_pgtable::Gather::new();
    domain.table().unmap(iova, &mut gather).unwrap();
    page.fill(0x11);
    rig.transfer(iova.start().raw(), 64, false);
    assert_eq!(
        faults(&smmu),
        [],
        "a stale hit, which every other test must not see"
    );
    assert_eq!(rig.bytes(page.range().start(), 64), [0xee; 64]);
}

#[test]
fn a_write_to_what_is_mapped_read_only_changes_nothing() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let around = rig.buffers.window().slice(0x1f_f000, 0x3000).unwrap();
    around.fill(0xee);
    let page = rig.buffers.window().slice(0x20_0000, 0x1000).unwrap();
    page.fill(0x77);
    let mapped = rig.map(&domain, &[page.range()], Permissions::READ);
    rig.transfer(mapped.range().start().raw(), 64, true);
    assert_eq!(faults(&smmu), [], "reading is allowed");
    page.fill(0xee);
    let at = IovaRange::new(Iova::new(mapped.range().start().raw() + 0x800), 64).unwrap();
    rig.transfer(at.start().raw(), 64, false);
    let seen = faults(&smmu);
    assert_eq!(seen.len(), 16, "one for every 4 bytes");
    for fault in seen {
        assert_eq!(fault.reason, FaultReason::Permission);
        assert_eq!(
            (fault.stream, fault.is_write),
            (EDU.raw().into(), Some(true))
        );
        assert!(at.contains(fault.iova.unwrap()), "{fault}");
    }
    assert!(
        rig.bytes(around.range().start(), 0x3000)
            .iter()
            .all(|&b| b == 0xee)
    );
    rig.unmap(&domain, mapped);
}

/// log2 of what a leaf of each level maps, by granule.
const LEAVES: [(Granule, &[u32]); 3] = [
    (Granule::K4, &[12, 21, 30]),
    (Granule::K16, &[14, 25]),
    (Granule::K64, &[16, 29]),
];

#[test]
fn every_leaf_size_of_every_granule_leads_where_it_says_from_end_to_end() {
    // Room for 1 GiB at 2 GiB, and for what lies before and behind it; untouched, it costs nothing.
    let nodes = vec![0x9000_0000, 256 << 20];
    let config = Config {
        nodes,
        ..Config::virt()
    };
    let rig = rig_on(config, 64);
    let smmu = rig.smmu();
    for (granule, sizes) in LEAVES {
        let domain = rig.domain(&smmu, granule);
        for &shift in sizes {
            both_ways_through_a_leaf(&rig, &smmu, &domain, 1 << shift);
        }
        smmu.detach(EDU.raw().into()).unwrap();
    }
}

/// At both ends of a leaf and across its middle: what the device reads is what is there, what it
/// writes lands there and nowhere around it.
fn both_ways_through_a_leaf(rig: &Rig, smmu: &Driver<'_>, domain: &TestDomain<'_>, size: u64) {
    const LEN: u64 = 192;
    const AROUND: u64 = 0x1000;
    let granule = domain.table().format().geometry().granule();
    let place = PhysRange::new(PhysAddr::new(0x8000_0000), size).unwrap();
    let frames = rig.buffers.window();
    let copy = frames.slice(1 << 16, granule.bytes()).unwrap();
    let copies = rig.map(domain, &[copy.range()], Permissions::READ_WRITE);
    let mapped = rig.map(domain, &[place], Permissions::READ_WRITE);
    let start = mapped.range().start();
    let leaf = domain.table().leaf_at(start).unwrap();
    assert_eq!(leaf.range, mapped.range());
    for at in [0, size / 2 - LEN / 2, size - LEN] {
        let what = format!("{granule:?}, {size:#x} at {at:#x}");
        let sent: Vec<u8> = (0..LEN)
            .map(|i| (i * 3 + at + u64::from(size.ilog2())) as u8)
            .collect();
        let offset = place.start().raw() - RAM + at;
        let around = frames.slice(offset - AROUND, LEN + 2 * AROUND).unwrap();
        let target = frames.slice(offset, LEN).unwrap();
        around.fill(0xee);
        copy.fill(0xee);
        target.write(&sent);
        rig.transfer(start.raw() + at, LEN, true);
        target.fill(0xee);
        rig.transfer(copies.range().start().raw(), LEN, false);
        let read = rig.bytes(copy.range().start(), copy.range().len());
        assert_eq!(read[..LEN as usize], sent, "read: {what}");
        assert!(read[LEN as usize..].iter().all(|&b| b == 0xee), "{what}");
        rig.transfer(start.raw() + at, LEN, false);
        let mut expected = vec![0xee; around.range().len() as usize];
        expected[AROUND as usize..][..LEN as usize].copy_from_slice(&sent);
        let written = rig.bytes(around.range().start(), around.range().len());
        assert!(written == expected, "written: {what}");
        assert_eq!(faults(smmu), [], "{what}");
    }
    rig.unmap(domain, mapped);
    rig.unmap(domain, copies);
}
