//! A machine whose time is set by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::PhysRange;
use dmakit_platform::host::{CheckedIrqLock, CheckedSleepLock, HostPlatform, ThreadCpu};
use dmakit_platform::{ConversionError, Instant, Platform};

#[derive(Clone)]
pub struct Machine {
    host: HostPlatform,
    now: Arc<AtomicU64>,
}

impl Machine {
    pub fn new() -> Self {
        Self {
            host: HostPlatform::new(2),
            now: Arc::default(),
        }
    }

    /// Sleeps until `until`, or a little where that is beyond all time.
    pub fn sleep(&self, until: Instant) {
        let now = self.now.load(Relaxed);
        let until = match until.as_nanos() {
            u64::MAX => now + 1000,
            until => until.max(now + 1),
        };
        self.now.store(until, Relaxed);
    }
}

impl Platform for Machine {
    type IrqLock = CheckedIrqLock;
    type SleepLock = CheckedSleepLock;
    type CpuGuard<'a> = ThreadCpu;

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Relaxed))
    }

    fn cpu_count(&self) -> usize {
        self.host.cpu_count()
    }

    fn enter_cpu(&self) -> ThreadCpu {
        self.host.enter_cpu()
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    fn clean(&self, _range: PhysRange) {}

    fn invalidate(&self, _range: PhysRange) {}

    fn clean_invalidate(&self, _range: PhysRange) {}

    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}
