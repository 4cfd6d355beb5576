//! What a device's mappings have come to.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::Attributes;
use dmakit_platform::{CpuGuard, CpuSlot, PerCpu};

use crate::{LinkError, MapError};

/// A device's counters at one moment. Each is exact; together they are of no single moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DeviceStats {
    /// Mappings made.
    pub mapped: u64,
    /// Mappings ended.
    pub unmapped: u64,
    /// Of those made, how many bounced.
    pub bounced: u64,
    /// Bytes copied into bounce slots.
    pub bytes_copied_in: u64,
    /// Bytes copied out of bounce slots.
    pub bytes_copied_out: u64,
    /// Blocks of coherent memory given.
    pub coherent_allocated: u64,
    /// Blocks of coherent memory taken back.
    pub coherent_freed: u64,
    /// Mappings whose memory is lost, because hardware did not say that it has forgotten them.
    pub lost: u64,
    /// Mappings refused, by cause.
    pub failed: Failures,
    /// Of those refused, how many had said that failure would be nothing special
    /// ([`Attributes::NO_WARN`]).
    pub failed_expected: u64,
}

/// Refused mappings by cause.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures {
    /// The device has no pool, or was given slots out of its reach.
    pub unreachable: u64,
    /// The bounce pool had no room.
    pub pool: u64,
    /// The device's segment limits, or the room for a list.
    pub limits: u64,
    /// Coherence was required.
    pub coherence: u64,
    /// The domain had no addresses or table pages, or its hardware took no commands.
    pub domain: u64,
    /// The request made no sense: attributes, length.
    pub request: u64,
}

impl Failures {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.unreachable + self.pool + self.limits + self.coherence + self.domain + self.request
    }
}

impl DeviceStats {
    /// Mappings that nobody has ended. Forgotten ones stay among them for ever.
    pub fn live(&self) -> u64 {
        self.mapped.saturating_sub(self.unmapped)
    }

    /// Blocks of coherent memory that nobody has given back.
    pub fn coherent_live(&self) -> u64 {
        self.coherent_allocated.saturating_sub(self.coherent_freed)
    }
}

/// Mappings that one CPU made and ended.
#[derive(Default, Debug)]
struct CpuCounters {
    mapped: AtomicU64,
    unmapped: AtomicU64,
}

/// The counters behind [`DeviceStats`].
///
/// Relaxed: they order nothing. A mapping that does not bounce costs one increment at map and one
/// at unmap, of a line that is its CPU's own.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Empty where there was no memory for them.
    cpus: PerCpu<Box<[CpuSlot<CpuCounters>]>>,
    /// Those made and ended outside them.
    mapped: AtomicU64,
    unmapped: AtomicU64,
    bounced: AtomicU64,
    bytes_copied_in: AtomicU64,
    bytes_copied_out: AtomicU64,
    coherent_allocated: AtomicU64,
    coherent_freed: AtomicU64,
    unreachable: AtomicU64,
    pool: AtomicU64,
    limits: AtomicU64,
    coherence: AtomicU64,
    domain: AtomicU64,
    lost: AtomicU64,
    request: AtomicU64,
    failed_expected: AtomicU64,
}

impl Counters {
    /// Counters for a machine of `cpus` CPUs. May allocate memory.
    pub(crate) fn new(cpus: usize) -> Self {
        let mut slots = Vec::new();
        // Without memory one counter serves all CPUs.
        if slots.try_reserve_exact(cpus).is_ok() {
            slots.resize_with(cpus, CpuSlot::default);
        }
        Self {
            cpus: PerCpu::new(slots.into_boxed_slice()),
            mapped: AtomicU64::default(),
            unmapped: AtomicU64::default(),
            bounced: AtomicU64::default(),
            bytes_copied_in: AtomicU64::default(),
            bytes_copied_out: AtomicU64::default(),
            coherent_allocated: AtomicU64::default(),
            coherent_freed: AtomicU64::default(),
            unreachable: AtomicU64::default(),
            pool: AtomicU64::default(),
            limits: AtomicU64::default(),
            coherence: AtomicU64::default(),
            domain: AtomicU64::default(),
            lost: AtomicU64::default(),
            request: AtomicU64::default(),
            failed_expected: AtomicU64::default(),
        }
    }

    #[inline]
    pub(crate) fn mapped(&self) {
        add(&self.mapped, 1);
    }

    #[inline]
    pub(crate) fn unmapped(&self) {
        add(&self.unmapped, 1);
    }

    /// As [`mapped`](Self::mapped), where a CPU was entered.
    #[inline]
    pub(crate) fn mapped_on(&self, cpu: &impl CpuGuard) {
        match self.cpus.enter(cpu) {
            Some((own, _)) => add_own(&own.mapped),
            None => self.mapped(),
        }
    }

    /// As [`unmapped`](Self::unmapped), where a CPU was entered.
    #[inline]
    pub(crate) fn unmapped_on(&self, cpu: &impl CpuGuard) {
        match self.cpus.enter(cpu) {
            Some((own, _)) => add_own(&own.unmapped),
            None => self.unmapped(),
        }
    }

    pub(crate) fn bounced(&self) {
        add(&self.bounced, 1);
    }

    pub(crate) fn copied_in(&self, bytes: u64) {
        add(&self.bytes_copied_in, bytes);
    }

    pub(crate) fn copied_out(&self, bytes: u64) {
        add(&self.bytes_copied_out, bytes);
    }

    pub(crate) fn coherent_allocated(&self) {
        add(&self.coherent_allocated, 1);
    }

    pub(crate) fn coherent_freed(&self) {
        add(&self.coherent_freed, 1);
    }

    #[cold]
    pub(crate) fn lost(&self) {
        add(&self.lost, 1);
    }

    #[cold]
    pub(crate) fn failed(&self, error: &MapError, attributes: Attributes) {
        let cause = match error {
            MapError::NoBouncePool(_)
            | MapError::PoolOutOfReach { .. }
            | MapError::Unreachable { .. } => &self.unreachable,
            MapError::Bounce { .. } => &self.pool,
            MapError::Limits { .. }
            | MapError::TooLong { .. }
            | MapError::TooManySegments { .. }
            | MapError::Scattered { .. } => &self.limits,
            MapError::NotCoherent | MapError::WouldBounce(_) => &self.coherence,
            MapError::Domain(_) => &self.domain,
            MapError::Empty | MapError::Attributes(_) | MapError::LengthMismatch { .. } => {
                &self.request
            }
        };
        add(cause, 1);
        if attributes.contains(Attributes::NO_WARN) {
            add(&self.failed_expected, 1);
        }
    }

    /// A step of a request or window that failed.
    #[cold]
    pub(crate) fn step_failed(&self, error: &LinkError, attributes: Attributes) {
        match error {
            LinkError::Map(error) => self.failed(error, attributes),
            _ => {
                add(&self.request, 1);
                if attributes.contains(Attributes::NO_WARN) {
                    add(&self.failed_expected, 1);
                }
            }
        }
    }

    fn sum(&self, shared: &AtomicU64, of: impl Fn(&CpuCounters) -> &AtomicU64) -> u64 {
        let own = self.cpus.iter().map(|own| get(of(own)));
        own.fold(get(shared), u64::wrapping_add)
    }

    pub(crate) fn read(&self) -> DeviceStats {
        DeviceStats {
            mapped: self.sum(&self.mapped, |own| &own.mapped),
            unmapped: self.sum(&self.unmapped, |own| &own.unmapped),
            bounced: get(&self.bounced),
            bytes_copied_in: get(&self.bytes_copied_in),
            bytes_copied_out: get(&self.bytes_copied_out),
            coherent_allocated: get(&self.coherent_allocated),
            coherent_freed: get(&self.coherent_freed),
            lost: get(&self.lost),
            failed: Failures {
                unreachable: get(&self.unreachable),
                pool: get(&self.pool),
                limits: get(&self.limits),
                coherence: get(&self.coherence),
                domain: get(&self.domain),
                request: get(&self.request),
            },
            failed_expected: get(&self.failed_expected),
        }
    }
}

#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Nobody else writes it.
#[inline]
fn add_own(counter: &AtomicU64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(1), Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
