//! Blocks on their way from one CPU to another.

use alloc::vec::Vec;
use dmakit_platform::{IrqMutex, Platform};

use crate::cache::{BINS, CLASSES, MAGAZINE};
use crate::extent::Class;
use crate::sync::{AtomicU64, Ordering::Relaxed};

/// Full magazines of one class that the space keeps for whichever CPU runs short.
const DEPOT: usize = 4;

/// Where blocks of one class start, as many as pass at once.
pub(crate) type Magazine = [u64; MAGAZINE];

/// Full magazines, for whichever CPU runs short. On cache lines of their own, as they are written by
/// several CPUs.
#[repr(align(128))]
pub(crate) struct Depots<P: Platform> {
    /// By class, from the smallest that is cached.
    depots: Vec<Depot<P>>,
    /// How many magazines they hold; a hint for those who hold no lock. Between a magazine and its
    /// count others may come in, so that it may wrap for a moment.
    held: AtomicU64,
}

/// Full magazines of one class.
struct Depot<P: Platform> {
    magazines: IrqMutex<P, Vec<Magazine>>,
    /// No block held starts below this; `u64::MAX` where none is held. A hint for those who do not
    /// hold the lock.
    lowest: AtomicU64,
}

impl<P: Platform> Depots<P> {
    /// Bytes that they occupy.
    pub(crate) const BYTES: usize = BINS * DEPOT * size_of::<Magazine>();

    /// Empty depots; `None` where there is no memory.
    pub(crate) fn new() -> Option<Self> {
        let mut depots = Vec::new();
        depots.try_reserve_exact(BINS).ok()?;
        for _ in CLASSES {
            depots.push(Depot::new()?);
        }
        Some(Self {
            depots,
            held: AtomicU64::new(0),
        })
    }

    /// Keeps a magazine of a class; false where there is no place.
    pub(crate) fn push(&self, class: Class, starts: &Magazine) -> bool {
        let kept = self.depot(class).is_some_and(|depot| depot.push(starts));
        if kept {
            self.held.fetch_add(1, Relaxed);
        }
        kept
    }

    /// A magazine of a class, unless none of it lies below `end`.
    pub(crate) fn pop(&self, class: Class, end: u64) -> Option<Magazine> {
        let starts = self.depot(class)?.pop(end)?;
        self.held.fetch_sub(1, Relaxed);
        Some(starts)
    }

    /// A magazine of any class, and which, some of which may lie below `end`.
    pub(crate) fn pop_any(&self, end: u64) -> Option<(Class, Magazine)> {
        if self.held.load(Relaxed) == 0 {
            return None;
        }
        CLASSES
            .clone()
            .find_map(|class| Some((class, self.pop(class, end)?)))
    }

    /// Bytes held, as blocks.
    pub(crate) fn bytes(&self) -> u64 {
        let held = |depot: &Depot<P>| (depot.magazines.lock().len() * MAGAZINE) as u64;
        CLASSES
            .zip(&self.depots)
            .map(|(class, depot)| held(depot) << class)
            .sum()
    }

    fn depot(&self, class: Class) -> Option<&Depot<P>> {
        let index = class.checked_sub(CLASSES.start)?;
        self.depots.get(index as usize)
    }
}

impl<P: Platform> Depot<P> {
    fn new() -> Option<Self> {
        let mut magazines = Vec::new();
        magazines.try_reserve_exact(DEPOT).ok()?;
        Some(Self {
            magazines: IrqMutex::<P, _>::new(magazines),
            lowest: AtomicU64::new(u64::MAX),
        })
    }

    fn push(&self, starts: &Magazine) -> bool {
        let mut magazines = self.magazines.lock();
        if magazines.len() == DEPOT {
            return false;
        }
        magazines.push(*starts);
        let lowest = starts.iter().copied().min().unwrap_or(u64::MAX);
        self.lowest
            .store(self.lowest.load(Relaxed).min(lowest), Relaxed);
        true
    }

    fn pop(&self, end: u64) -> Option<Magazine> {
        if self.lowest.load(Relaxed) >= end {
            return None;
        }
        let mut magazines = self.magazines.lock();
        let starts = magazines.pop();
        if magazines.is_empty() {
            self.lowest.store(u64::MAX, Relaxed);
        }
        starts
    }
}
