//! Each step fails in turn, and nothing is left behind; or what is, is counted and never used.

use dmakit::addr::{Attributes, Bidirectional, FromDevice, Iova, IovaRange, ToDevice};
use dmakit::dma::{
    Batch, BatchConfig, DomainError, MapError, RedeemError, ScatterList, Translate, UnmapFailure,
};
use dmakit::platform::CpuBuffer;
use dmakit_sim::{FaultPlan, Rng, Step};

use crate::rig::{Rig, Strict, TestDevice};

const NONE: Attributes = Attributes::NONE;

fn is_empty(rig: &Rig, domain: &Strict<'_>) {
    let whole = IovaRange::new(Iova::new(0), 1 << 40).unwrap();
    assert_eq!(domain.table().leaves(whole).count(), 0, "leaves");
    assert_eq!(domain.space().statistics().used, 0, "addresses");
    assert_eq!(domain.quarantined(), 0);
    assert_eq!(rig.pool.used(), 0, "slots");
}

/// Buffers with ragged edges, far from one another.
fn ragged(rig: &Rig, count: u64) -> ScatterList<Vec<CpuBuffer>> {
    let buffers = (0..count).map(|i| rig.buffer(0x1800 + i, 0xf00 + i, i as u8).take());
    ScatterList::new(buffers.collect()).unwrap()
}

#[test]
fn a_mapping_that_finds_no_table_page_leaves_nothing() {
    let mut refused = 0;
    for nth in 0.. {
        let rig = Rig::coherent(20);
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let mut segments = [Default::default(); 8];
        let list = ragged(&rig, 6);
        rig.machine
            .inject(&FaultPlan::none().after(Step::ALLOCATE_TABLE, nth));
        let mapped = device.map_scatter::<Bidirectional, _>(list, NONE, &mut segments);
        rig.machine.inject(&FaultPlan::none());
        let mapping = match mapped {
            Ok(mapping) => mapping,
            Err(failure) => {
                let is_table = matches!(failure.error, MapError::Domain(DomainError::Table(_)));
                assert!(is_table, "{failure}");
                is_empty(&rig, &domain);
                refused += 1;
                let list = failure.memory;
                device
                    .map_scatter::<Bidirectional, _>(list, NONE, &mut segments)
                    .unwrap()
            }
        };
        device.unmap_and_sync(mapping).unwrap();
        is_empty(&rig, &domain);
        rig.close(domain);
        if refused as u64 <= nth {
            break;
        }
    }
    assert!(refused >= 2, "a table for the leaves, and one above");
}

#[test]
fn edges_that_find_no_slots_leave_nothing() {
    let rig = Rig::coherent(21);
    let domain = rig.strict();
    let device = rig.device(rig.untrusted(), &domain);
    let mut held = Vec::new();
    // More edges than wait for one sync together, and then more than there are slots.
    let failure = loop {
        let mut segments = [Default::default(); 24];
        match device.map_scatter::<FromDevice, _>(ragged(&rig, 24), NONE, &mut segments) {
            Ok(mapping) => held.push(mapping),
            Err(failure) => break failure,
        }
    };
    assert!(
        matches!(failure.error, MapError::Bounce { .. }),
        "{failure}"
    );
    assert_eq!(device.stats().live(), held.len() as u64);
    let mapped: u64 = held.len() as u64 * 24 * 0x3000;
    let whole = IovaRange::new(Iova::new(0), 1 << 40).unwrap();
    let leaves: u64 = domain
        .table()
        .leaves(whole)
        .map(|leaf| leaf.range.len())
        .sum();
    assert_eq!(leaves, mapped);
    for mapping in held {
        device.unmap_and_sync(mapping).unwrap();
    }
    is_empty(&rig, &domain);
    rig.close(domain);
}

fn mapped<T: Translate>(rig: &Rig, device: &TestDevice<'_, T>) -> dmakit::dma::Mapping<ToDevice> {
    let buffer = rig.scattered(3, &mut Rng::new(9));
    device.map::<ToDevice>(buffer, NONE).unwrap()
}

#[test]
fn a_sync_that_fails_keeps_the_debt_until_one_succeeds() {
    let rig = Rig::coherent(22);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mapping = mapped(&rig, &device);
    rig.smmu.stick(true);
    let UnmapFailure::Owed { debt, .. } = device.unmap_and_sync(mapping).unwrap_err() else {
        panic!("the debt stands");
    };
    assert_eq!(domain.space().statistics().used, 4 << 12);
    rig.smmu.stick(false);
    let proof = device.sync().unwrap();
    device.redeem(debt, &proof).unwrap();
    rig.close(domain);
}

#[test]
fn a_buffer_that_waits_for_a_hung_smmu_comes_back_after_a_reset() {
    let rig = Rig::coherent(24);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mapping = mapped(&rig, &device);
    rig.smmu.hang();
    let UnmapFailure::Owed { error, debt } = device.unmap_and_sync(mapping).unwrap_err() else {
        panic!("the debt stands");
    };
    let text = error.to_string();
    assert!(
        text.contains("has executed") && text.contains("1s"),
        "{text}"
    );
    rig.driver.reset().unwrap();
    let proof = device.sync().unwrap();
    device.redeem(debt, &proof).unwrap();
    is_empty(&rig, &domain);
    rig.close(domain);
}

#[test]
fn a_batch_that_does_not_close_gives_nothing_back() {
    let rig = Rig::coherent(23);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let config = BatchConfig {
        debts: 4,
        ..BatchConfig::default()
    };
    let mut batch = Batch::new(device.domain(), config).unwrap();
    let mut given = 0;
    for _ in 0..3 {
        let mapping = mapped(&rig, &device);
        device
            .unmap_batched(&mut batch, mapping, |_| given += 1)
            .unwrap();
    }
    rig.smmu.stick(true);
    let mapping = mapped(&rig, &device);
    assert!(
        device
            .unmap_batched(&mut batch, mapping, |_| given += 1)
            .is_err()
    );
    let mapping = mapped(&rig, &device);
    let dmakit::dma::BatchFailure::Full { mapping, .. } = device
        .unmap_batched(&mut batch, mapping, |_| given += 1)
        .unwrap_err()
    else {
        panic!("there is no room");
    };
    assert_eq!((given, batch.held().debts), (0, 4));
    rig.smmu.stick(false);
    device.close_batch(&mut batch, |_| given += 1).unwrap();
    assert_eq!((given, batch.held().debts), (4, 0));
    device.unmap_and_sync(mapping).unwrap();
    assert_eq!(device.stats().live(), 0);
    rig.close(domain);
}

#[test]
fn a_table_changed_behind_the_stack_loses_the_memory_for_good() {
    let rig = Rig::coherent(24);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mapping = mapped(&rig, &device);
    let start = Iova::new(mapping.dma_addr().raw());
    // Somebody unmaps a page of it.
    let page = IovaRange::new(start, 4096).unwrap();
    let mut gather = dmakit::io_pgtable::Gather::new();
    domain.table().unmap(page, &mut gather).unwrap();
    let debt = device.unmap(mapping).unwrap();
    let proof = device.sync().unwrap();
    let failure = device.redeem(debt, &proof).unwrap_err();
    assert_eq!(failure.error, RedeemError::Lost);
    assert_eq!(device.stats().lost, 1);
    assert_eq!(domain.quarantined(), 3 << 12);
}
