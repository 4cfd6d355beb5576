//! A tree that CPUs share.

use dmakit_platform::{IrqMutex, Platform};

use crate::sync::{AtomicU64, Ordering::Relaxed};
use crate::tree::Tree;

/// Bits of a word that hold an order.
const ORDER_BITS: u32 = 8;

/// A tree under its lock, and beside it what can be known without.
pub(crate) struct SharedTree<P: Platform> {
    tree: IrqMutex<P, Tree>,
    /// An [`Idle`], as the last to hold the lock left it.
    idle: AtomicU64,
}

/// What a tree had free at some moment.
#[derive(Clone, Copy)]
pub(crate) struct Idle(u64);

impl Idle {
    fn of(tree: &Tree) -> Self {
        Self(tree.free_granules() << ORDER_BITS | u64::from(tree.room()))
    }

    /// Granules that were free.
    #[inline]
    pub(crate) fn granules(self) -> u64 {
        self.0 >> ORDER_BITS
    }

    /// Whether some aligned block of the order was free.
    #[inline]
    pub(crate) fn has_room(self, order: u32) -> bool {
        u64::from(order) < self.0 % (1 << ORDER_BITS)
    }
}

impl<P: Platform> SharedTree<P> {
    pub(crate) fn new(tree: Tree) -> Self {
        Self {
            idle: AtomicU64::new(Idle::of(&tree).0),
            tree: IrqMutex::<P, _>::new(tree),
        }
    }

    /// Does something to the tree under the lock, with interrupts off.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Tree) -> R) -> R {
        let mut tree = self.tree.lock();
        let result = act(&mut tree);
        self.idle.store(Idle::of(&tree).0, Relaxed);
        result
    }

    /// What is free, without the lock: a request that this rules out fails at the cost of a load.
    #[inline]
    pub(crate) fn idle(&self) -> Idle {
        Idle(self.idle.load(Relaxed))
    }
}
