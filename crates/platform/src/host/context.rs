//! What the calling thread may do, and locks that check it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::RawSpinLock;

/// What keeps the calling thread from sleeping.
///
/// A simulated CPU has no interrupt flag, so each thread counts for itself: the interrupt-safe
/// locks it holds, the CPUs it has entered, the interrupt handlers it stands in. [`CheckedIrqLock`]
/// and [`CheckedSleepLock`] keep and check these counts; a machine adds the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadContext {
    /// Interrupt-safe locks held.
    pub irq_locks: u32,
    /// CPU guards held.
    pub cpu_guards: u32,
    /// Nested interrupt handlers.
    pub interrupts: u32,
}

/// Something done where it may not be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContextViolation {
    /// What was done.
    pub what: &'static str,
    /// Where.
    pub context: ThreadContext,
}

/// Who is told of violations.
pub type ViolationSink = Arc<dyn Fn(ContextViolation) + Send + Sync>;

/// A part of a thread's life that may not sleep; ends when dropped, on the same thread.
#[derive(Debug)]
pub struct AtomicScope {
    leave: fn(&mut ThreadContext),
    not_send: PhantomData<*const ()>,
}

thread_local! {
    static CONTEXT: Cell<ThreadContext> = const { Cell::new(ThreadContext {
        irq_locks: 0,
        cpu_guards: 0,
        interrupts: 0,
    }) };
    static IRQ_LOCKS_TAKEN: Cell<u64> = const { Cell::new(0) };
    static SINK: RefCell<Option<ViolationSink>> = const { RefCell::new(None) };
    // Its address is unlike that of any other live thread.
    static HERE: u8 = const { 0 };
}

impl ThreadContext {
    /// The calling thread's context.
    #[inline]
    pub fn current() -> Self {
        CONTEXT.get()
    }

    /// How many [`CheckedIrqLock`]s the calling thread has taken so far, for those who count costs.
    pub fn irq_locks_taken() -> u64 {
        IRQ_LOCKS_TAKEN.get()
    }

    /// Whether nothing forbids to sleep.
    #[inline]
    pub fn may_sleep(&self) -> bool {
        *self == Self::default()
    }

    /// From now on `sink` hears of this thread's violations. Without one they panic.
    pub fn report_to(sink: ViolationSink) {
        SINK.set(Some(sink));
    }

    /// Reports `what` where the thread may not sleep.
    #[inline]
    pub fn check_may_sleep(what: &'static str) {
        let context = Self::current();
        if !context.may_sleep() {
            Self::report(what);
        }
    }

    /// Reports `what` as done in a context where it may not be.
    ///
    /// # Panics
    /// Where nobody listens on this thread, see [`report_to`](Self::report_to).
    #[cold]
    pub fn report(what: &'static str) {
        let violation = ContextViolation {
            what,
            context: Self::current(),
        };
        // The sink runs outside the borrow: it may take checked locks of its own.
        match SINK.with_borrow(Clone::clone) {
            Some(sink) => sink(violation),
            None => panic!("{violation}"),
        }
    }

    /// Counts a CPU guard until the scope is dropped.
    #[inline]
    pub fn enter_cpu() -> AtomicScope {
        Self::change(|context| context.cpu_guards += 1);
        AtomicScope {
            leave: |context| context.cpu_guards -= 1,
            not_send: PhantomData,
        }
    }

    /// An interrupt handler until the scope is dropped. One that arrives while interrupts are off
    /// is a violation.
    pub fn enter_interrupt() -> AtomicScope {
        let Self {
            irq_locks,
            cpu_guards,
            ..
        } = Self::current();
        if irq_locks + cpu_guards > 0 {
            Self::report("an interrupt arrived while interrupts were off");
        }
        Self::change(|context| context.interrupts += 1);
        AtomicScope {
            leave: |context| context.interrupts -= 1,
            not_send: PhantomData,
        }
    }

    #[inline]
    fn change(change: impl FnOnce(&mut Self)) {
        let mut context = CONTEXT.get();
        change(&mut context);
        CONTEXT.set(context);
    }
}

impl Drop for AtomicScope {
    #[inline]
    fn drop(&mut self) {
        ThreadContext::change(self.leave);
    }
}

impl fmt::Display for ContextViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ThreadContext {
            irq_locks,
            cpu_guards,
            interrupts,
        } = self.context;
        write!(
            f,
            "{} ({irq_locks} interrupt-safe locks and {cpu_guards} CPU guards held, {interrupts} \
             interrupt handlers deep)",
            self.what
        )
    }
}

impl std::error::Error for ContextViolation {}

/// An address that no other live thread has.
#[inline]
pub(super) fn here() -> usize {
    HERE.with(|here| std::ptr::from_ref(here) as usize)
}

/// A spin lock that knows its owner, so that taking it twice panics rather than hangs.
struct OwnedLock {
    lock: RawSpinLock,
    owner: AtomicUsize,
}

impl OwnedLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self {
        lock: <RawSpinLock as lock_api::RawMutex>::INIT,
        owner: AtomicUsize::new(0),
    };

    #[inline]
    fn lock(&self, name: &str) {
        let here = here();
        // Only this thread stores its own address, so seeing it means that it holds the lock.
        assert!(
            self.owner.load(Ordering::Relaxed) != here,
            "a thread takes {name} that it already holds"
        );
        lock_api::RawMutex::lock(&self.lock);
        self.owner.store(here, Ordering::Relaxed);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        let taken = lock_api::RawMutex::try_lock(&self.lock);
        if taken {
            self.owner.store(here(), Ordering::Relaxed);
        }
        taken
    }

    /// # Safety
    /// The calling thread holds the lock.
    #[inline]
    unsafe fn unlock(&self) {
        self.owner.store(0, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { lock_api::RawMutex::unlock(&self.lock) }
    }
}

/// An interrupt-safe lock that counts itself in the [`ThreadContext`].
///
/// Taking one that the thread already holds panics instead of spinning for ever.
pub struct CheckedIrqLock(OwnedLock);

/// A sleeping lock that reports being taken where its taker may not sleep.
///
/// Trying counts as taking. Taking one that the thread already holds panics.
pub struct CheckedSleepLock(OwnedLock);

#[inline]
fn count_irq_lock() {
    ThreadContext::change(|context| context.irq_locks += 1);
    IRQ_LOCKS_TAKEN.set(IRQ_LOCKS_TAKEN.get() + 1);
}

// SAFETY: mutual exclusion is `RawSpinLock`'s; the rest only counts.
unsafe impl lock_api::RawMutex for CheckedIrqLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(OwnedLock::INIT);

    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        self.0.lock("an interrupt-safe lock");
        count_irq_lock();
    }

    #[inline]
    fn try_lock(&self) -> bool {
        let taken = self.0.try_lock();
        if taken {
            count_irq_lock();
        }
        taken
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, on this thread: the guard is not `Send`.
        unsafe { self.0.unlock() }
        ThreadContext::change(|context| context.irq_locks -= 1);
    }

    fn is_locked(&self) -> bool {
        lock_api::RawMutex::is_locked(&self.0.lock)
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawMutex for CheckedSleepLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(OwnedLock::INIT);

    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        ThreadContext::check_may_sleep("a sleeping lock was taken");
        self.0.lock("a sleeping lock");
    }

    #[inline]
    fn try_lock(&self) -> bool {
        ThreadContext::check_may_sleep("a sleeping lock was tried");
        self.0.try_lock()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, on this thread.
        unsafe { self.0.unlock() }
    }

    fn is_locked(&self) -> bool {
        lock_api::RawMutex::is_locked(&self.0.lock)
    }
}
