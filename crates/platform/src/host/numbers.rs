//! Which thread is which CPU of a host machine.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lock_api::{GetThreadId, RawReentrantMutex};

use super::context::here;
use crate::RawSpinLock;

/// How long a thread waits for a shared number before it takes the holder for stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The CPU numbers of one machine.
///
/// A number is a thread's own until that thread ends, but for the last: whoever finds no other has
/// that one too, so that everybody who has it takes its lock.
pub(crate) struct Numbers {
    /// Unlike that of any other machine of this process.
    machine: u64,
    /// For all numbers but the last, whether a thread has it.
    taken: Mutex<Vec<bool>>,
    last: u32,
    lock: RawReentrantMutex<RawSpinLock, ThreadAddress>,
}

/// What the calling thread is on the machine that it entered last.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// On every machine.
    Bound(u32),
    Number {
        machine: u64,
        cpu: u32,
    },
}

/// A thread's numbers on all machines that it entered.
struct Held(Vec<(Weak<Numbers>, u32)>);

thread_local! {
    static KNOWN: Cell<Known> = const { Cell::new(Known::Nothing) };
    static HELD: RefCell<Held> = const { RefCell::new(Held(Vec::new())) };
}

/// Makes the calling thread CPU `cpu` everywhere.
pub(crate) fn bind(cpu: u32) {
    KNOWN.set(Known::Bound(cpu));
}

impl Numbers {
    pub(crate) fn new(cpus: usize) -> Self {
        static MACHINES: AtomicU64 = AtomicU64::new(0);
        Self {
            machine: MACHINES.fetch_add(1, Ordering::Relaxed),
            taken: Mutex::new(vec![false; cpus - 1]),
            last: cpus as u32 - 1,
            lock: RawReentrantMutex::INIT,
        }
    }

    pub(crate) fn cpus(&self) -> usize {
        self.last as usize + 1
    }

    /// The calling thread's number, and whether others may have it too.
    #[inline]
    pub(crate) fn of_thread(self: &Arc<Self>) -> (u32, bool) {
        match KNOWN.get() {
            Known::Bound(cpu) if cpu <= self.last => (cpu, false),
            Known::Bound(cpu) => (cpu % (self.last + 1), false),
            Known::Number { machine, cpu } if machine == self.machine => (cpu, cpu == self.last),
            _ => self.find(),
        }
    }

    /// As [`of_thread`](Self::of_thread), for a thread that was elsewhere before.
    #[cold]
    fn find(self: &Arc<Self>) -> (u32, bool) {
        // A thread that is ending has no list any more.
        let found = HELD.try_with(|held| held.borrow_mut().number(self));
        let cpu = found.unwrap_or(self.last);
        let machine = self.machine;
        KNOWN.set(Known::Number { machine, cpu });
        (cpu, cpu == self.last)
    }

    /// A number that no thread has, else the last.
    fn take(&self) -> u32 {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.iter().position(|taken| !taken) {
            Some(cpu) => {
                taken[cpu] = true;
                cpu as u32
            }
            None => self.last,
        }
    }

    fn give(&self, cpu: u32) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(cpu as usize) {
            *taken = false;
        }
    }

    /// Waits until no other thread is inside the last CPU. A thread may enter again while inside.
    pub(crate) fn enter_last(&self) {
        let mut started = None;
        while !self.lock.try_lock() {
            let started = *started.get_or_insert_with(Instant::now);
            assert!(
                started.elapsed() < PATIENCE,
                "a thread waits for CPU {}, which another one does not leave",
                self.last
            );
            thread::yield_now();
        }
    }

    /// # Safety
    /// The calling thread entered, and leaves once for each time.
    pub(crate) unsafe fn leave_last(&self) {
        // SAFETY: as promised by the caller.
        unsafe { self.lock.unlock() }
    }
}

impl Held {
    fn number(&mut self, of: &Arc<Numbers>) -> u32 {
        let is_it = |entry: &&(Weak<Numbers>, u32)| std::ptr::eq(entry.0.as_ptr(), Arc::as_ptr(of));
        if let Some((_, cpu)) = self.0.iter().find(is_it) {
            return *cpu;
        }
        self.0.retain(|(numbers, _)| numbers.strong_count() > 0);
        let cpu = of.take();
        self.0.push((Arc::downgrade(of), cpu));
        cpu
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (numbers, cpu) in &self.0 {
            if let Some(numbers) = numbers.upgrade() {
                numbers.give(*cpu);
            }
        }
        // What runs after this on an ending thread has no number of its own.
        if let Known::Number { .. } = KNOWN.get() {
            KNOWN.set(Known::Nothing);
        }
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers")
            .field("machine", &self.machine)
            .field("cpus", &self.cpus())
            .finish_non_exhaustive()
    }
}

/// A thread by an address that is its own.
struct ThreadAddress;

// SAFETY: no two live threads have the same address, and it stays a thread's for its life.
unsafe impl GetThreadId for ThreadAddress {
    const INIT: Self = Self;

    #[inline]
    fn nonzero_thread_id(&self) -> NonZeroUsize {
        // Nothing lives at address 0.
        NonZeroUsize::new(here()).unwrap_or(NonZeroUsize::MAX)
    }
}
