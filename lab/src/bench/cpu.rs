//! Staying on one CPU, and its time.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Keeps the calling thread on CPU `cpu`; whether the system agreed.
pub fn pin(cpu: usize) -> bool {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return false;
    }
    set.set(cpu);
    sched_setaffinity(None, &set).is_ok()
}

/// A moment of the calling thread's own time: what other programs take of its CPU does not count.
#[derive(Clone, Copy)]
pub struct ThreadTime(f64);

impl ThreadTime {
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
    }

    /// Nanoseconds since then.
    pub fn elapsed_ns(self) -> f64 {
        Self::now().0 - self.0
    }
}
