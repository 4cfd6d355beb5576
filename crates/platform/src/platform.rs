//! The machine, as the stack sees it.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use dmakit_addr::PhysRange;
use lock_api::RawMutex;

use crate::Instant;

/// A cheap handle to one machine; several machines may live in one process.
///
/// A clone stands for the same machine. Every method but the locks' own may be called in hard
/// interrupts, and none sleeps, unless it says otherwise.
///
/// What an implementor promises, and the stack builds on:
/// * time from [`now`](Self::now) never goes back on one CPU;
/// * while a [`CpuGuard`] lives, nothing else runs on that CPU that could enter it too;
/// * cache maintenance is complete, for all observers, when the call returns;
/// * [`share`](Self::share) and [`unshare`](Self::unshare) report failure rather than leave a range
///   half converted and say nothing.
///
/// A broken promise costs data, not memory safety: no `unsafe` code rests on this trait.
pub trait Platform: Clone + Send + Sync {
    /// A lock that map, unmap and sync may take in hard interrupts: taking it keeps this CPU's
    /// interrupts off until it is released.
    type IrqLock: RawMutex + Send + Sync;

    /// A lock for callers that may sleep: claims, growth, maintenance.
    type SleepLock: RawMutex + Send + Sync;

    /// See [`enter_cpu`](Self::enter_cpu).
    type CpuGuard<'a>: CpuGuard
    where
        Self: 'a;

    /// The present time.
    fn now(&self) -> Instant;

    /// How many CPUs can ever run: indices from [`CpuGuard::cpu`] are below it.
    fn cpu_count(&self) -> usize;

    /// Stays on the present CPU, and keeps its interrupts out, until the guard is dropped.
    fn enter_cpu(&self) -> Self::CpuGuard<'_>;

    /// Orders memory accesses as a device sees them.
    #[inline]
    fn barrier(&self, barrier: Barrier) {
        match barrier {
            Barrier::BeforeDevice => fence(Ordering::Release),
            Barrier::AfterDevice => fence(Ordering::Acquire),
            Barrier::Full => fence(Ordering::SeqCst),
        }
    }

    /// Bytes in a cache line of the last level that non-coherent devices bypass; a power of two.
    fn cache_line_bytes(&self) -> u64;

    /// Writes dirty lines of `range` back to memory, so that a non-coherent device reads what the
    /// CPU wrote.
    fn clean(&self, range: PhysRange);

    /// Drops the lines of `range`, so that the CPU reads what a non-coherent device wrote. Lines
    /// that `range` covers only in part lose their other bytes too: the caller sees to that.
    fn invalidate(&self, range: PhysRange);

    /// [`clean`](Self::clean), then [`invalidate`](Self::invalidate), line by line.
    fn clean_invalidate(&self, range: PhysRange);

    /// Gives the untrusted host access to `range`, whole frames. May sleep. The contents are
    /// undefined afterwards. On a machine without such a host it does nothing.
    ///
    /// # Errors
    /// [`ConversionError`], after which the state of the range is unknown: it must be quarantined.
    fn share(&self, range: PhysRange) -> Result<(), ConversionError>;

    /// Takes back what [`share`](Self::share) gave. May sleep. The contents are undefined
    /// afterwards.
    ///
    /// # Errors
    /// [`ConversionError`], after which the state of the range is unknown: it must be quarantined.
    fn unshare(&self, range: PhysRange) -> Result<(), ConversionError>;
}

/// Proof that this CPU runs nothing else until the guard is dropped.
///
/// Implementors are not `Send`: dropping one on another CPU would release the wrong one.
pub trait CpuGuard {
    /// The CPU that was entered.
    fn cpu(&self) -> CpuId;
}

/// A CPU, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(u32);

impl CpuId {
    /// CPU number `index`.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its number, for indexing tables by CPU.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What must have become visible before what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Barrier {
    /// The CPU's earlier writes, before a write that hands them to a device (a doorbell, a valid
    /// bit).
    BeforeDevice,
    /// A read that says the device is done, before the CPU's reads of what it wrote.
    AfterDevice,
    /// Everything before, against everything after.
    Full,
}

/// Memory whose sharing with the host could not be changed; its state is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConversionError {
    /// What was to be converted.
    pub range: PhysRange,
}

impl fmt::Display for ConversionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the sharing state of {} could not be changed",
            self.range
        )
    }
}

impl core::error::Error for ConversionError {}
