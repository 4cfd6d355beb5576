//! From where on everything of a tag is forgotten, and not a range.

use std::time::Duration;

use dmakit_addr::{DmaAddr, DmaMask, Granule, Iova, IovaRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, Invalidation, InvalidationCosts};
use dmakit_platform::Platform;
use dmakit_smmuv3::Tag;

use crate::rig::{Mutant, Rig, Shape};

/// TLBI_NH_VA, and TLBI_NH_ASID.
const OPCODES: [u8; 2] = [0x12, 0x11];

/// An SMMU that takes a command for each page.
fn by_page(costs: Option<InvalidationCosts>) -> Rig {
    let mut shape = Shape::default();
    shape.smmu.ranges = false;
    shape.driver.costs = costs.unwrap_or(shape.driver.costs);
    Rig::new(1, shape)
}

/// How many commands for a page and for a tag an act adds.
fn added(rig: &Rig, act: impl FnOnce()) -> [u64; 2] {
    let before = OPCODES.map(|opcode| rig.smmu.consumed(opcode));
    act();
    let after = OPCODES.map(|opcode| rig.smmu.consumed(opcode));
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn a_range_of_1025_pages_is_forgotten_by_page_and_one_more_with_its_tag() {
    let rig = by_page(None);
    let driver = rig.driver();
    for (pages, expected) in [(1, [1, 0]), (1025, [1025, 0]), (1026, [0, 1])] {
        let what = Invalidation {
            range: IovaRange::new(Iova::new(0x10_0000), pages << 12).unwrap(),
            granule: Granule::K4,
            leaf_height: Some(0),
            leaf_shift: Some(12),
            tables: false,
        };
        let added = added(&rig, || {
            driver.invalidate(Tag::Asid(7), &what).unwrap();
            driver.sync().unwrap();
        });
        assert_eq!(added, expected, "{pages} pages");
    }
}

/// One command costs 50 ns, everything 50 and 400 ns: from the tenth on the whole is cheaper.
const COSTS: InvalidationCosts = InvalidationCosts {
    command: Duration::from_nanos(50),
    refill: Duration::from_nanos(50),
    entries: 8,
};

#[test]
fn an_unmapped_buffer_of_9_pages_is_forgotten_by_page_and_one_more_with_its_tag() {
    for (pages, expected) in [(9, [9, 0]), (10, [0, 1])] {
        let rig = by_page(Some(COSTS));
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(pages << 12, 0);
        let run = [buffer.range()];
        let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
        let at: Vec<_> = (0..pages)
            .map(|page| DmaAddr::new(mapped.range().start().raw() + (page << 12)))
            .collect();
        for at in &at {
            rig.device.write(*at, &[1; 64]).unwrap();
        }
        let ticket = domain.unmap(mapped).unwrap();
        let added = added(&rig, || rig.redeem(&domain, ticket, &run));
        assert_eq!(added, expected, "{pages} pages");
        assert!(at.iter().all(|at| rig.device.write(*at, &[2; 64]).is_err()));
    }
}

#[test]
fn a_batch_of_9_scattered_pages_is_forgotten_by_page_and_one_more_with_its_tag() {
    for (pages, expected) in [(9, [9, 0]), (10, [0, 1])] {
        let rig = by_page(Some(COSTS));
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer((2 * pages) << 12, 0);
        let mut batch = Batch::new(domain.id(), BatchConfig::default()).unwrap();
        let mut at = Vec::new();
        let mut mapped = Vec::new();
        for page in 0..2 * pages {
            let run = buffer.range().slice(page << 12, 4096).unwrap();
            let one = rig.map(&domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
            rig.device
                .write(DmaAddr::new(one.range().start().raw()), &[1; 64])
                .unwrap();
            mapped.push((page, run, one));
        }
        let added = added(&rig, || {
            let (cpu, now) = (rig.machine.enter_cpu(), rig.machine.now());
            // Every other one: no two of them are neighbours.
            for (page, run, one) in mapped {
                if page % 2 == 0 {
                    at.push((run, DmaAddr::new(one.range().start().raw())));
                    batch.unmap(&domain, &cpu, now, one, (), |()| ()).unwrap();
                }
            }
            batch.close(&domain, &cpu, |()| ()).unwrap();
        });
        assert_eq!(added, expected, "{pages} pages");
        for (run, at) in at {
            rig.device
                .revoke(run, dmakit_addr::Direction::Bidirectional);
            assert!(rig.device.write(at, &[2; 64]).is_err());
        }
    }
}
