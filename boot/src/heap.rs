//! Memory for the kernel's own small tables: a stand-in for its slab allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use linked_list_allocator::Heap;

use crate::lock::IrqSpinLock;

const BYTES: usize = 8 << 20;

#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; BYTES]>);

// SAFETY: only the allocator behind the lock hands out parts of it.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; BYTES]));

struct LockedHeap(lock_api::Mutex<IrqSpinLock, Heap>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(lock_api::Mutex::const_new(
    <IrqSpinLock as lock_api::RawMutex>::INIT,
    Heap::empty(),
));

/// Makes the heap usable. Once, before anything allocates.
pub fn start() {
    // SAFETY: the arena is used by nobody else and lives for ever.
    unsafe { HEAP.0.lock().init(ARENA.0.get().cast(), BYTES) };
}

// SAFETY: `Heap` gives each block to one caller until it is freed, aligned as asked; the lock lets
// one caller in at a time.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.lock().allocate_first_fit(layout);
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller's promise: it came from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}
