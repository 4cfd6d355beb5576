//! This process as a machine.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time;

use dmakit_addr::PhysRange;

use super::numbers::{self, Numbers};
use crate::{ConversionError, CpuGuard, CpuId, Instant, Platform, RawSpinLock};

/// A coherent machine whose CPUs are this process's threads and whose clock is the system's.
///
/// A thread has a CPU number from its first entry to its end, of its own while there are enough: all
/// but the last number are. The threads that come when those are taken share the last one, and wait
/// for each other in [`enter_cpu`](Platform::enter_cpu); a thread with a number of its own takes no
/// lock. Nothing here is deterministic: tests that must be use a simulated machine.
#[derive(Clone, Debug)]
pub struct HostPlatform {
    origin: time::Instant,
    numbers: Arc<Numbers>,
}

/// Proof of the calling thread's CPU number. While it is held nobody else has entered that CPU.
#[derive(Debug)]
pub struct ThreadCpu {
    cpu: CpuId,
    /// Where the number is shared: its lock is held.
    shared: Option<Arc<Numbers>>,
    not_send: PhantomData<*const ()>,
}

impl CpuGuard for ThreadCpu {
    #[inline]
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl Drop for ThreadCpu {
    #[inline]
    fn drop(&mut self) {
        if let Some(numbers) = &self.shared {
            // SAFETY: this guard took the lock, on this thread: it is not `Send`.
            unsafe { numbers.leave_last() }
        }
    }
}

impl HostPlatform {
    /// A machine of `cpus` CPUs (at least one).
    pub fn new(cpus: usize) -> Self {
        Self {
            origin: time::Instant::now(),
            numbers: Arc::new(Numbers::new(cpus.max(1))),
        }
    }

    /// Makes the calling thread CPU `cpu` of every host machine.
    ///
    /// It then takes no lock: whoever binds threads binds all that enter a machine, and sees to it
    /// that no two of one number have entered at once.
    pub fn bind_thread(cpu: CpuId) {
        numbers::bind(cpu.index() as u32);
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
        self.numbers.cpus()
    }

    /// # Panics
    /// Where another thread has held a guard of the same, shared number for a minute.
    #[inline]
    fn enter_cpu(&self) -> ThreadCpu {
        let (cpu, is_shared) = self.numbers.of_thread();
        if is_shared {
            self.numbers.enter_last();
        }
        ThreadCpu {
            cpu: CpuId::new(cpu),
            shared: is_shared.then(|| self.numbers.clone()),
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
