//! What is done when a device interrupts.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_platform::IrqMutex;

use crate::board::Board;

/// Called with interrupts off.
pub type Handler = Box<dyn FnMut() + Send>;

static HANDLERS: IrqMutex<Board, Vec<(u32, Handler)>> = IrqMutex::<Board, _>::new(Vec::new());

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Interrupts of devices taken so far.
pub fn taken() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// Calls `handler` whenever the interrupt of this number is taken.
pub fn add(number: u32, handler: Handler) {
    HANDLERS.lock().push((number, handler));
}

/// Takes a device's interrupt.
pub fn call(number: u32) {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    let mut handlers = HANDLERS.lock();
    if let Some((_, handler)) = handlers.iter_mut().find(|(known, _)| *known == number) {
        handler();
    }
}
