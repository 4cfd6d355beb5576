//! A tree that CPUs share.

use dmakit_platform::{IrqMutex, Platform};

use crate::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::tree::{Missing, Tree};

/// Bits of a word that hold an order, below a granule.
const ORDER_BITS: u32 = 8;

/// A tree under its lock, and beside it what can be known without: as the last who held the lock left
/// it. On cache lines of its own: the rest of a space is read by every CPU and written by none.
#[repr(align(128))]
pub(crate) struct SharedTree<P: Platform> {
    tree: IrqMutex<P, Tree>,
    /// Granules that are free.
    free: AtomicU64,
    /// One more than the order of the largest aligned block that is free; 0 where nothing is.
    room: AtomicU32,
    /// A [`Missing`].
    missing: AtomicU64,
}

impl<P: Platform> SharedTree<P> {
    pub(crate) fn new(tree: Tree) -> Self {
        Self {
            free: AtomicU64::new(tree.free_granules()),
            room: AtomicU32::new(tree.room()),
            missing: AtomicU64::new(to_word(tree.missing())),
            tree: IrqMutex::<P, _>::new(tree),
        }
    }

    /// Does something to the tree under the lock, with interrupts off.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Tree) -> R) -> R {
        let mut tree = self.tree.lock();
        let result = act(&mut tree);
        self.free.store(tree.free_granules(), Relaxed);
        self.room.store(tree.room(), Relaxed);
        self.missing.store(to_word(tree.missing()), Relaxed);
        result
    }

    /// Granules that are free, without the lock.
    #[inline]
    pub(crate) fn free_granules(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// Granules of the largest aligned block that is free, without the lock.
    pub(crate) fn largest_granules(&self) -> u64 {
        match self.room.load(Relaxed) {
            0 => 0,
            room => 1 << (room - 1),
        }
    }

    /// Whether a request for an aligned block of the order below `end` is known to find none: it
    /// need not take the lock.
    #[inline]
    pub(crate) fn rules_out(&self, order: u32, end: u64) -> bool {
        let word = self.missing.load(Relaxed);
        let missing = Missing {
            order: (word % (1 << ORDER_BITS)) as u32,
            end: word >> ORDER_BITS,
        };
        missing.rules_out(order, end)
    }
}

#[inline]
fn to_word(missing: Missing) -> u64 {
    // No granule is smaller than 4 KiB, so that its number has as many bits to spare.
    missing.end << ORDER_BITS | u64::from(missing.order)
}
