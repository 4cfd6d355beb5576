//! The spin lock and the host's CPU numbers, from several threads.

use std::collections::BTreeSet;
use std::sync::Mutex;
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
    let seen = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| seen.lock().unwrap().insert(platform.enter_cpu().cpu()));
        }
    });
    assert_eq!(seen.into_inner().unwrap().len(), 3);
}
