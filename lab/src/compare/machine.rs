//! The replayed machine: its time and its CPUs are the trace's, its IOMMU counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::PhysRange;
use dmakit_iommu::{Hardware, Invalidation, SyncError};
use dmakit_platform::host::{HostPlatform, ThreadCpu};
use dmakit_platform::{ConversionError, CpuId, Instant, Platform, RawSpinLock};

/// A machine whose clock stands where the trace is.
#[derive(Clone, Debug)]
pub struct Replayed {
    host: HostPlatform,
    now_ns: Arc<AtomicU64>,
}

impl Replayed {
    pub fn new(cpus: u32) -> Self {
        Self {
            host: HostPlatform::new(cpus as usize),
            now_ns: Arc::default(),
        }
    }

    /// Goes on to a moment of the trace, on one of its CPUs.
    pub fn go_to(&self, now_ns: u64, cpu: u32) {
        self.now_ns.fetch_max(now_ns, Ordering::Relaxed);
        HostPlatform::bind_thread(CpuId::new(cpu));
    }
}

impl Platform for Replayed {
    type IrqLock = RawSpinLock;
    type SleepLock = RawSpinLock;
    type CpuGuard<'a> = ThreadCpu;

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now_ns.load(Ordering::Relaxed))
    }

    fn cpu_count(&self) -> usize {
        self.host.cpu_count()
    }

    fn enter_cpu(&self) -> ThreadCpu {
        self.host.enter_cpu()
    }

    fn cache_line_bytes(&self) -> u64 {
        self.host.cache_line_bytes()
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

/// An IOMMU that takes a range in one command, as VT-d and SMMUv3.2 do, and counts.
#[derive(Debug, Default)]
pub struct Counting {
    pub invalidations: AtomicU64,
    pub syncs: AtomicU64,
}

impl Hardware for Counting {
    fn invalidate(&self, _what: &Invalidation) -> Result<(), SyncError> {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
