//! The spin lock and the host's CPU numbers, from several threads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuGuard, IrqMutex, Platform};

#[test]
fn no_increment_is_lost_under_the_lock() {
    let count: IrqMutex<HostPlatform, u64> = IrqMutex::<HostPlatform, u64>::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    *count.lock() += 1;
                }
            });
        }
    });
    assert_eq!(*count.lock(), 80_000);
}

#[test]
fn threads_get_cpus_of_their_own_while_there_are_enough() {
    let platform = HostPlatform::new(3);
    let (seen, all_in) = (Mutex::new(BTreeSet::new()), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let cpu = platform.enter_cpu();
                seen.lock().unwrap().insert(cpu.cpu());
                all_in.wait();
            });
        }
    });
    assert_eq!(seen.into_inner().unwrap().len(), 3);
}

#[test]
fn no_two_threads_are_inside_one_cpu_at_once() {
    for cpus in 1..4 {
        let platform = HostPlatform::new(cpus);
        let inside: Vec<AtomicU32> = (0..cpus).map(|_| AtomicU32::new(0)).collect();
        let all_in = Barrier::new(5);
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    all_in.wait();
                    for round in 0..300 {
                        let cpu = platform.enter_cpu();
                        let count = &inside[cpu.cpu().index()];
                        assert_eq!(count.fetch_add(1, Ordering::Relaxed), 0);
                        if round % 8 == 0 {
                            thread::yield_now();
                        }
                        // Once more, as a handler would.
                        assert_eq!(platform.enter_cpu().cpu(), cpu.cpu());
                        assert_eq!(count.fetch_sub(1, Ordering::Relaxed), 1);
                    }
                });
            }
        });
    }
}

#[test]
fn a_thread_keeps_its_cpu_of_each_machine() {
    let machines = [2, 3].map(HostPlatform::new);
    let cpus = || [0, 1].map(|at| machines[at].enter_cpu().cpu().index());
    assert_eq!((cpus(), cpus()), ([0, 0], [0, 0]));
    // Others come after it, on one of them in another order.
    thread::scope(|scope| {
        let other = scope.spawn(|| [0, 1, 0].map(|at| machines[at].enter_cpu().cpu().index()));
        assert_eq!(other.join().unwrap(), [1, 1, 1]);
    });
    assert_eq!(cpus(), [0, 0]);
}

#[test]
fn a_number_is_free_again_when_its_thread_ended() {
    let platform = HostPlatform::new(2);
    for _ in 0..3 {
        let platform = platform.clone();
        // Joined, and not by a scope, which does not wait for what a thread does last.
        let cpu = thread::spawn(move || platform.enter_cpu().cpu().index());
        assert_eq!(cpu.join().unwrap(), 0);
    }
}
