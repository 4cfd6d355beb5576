//! A full ring, an illegal command, and another CPU at the worst moment.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dmakit_platform::Mmio;
use dmakit_sim::SimSmmu;
use dmakit_smmuv3::Tag;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::spec::registers::{GERROR, GERRORN};

use crate::rig::{Driver, Rig, Shape};

const DONE: u32 = 0;
const ARMED: u32 = 1;
const NEXT: u32 = 2;

/// Registers that let another CPU fill the ring when errors are read once more after one was seen:
/// the queue was let go of then, so that the illegal command can be replaced.
#[derive(Clone)]
struct Intruded {
    inner: SimSmmu,
    driver: Arc<OnceLock<Weak<Driver<Intruded>>>>,
    state: Arc<AtomicU32>,
}

impl Mmio for Intruded {
    fn read32(&self, offset: u64) -> u32 {
        let value = self.inner.read32(offset);
        if offset != GERROR {
            return value;
        }
        let state = self.state.load(Ordering::Relaxed);
        let is_stopped = (value ^ self.inner.read32(GERRORN)) & 1 != 0;
        if state == ARMED && is_stopped {
            self.state.store(NEXT, Ordering::Relaxed);
        }
        if state == NEXT {
            self.state.store(DONE, Ordering::Relaxed);
            if let Some(driver) = self.driver.get().and_then(Weak::upgrade) {
                for _ in 0..64 {
                    driver.invalidate_all(Tag::Asid(1)).unwrap();
                }
            }
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
fn room_is_looked_for_anew_after_others_had_the_queue() {
    for seed in 0..400 {
        let rig = Rig::new(seed, Shape::default());
        let regs = Intruded {
            inner: rig.smmu.clone(),
            driver: Arc::default(),
            state: Arc::default(),
        };
        let (link, state) = (regs.driver.clone(), regs.state.clone());
        let driver = Arc::new(rig.driver_over(regs));
        link.set(Arc::downgrade(&driver)).unwrap();
        let before = rig.smmu.consumed(0x30);
        // The ring is full behind a command at which the SMMU stops.
        let mut commands = vec![command::TLBI_NSNH_ALL; 65];
        commands[0] = [0xfe, 0];
        state.store(ARMED, Ordering::Relaxed);
        driver.execute(commands).unwrap();
        assert_eq!(state.load(Ordering::Relaxed), DONE, "the moment came");
        assert_eq!(rig.smmu.consumed(0x11), 64, "seed {seed}");
        assert_eq!(rig.smmu.consumed(0x30) - before, 64, "seed {seed}");
    }
}
