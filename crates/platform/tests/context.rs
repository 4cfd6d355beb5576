//! What a thread may do, as hosted locks see it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use dmakit_platform::host::{CheckedIrqLock, CheckedSleepLock, ThreadContext};

type Irq<T> = lock_api::Mutex<CheckedIrqLock, T>;
type Sleep<T> = lock_api::Mutex<CheckedSleepLock, T>;

#[test]
#[should_panic(expected = "a sleeping lock was taken (1 interrupt-safe locks")]
fn a_violation_panics_where_nobody_listens() {
    let (irq, sleep) = (Irq::new(()), Sleep::new(()));
    let _irq = irq.lock();
    let _sleep = sleep.lock();
}

#[test]
fn the_listener_hears_what_was_done_and_where() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = heard.clone();
    ThreadContext::report_to(Arc::new(move |violation| {
        sink.lock().unwrap().push(violation);
    }));
    let (irq, sleep) = (Irq::new(()), Sleep::new(()));
    let interrupt = ThreadContext::enter_interrupt();
    let guard = ThreadContext::enter_cpu();
    drop(irq.lock());
    drop(sleep.lock());
    drop((guard, interrupt));
    drop(sleep.lock());
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].what, "a sleeping lock was taken");
    let context = heard[0].context;
    assert_eq!((context.cpu_guards, context.interrupts), (1, 1));
    assert_eq!(ThreadContext::current(), ThreadContext::default());
}

#[test]
fn a_checked_lock_admits_one_thread_at_a_time() {
    let lock = Irq::new(());
    let count = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let _held = lock.lock();
                    // No read-modify-write: only exclusion keeps the sum right.
                    let seen = count.load(Ordering::Relaxed);
                    count.store(seen + 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 40_000);
}
