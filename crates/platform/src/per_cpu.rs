//! State that belongs to one CPU.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::{CpuGuard, CpuId};

/// One CPU's part of a [`PerCpu`], on cache lines of its own.
///
/// 128 bytes because adjacent lines are fetched in pairs on common machines.
#[repr(align(128))]
#[derive(Default, Debug)]
pub struct CpuSlot<T> {
    value: T,
    flush_wanted: AtomicBool,
}

impl<T> CpuSlot<T> {
    /// A slot that holds `value`.
    pub const fn new(value: T) -> Self {
        Self {
            value,
            flush_wanted: AtomicBool::new(false),
        }
    }
}

/// State of which each CPU has its own, in storage that the caller supplies.
///
/// Only a [`CpuGuard`] opens a slot, so its owner needs no lock and no atomic read-modify-write:
/// `T` is built of atomics that the owner loads and stores relaxed. Another CPU never reaches in;
/// it asks, with [`request_flush`](Self::request_flush), and the owner honours that when it next
/// enters (or when the embedder makes it enter).
#[derive(Debug)]
pub struct PerCpu<S> {
    slots: S,
}

impl<S> PerCpu<S> {
    /// Per-CPU state in `slots`, one for each CPU, in order.
    pub const fn new(slots: S) -> Self {
        Self { slots }
    }

    /// The slot of the CPU that was entered, and whether somebody asked for a flush since this was
    /// last called; `None` where the storage has fewer slots than the machine has CPUs.
    #[inline]
    pub fn enter<T>(&self, guard: &impl CpuGuard) -> Option<(&T, bool)>
    where
        S: AsRef<[CpuSlot<T>]>,
    {
        let slot = self.slots.as_ref().get(guard.cpu().index())?;
        let wanted = slot.flush_wanted.load(Ordering::Relaxed)
            && slot.flush_wanted.swap(false, Ordering::Acquire);
        Some((&slot.value, wanted))
    }

    /// Asks `cpu` to flush when it next enters. An unknown CPU has nothing to flush.
    pub fn request_flush<T>(&self, cpu: CpuId)
    where
        S: AsRef<[CpuSlot<T>]>,
    {
        if let Some(slot) = self.slots.as_ref().get(cpu.index()) {
            slot.flush_wanted.store(true, Ordering::Release);
        }
    }

    /// The slots in the order of their CPUs, for sums of counters: each is exact, the sum is as
    /// of no single moment.
    pub fn iter<'a, T: 'a>(&'a self) -> impl Iterator<Item = &'a T>
    where
        S: AsRef<[CpuSlot<T>]>,
    {
        self.slots.as_ref().iter().map(|slot| &slot.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    struct On(u32);

    impl CpuGuard for On {
        fn cpu(&self) -> CpuId {
            CpuId::new(self.0)
        }
    }

    #[test]
    fn a_cpu_sees_only_its_own_slot() {
        let state: PerCpu<[CpuSlot<AtomicU64>; 2]> = PerCpu::new(Default::default());
        state.enter(&On(1)).unwrap().0.store(7, Ordering::Relaxed);
        assert_eq!(state.enter(&On(0)).unwrap().0.load(Ordering::Relaxed), 0);
        assert_eq!(
            state.iter().map(|v| v.load(Ordering::Relaxed)).sum::<u64>(),
            7
        );
        assert!(state.enter(&On(2)).is_none());
    }

    #[test]
    fn a_flush_request_reaches_its_owner_once() {
        let state: PerCpu<[CpuSlot<AtomicU64>; 2]> = PerCpu::new(Default::default());
        state.request_flush(CpuId::new(1));
        assert!(!state.enter(&On(0)).unwrap().1);
        assert!(state.enter(&On(1)).unwrap().1);
        assert!(!state.enter(&On(1)).unwrap().1);
    }
}
