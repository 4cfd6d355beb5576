//! Two errors at once, each acknowledged by another CPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dmakit_addr::DmaAddr;
use dmakit_platform::Mmio;
use dmakit_sim::SimSmmu;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::spec::registers::GERRORN;

use crate::rig::{Driver, Mutant, Rig, Shape};

/// Registers that let another CPU meet an illegal command, and wait for its replacement, right after
/// this one has read which errors were acknowledged.
#[derive(Clone)]
struct Intruded {
    inner: SimSmmu,
    driver: Arc<OnceLock<Weak<Driver<Intruded>>>>,
    is_armed: Arc<AtomicBool>,
}

impl Mmio for Intruded {
    fn read32(&self, offset: u64) -> u32 {
        let value = self.inner.read32(offset);
        if offset == GERRORN && self.is_armed.swap(false, Ordering::Relaxed) {
            let driver = self.driver.get().and_then(Weak::upgrade).unwrap();
            driver.execute([[0xfe, 0]]).unwrap();
        }
        value
    }

    fn read64(&self, offset: u64) -> u64 {
        self.inner.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.inner.write64(offset, value);
    }
}

#[test]
fn a_lost_record_and_a_refused_command_are_acknowledged_each_once() {
    for seed in 0..16 {
        let rig = Rig::new(seed, Shape::default());
        let regs = Intruded {
            inner: rig.smmu.clone(),
            driver: Arc::default(),
            is_armed: Arc::default(),
        };
        let (link, is_armed) = (regs.driver.clone(), regs.is_armed.clone());
        let driver = Arc::new(rig.driver_over(regs));
        link.set(Arc::downgrade(&driver)).unwrap();
        let domain = rig.domain(&driver, Mutant::Nothing);
        rig.smmu.fail_record_write();
        assert!(rig.device.write(DmaAddr::new(0x10_0000), &[1; 64]).is_err());
        is_armed.store(true, Ordering::Relaxed);
        let count = driver.take_events(|_| ());
        assert!(count.lost, "seed {seed}");
        assert!(!is_armed.load(Ordering::Relaxed), "the moment came");
        // Neither is active any more: commands go on, and none is taken for refused.
        driver.execute([command::TLBI_NSNH_ALL]).unwrap();
        assert_eq!(driver.command_counts().refused, 1, "seed {seed}");
        assert_eq!(driver.take_events(|_| ()), Default::default());
        drop(domain);
    }
}
