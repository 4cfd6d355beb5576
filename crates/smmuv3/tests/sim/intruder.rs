//! Another CPU, which comes at the worst moment.

use std::sync::{Arc, OnceLock, Weak};

use dmakit_platform::Mmio;
use dmakit_sim::SimSmmu;

use crate::rig::{Driver, Rig};

/// Whether the moment has come, by what was read where.
type Comes = dyn Fn(&SimSmmu, u64, u32) -> bool + Send + Sync;

/// What another CPU does with the driver.
type Act = fn(&Driver<Intruded>);

/// The driver whose registers these are, once it is there.
type Link = Arc<OnceLock<Weak<Driver<Intruded>>>>;

/// Registers behind which another CPU acts, on this one's stack, after a read that `comes` picks.
#[derive(Clone)]
pub struct Intruded {
    inner: SimSmmu,
    driver: Link,
    comes: Arc<Comes>,
    act: Act,
}

/// A driver over such registers.
pub fn intruded(
    rig: &Rig,
    comes: impl Fn(&SimSmmu, u64, u32) -> bool + Send + Sync + 'static,
    act: Act,
) -> Arc<Driver<Intruded>> {
    let link = Link::default();
    let driver = Arc::new(rig.driver_over(Intruded {
        inner: rig.smmu.clone(),
        driver: link.clone(),
        comes: Arc::new(comes),
        act,
    }));
    link.set(Arc::downgrade(&driver)).unwrap();
    driver
}

impl Mmio for Intruded {
    fn read32(&self, offset: u64) -> u32 {
        let value = self.inner.read32(offset);
        let driver = self.driver.get().and_then(Weak::upgrade);
        if let Some(driver) = driver.filter(|_| (self.comes)(&self.inner, offset, value)) {
            (self.act)(&driver);
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
