//! This process as a machine.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time;

use dmakit_addr::PhysRange;

use crate::{ConversionError, CpuGuard, CpuId, Instant, Platform, RawSpinLock};

/// A coherent machine whose CPUs are this process's threads and whose clock is the system's.
///
/// Threads get CPU numbers in the order in which they first enter; the machine has as many CPUs as
/// it was made with, and a thread too many shares one. Nothing here is deterministic: tests that
/// must be use a simulated machine.
#[derive(Clone, Debug)]
pub struct HostPlatform {
    origin: time::Instant,
    cpus: usize,
    next: Arc<AtomicUsize>,
}

/// Proof of the calling thread's CPU number.
#[derive(Debug)]
pub struct ThreadCpu {
    cpu: CpuId,
    not_send: PhantomData<*const ()>,
}

impl CpuGuard for ThreadCpu {
    #[inline]
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}

thread_local! {
    static CPU: Cell<Option<u32>> = const { Cell::new(None) };
}

impl HostPlatform {
    /// A machine of `cpus` CPUs (at least one).
    pub fn new(cpus: usize) -> Self {
        Self {
            origin: time::Instant::now(),
            cpus: cpus.max(1),
            next: Arc::default(),
        }
    }

    /// Makes the calling thread CPU `cpu` of every host machine.
    pub fn bind_thread(cpu: CpuId) {
        CPU.set(Some(cpu.index() as u32));
    }

    fn assign(&self) -> u32 {
        let cpu = (self.next.fetch_add(1, Ordering::Relaxed) % self.cpus) as u32;
        CPU.set(Some(cpu));
        cpu
    }
}

impl Platform for HostPlatform {
    type IrqLock = RawSpinLock;
    type SleepLock = RawSpinLock;
    type CpuGuard<'a> = ThreadCpu;

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn cpu_count(&self) -> usize {
        self.cpus
    }

    #[inline]
    fn enter_cpu(&self) -> ThreadCpu {
        let cpu = CPU.get().unwrap_or_else(|| self.assign());
        ThreadCpu {
            cpu: CpuId::new(cpu % self.cpus as u32),
            not_send: PhantomData,
        }
    }

    fn cache_line_bytes(&self) -> u64 {
        64
    }

    #[inline]
    fn clean(&self, _range: PhysRange) {}

    #[inline]
    fn invalidate(&self, _range: PhysRange) {}

    #[inline]
    fn clean_invalidate(&self, _range: PhysRange) {}

    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }

    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}
