//! A device at work while its domain goes from strict to lazy and back.

use dmakit::addr::{Attributes, Bidirectional, ToDevice};
use dmakit::iommu::{LazyConfig, Switched};
use dmakit::platform::Platform;

use crate::rig::Rig;

const NONE: Attributes = Attributes::NONE;

#[test]
fn what_was_owed_before_a_change_of_mode_is_paid_after_it() {
    let rig = Rig::coherent(41);
    let config = LazyConfig::default();
    let Ok(domain) = Switched::strict(rig.strict(), rig.machine.clone(), config) else {
        panic!("no memory");
    };
    let device = rig.device(rig.info(), &domain);
    let map = || {
        let buffer = rig.buffer(4096, 0, 0x5a).take();
        device.map::<ToDevice>(buffer, NONE).unwrap()
    };
    let cpu = || rig.machine.enter_cpu();
    // Strict, then lazy: the device's own sync asks no hardware, and is not enough.
    let (waits, early) = (device.unmap(map()).unwrap(), map());
    domain.make_lazy().unwrap();
    assert_eq!(domain.exposure().bytes, 0);
    let proof = device.sync().unwrap();
    let syncs = rig.driver.command_counts().syncs;
    device.redeem(waits, &proof).unwrap();
    assert_eq!(rig.driver.command_counts().syncs, syncs + 1);
    // Lazy, then strict: nothing is owed but a sync.
    let exposed = device.unmap(early).unwrap();
    assert_eq!(domain.exposure().bytes, 4096);
    domain.make_strict(&cpu()).unwrap();
    assert_eq!(domain.exposure().bytes, 0);
    let proof = device.sync().unwrap();
    device.redeem(exposed, &proof).unwrap();
    // And on, in each.
    device.unmap_and_sync(map()).unwrap();
    domain.make_lazy().unwrap();
    device.unmap_and_sync(map()).unwrap();
    let Ok(strict) = domain.into_strict(&cpu()) else {
        panic!("the SMMU forgets");
    };
    rig.close(strict);
}

#[test]
fn buffers_of_a_lazy_device_behind_a_hung_smmu_come_back_after_a_reset() {
    let rig = Rig::coherent(42);
    let config = LazyConfig {
        queue: 2,
        ..LazyConfig::default()
    };
    let Ok(domain) = Switched::lazy(rig.strict(), rig.machine.clone(), config) else {
        panic!("no memory");
    };
    let device = rig.device(rig.info(), &domain);
    rig.smmu.hang();
    let mut debts = Vec::new();
    for _ in 0..3 {
        let buffer = rig.buffer(4096, 0, 0x5a).take();
        let mapping = device.map::<Bidirectional>(buffer, NONE).unwrap();
        debts.push(device.unmap(mapping).unwrap());
    }
    // The last found no room, so its memory is owed until hardware has forgotten it.
    let last = debts.pop().unwrap();
    let proof = device.sync().unwrap();
    let last = device.redeem(last, &proof).unwrap_err().debt;
    rig.driver.reset().unwrap();
    device.redeem(last, &proof).unwrap();
    for debt in debts {
        device.redeem(debt, &proof).unwrap();
    }
    let Ok(strict) = domain.into_strict(&rig.machine.enter_cpu()) else {
        panic!("the SMMU forgets");
    };
    rig.close(strict);
}
