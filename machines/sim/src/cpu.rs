//! The CPUs, and which of them a thread is.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dmakit_platform::host::{AtomicScope, ThreadContext};
use dmakit_platform::{CpuGuard, CpuId};

use crate::machine::Inner;

/// Proof that the calling thread is the only one on its CPU.
#[derive(Debug)]
pub struct MachineCpu<'a> {
    seat: &'a Seat,
    cpu: CpuId,
    _scope: AtomicScope,
    not_send: PhantomData<*const ()>,
}

/// A CPU, on which one thread runs at a time.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Token of the thread that has entered it, 0 for none.
    thread: AtomicU64,
    /// How often that thread has.
    depth: AtomicU32,
}

/// Tries to enter a CPU on which another thread runs, each giving up a time slice. A thread that
/// waits for this one while it stays on the CPU would wait for ever.
const TRIES_MAX: u32 = 1_000_000;

thread_local! {
    static TOKEN: Cell<u64> = const { Cell::new(0) };
    /// The machine on which the thread was last seen, and its CPU there.
    static BOUND: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// A number that no other thread of this process has.
fn token() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if TOKEN.get() == 0 {
        TOKEN.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    TOKEN.get()
}

impl Seat {
    pub(crate) fn enter(&self, cpu: CpuId) -> MachineCpu<'_> {
        let me = token();
        if self.thread.load(Ordering::Relaxed) != me {
            let mut tries = 0;
            while self
                .thread
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                tries += 1;
                assert!(
                    tries < TRIES_MAX,
                    "two threads wait for each other on CPU {}",
                    cpu.index()
                );
                std::thread::yield_now();
            }
        }
        self.depth.fetch_add(1, Ordering::Relaxed);
        MachineCpu {
            seat: self,
            cpu,
            _scope: ThreadContext::enter_cpu(),
            not_send: PhantomData,
        }
    }
}

impl CpuGuard for MachineCpu<'_> {
    fn cpu(&self) -> CpuId {
        self.cpu
    }
}

impl Drop for MachineCpu<'_> {
    fn drop(&mut self) {
        if self.seat.depth.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.seat.thread.store(0, Ordering::Release);
        }
    }
}

impl Inner {
    /// The calling thread's CPU. A thread that was given none takes the next free number, from 0,
    /// and shares it where there are more threads than CPUs.
    pub(crate) fn current_cpu(&self) -> u32 {
        let (machine, cpu) = BOUND.get();
        if machine == self.id {
            return cpu;
        }
        let mut threads = self.lock_threads();
        let next = threads.len() as u32 % self.seats.len() as u32;
        let cpu = *threads.entry(token()).or_insert(next);
        drop(threads);
        self.attach(cpu);
        cpu
    }

    /// Makes the calling thread one of this machine's, on `cpu`.
    pub(crate) fn bind(&self, cpu: u32) {
        self.lock_threads().insert(token(), cpu);
        self.attach(cpu);
    }

    fn attach(&self, cpu: u32) {
        BOUND.set((self.id, cpu));
        let violations = self.violations.clone();
        ThreadContext::report_to(std::sync::Arc::new(move |violation| {
            violations.push(crate::Violation::Context(violation));
        }));
    }
}
