//! A lock made of the model checker's.

use std::sync::OnceLock;

use loom::sync::{Condvar, Mutex};

/// A lock whose takers sleep: the checker never lets one that spins starve its holder.
#[derive(Debug)]
pub struct LoomLock(OnceLock<(Mutex<bool>, Condvar)>);

impl LoomLock {
    fn parts(&self) -> &(Mutex<bool>, Condvar) {
        // The checker's locks cannot be made in a constant: the first to look makes it.
        self.0.get_or_init(|| (Mutex::new(false), Condvar::new()))
    }
}

// SAFETY: `held` goes from false to true under a mutex, by one taker, and back only in `unlock`.
unsafe impl lock_api::RawMutex for LoomLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(OnceLock::new());

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        let (held, freed) = self.parts();
        let mut held = held.lock().unwrap();
        while *held {
            held = freed.wait(held).unwrap();
        }
        *held = true;
    }

    fn try_lock(&self) -> bool {
        let mut held = self.parts().0.lock().unwrap();
        !std::mem::replace(&mut *held, true)
    }

    unsafe fn unlock(&self) {
        let (held, freed) = self.parts();
        *held.lock().unwrap() = false;
        freed.notify_one();
    }
}
