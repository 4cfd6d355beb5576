//! A static that is set once.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A value that is set once, and there for ever.
pub struct Once<T>(AtomicPtr<T>);

impl<T: Sync> Once<T> {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Sets it; the second value is leaked and the first one stays.
    pub fn set(&self, value: T) -> &T {
        let value = Box::into_raw(Box::new(value));
        let _ =
            self.0
                .compare_exchange(ptr::null_mut(), value, Ordering::AcqRel, Ordering::Acquire);
        self.get()
            .unwrap_or_else(|| unreachable!("it was just set"))
    }

    pub fn get(&self) -> Option<&T> {
        // SAFETY: null, or a leaked box that nobody changes.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}
