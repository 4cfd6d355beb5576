//! The SMMUv3 driver and Arm page tables against QEMU's SMMUv3, with `edu` as the device.

mod rig;

use dmakit_addr::{Granule, PhysAddr, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::FaultReason;
use dmakit_platform::Platform;
use rig::{EDU, faults, rig};

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
    let page = rig.buffers.window().slice(0x20_0000, 0x1000).unwrap();
    page.fill(0x77);
    let mapped = rig.map(&domain, &[page.range()], Permissions::READ);
    rig.transfer(mapped.range().start().raw(), 64, true);
    assert_eq!(faults(&smmu), [], "reading is allowed");
    page.fill(0xee);
    rig.transfer(mapped.range().start().raw(), 64, false);
    let seen = faults(&smmu);
    assert!(
        seen.iter()
            .all(|fault| fault.reason == FaultReason::Permission)
    );
    assert!(!seen.is_empty());
    assert!(
        rig.bytes(page.range().start(), 0x1000)
            .iter()
            .all(|&b| b == 0xee)
    );
    rig.unmap(&domain, mapped);
}

#[test]
fn every_granule_and_block_size_leads_where_it_says() {
    let rig = rig();
    let smmu = rig.smmu();
    let window = rig.buffers.window();
    for (granule, sizes) in [
        (Granule::K4, &[1_u64 << 12, 1 << 21][..]),
        (Granule::K16, &[1 << 14, 1 << 25]),
        (Granule::K64, &[1 << 16]),
    ] {
        let domain = rig.domain(&smmu, granule);
        for &size in sizes {
            let mark = [size.trailing_zeros() as u8; 64];
            let phys = 0x4000_0000_u64 + size.max(1 << 22);
            let target = window.slice(phys - 0x4000_0000 + size - 64, 64).unwrap();
            target.fill(0xee);
            let frame = window.slice(1 << 16, granule.bytes()).unwrap();
            frame.slice(128, 64).unwrap().write(&mark);
            let source = rig.map(&domain, &[frame.range()], Permissions::READ);
            let whole = PhysRange::new(PhysAddr::new(phys), size).unwrap();
            let mapped = rig.map(&domain, &[whole], Permissions::READ_WRITE);
            let start = mapped.range().start();
            assert_eq!(domain.table().leaf_at(start).unwrap().range.len(), size);
            rig.transfer(source.range().start().raw() + 128, 64, true);
            rig.transfer(start.raw() + size - 64, 64, false);
            assert_eq!(faults(&smmu), [], "{granule:?} {size:#x}");
            let mut bytes = [0; 64];
            target.read(&mut bytes);
            assert_eq!(bytes, mark, "{granule:?} {size:#x}");
            rig.unmap(&domain, source);
            rig.unmap(&domain, mapped);
        }
        smmu.detach(EDU.raw().into()).unwrap();
    }
}

#[test]
fn no_stale_hit_in_random_rounds_of_map_transfer_unmap_reuse() {
    let usual = match std::env::var_os("DMAKIT_SOAK") {
        Some(_) => 100_000,
        None => 10_000,
    };
    let rounds: u32 = std::env::var("DMAKIT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual);
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |n: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) * n) >> 32
    };
    let window = rig.buffers.window();
    for round in 0..rounds {
        let pages = 1 + below(4);
        let runs: Vec<_> = (0..pages)
            .map(|_| {
                window
                    .slice((16 << 20) + (below(4096) << 12), 0x1000)
                    .unwrap()
                    .range()
            })
            .collect();
        let mapped = rig.map(&domain, &runs, Permissions::READ_WRITE);
        let iova = mapped.range().start().raw();
        let page = below(pages);
        let offset = below(0x1000 - 64);
        let run = runs[page as usize];
        let target = window
            .slice(run.start().raw() - 0x4000_0000 + offset, 64)
            .unwrap();
        let mark = [round as u8 ^ 0x5a; 64];
        target.write(&mark);
        rig.transfer(iova + (page << 12) + offset, 64, true);
        target.fill(0xee);
        rig.transfer(iova + (page << 12) + offset, 64, false);
        let mut bytes = [0; 64];
        target.read(&mut bytes);
        assert_eq!(bytes, mark, "round {round}");
        rig.unmap(&domain, mapped);
        target.fill(0xcc);
        assert_eq!(faults(&smmu), [], "round {round}");
        rig.transfer(iova + (page << 12) + offset, 64, false);
        assert!(!faults(&smmu).is_empty(), "round {round}: a stale hit");
        target.read(&mut bytes);
        assert_eq!(bytes, [0xcc; 64], "round {round}: a stale hit");
    }
    assert_eq!(faults(&smmu), []);
}
