//! A device, as its driver sees the memory side of it.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::AlignMask;
use dmakit_platform::{Barrier, Platform};
use dmakit_swiotlb::{BouncePool, NoGrowth};

use crate::check::{Checker, Unchecked};
use crate::stats::Counters;
use crate::{
    CoherentSource, Debt, DeviceInfo, DeviceStats, DomainId, Epoch, PoolId, Proof, RedeemError,
    RedeemFailure, SegmentLimits, SyncError,
};

/// How a device's accesses reach memory.
///
/// A driver's code is the same on every path.
#[derive(Debug)]
#[non_exhaustive]
pub enum Path<'m, P: Platform, M = NoGrowth> {
    /// Straight to memory. What the device cannot use as it lies is refused.
    Direct,
    /// Straight to memory where the device can use it, else by way of a pool.
    Bounced {
        /// The pool.
        pool: &'m BouncePool<P, M>,
        /// The device's number in the pool.
        id: PoolId,
        /// Which mappings bounce.
        when: BounceWhen,
    },
}

impl<P: Platform, M> Clone for Path<'_, P, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform, M> Copy for Path<'_, P, M> {}

/// Which mappings bounce.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BounceWhen {
    /// Those that the device cannot use as they lie.
    Needed,
    /// All: a confidential guest, a restricted pool, `swiotlb=force`.
    Always,
}

/// A device, as its driver sees the memory side of it: makes, syncs and ends mappings.
///
/// Everything but coherent allocation and [`remove`](Self::remove) may be called in hard interrupts
/// and on any CPU: it takes `&self`, never sleeps, and does not allocate. `C` is a [`Checker`] that
/// watches what types cannot; by default nobody watches and nothing is paid.
pub struct Device<'m, P: Platform, M = NoGrowth, C = Unchecked> {
    pub(crate) platform: P,
    pub(crate) info: DeviceInfo<'m>,
    pub(crate) path: Path<'m, P, M>,
    pub(crate) coherent: CoherentSource<'m>,
    pub(crate) counters: Counters,
    pub(crate) checker: C,
    epoch: AtomicU64,
}

/// Mappings and coherent blocks that a removed device leaves behind. Their memory stays with the
/// device that may still use it: it is leaked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftBehind {
    /// Mappings that nobody ended.
    pub mappings: u64,
    /// Coherent blocks that nobody gave back.
    pub coherent: u64,
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the device leaves {} mappings and {} coherent blocks behind",
            self.mappings, self.coherent
        )
    }
}

impl core::error::Error for LeftBehind {}

impl<'m, P: Platform, M> Device<'m, P, M> {
    /// A device on `platform`, with coherent memory from `coherent`; unwatched.
    pub fn new(
        platform: P,
        info: DeviceInfo<'m>,
        path: Path<'m, P, M>,
        coherent: CoherentSource<'m>,
    ) -> Self {
        Self {
            platform,
            info,
            path,
            coherent,
            counters: Counters::default(),
            checker: Unchecked,
            epoch: AtomicU64::new(0),
        }
    }

    /// The same device, watched by `checker`. For a device without mappings: earlier ones would be
    /// unknown to the checker.
    pub fn watched<C: Checker<'m>>(self, checker: C) -> Device<'m, P, M, C> {
        Device {
            platform: self.platform,
            info: self.info,
            path: self.path,
            coherent: self.coherent,
            counters: self.counters,
            checker,
            epoch: self.epoch,
        }
    }
}

impl<'m, P: Platform, M, C: Checker<'m>> Device<'m, P, M, C> {
    /// What is known of the device.
    pub fn info(&self) -> &DeviceInfo<'m> {
        &self.info
    }

    /// How it reaches memory.
    pub fn path(&self) -> Path<'m, P, M> {
        self.path
    }

    /// Who watches.
    pub fn checker(&self) -> &C {
        &self.checker
    }

    /// Its counters now.
    pub fn stats(&self) -> DeviceStats {
        self.counters.read()
    }

    /// Changes what the device takes as one segment. Holds for mappings made from now on: those
    /// that live go by what was recorded when they were made.
    pub fn set_limits(&mut self, limits: SegmentLimits) {
        self.info.limits = limits;
    }

    /// Changes which low address bits matter. Holds for mappings made from now on.
    pub fn set_min_align(&mut self, min_align: AlignMask) {
        self.info.min_align = min_align;
    }

    /// Orders memory accesses as the device sees them: [`Barrier::BeforeDevice`] before the doorbell
    /// or valid bit that hands it a descriptor, [`Barrier::AfterDevice`] after the read that says it
    /// is done.
    #[inline]
    pub fn barrier(&self, barrier: Barrier) {
        self.platform.barrier(barrier);
    }

    /// The domain whose syncs pay this device's debts.
    #[inline]
    pub fn domain(&self) -> DomainId {
        match self.path {
            Path::Direct | Path::Bounced { .. } => DomainId::Device(self.info.id),
        }
    }

    /// The epoch in which a buffer unmapped now owes.
    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        // Relaxed: without translation a sync waits for nothing, so it orders nothing either.
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Makes everything that was unmapped before this call unreachable for the device. O(1); one
    /// atomic increment where nothing translates.
    ///
    /// Without translation nothing can take a device's reach away: the proof says that the driver,
    /// who unmapped, knew the device to be done.
    ///
    /// # Errors
    /// [`SyncError`], where the hardware did not answer in time; never without translation.
    pub fn sync(&self) -> Result<Proof, SyncError> {
        let completed = Epoch(self.epoch.fetch_add(1, Ordering::Relaxed));
        Ok(Proof {
            domain: self.domain(),
            completed,
        })
    }

    /// The memory of a debt that `proof` pays. Never sleeps; O(1).
    ///
    /// # Errors
    /// [`RedeemFailure`] with the debt where the proof is of another domain or of a sync that began
    /// before the buffer was unmapped, or the debt is another device's.
    pub fn redeem<B>(&self, debt: Debt<B>, proof: &Proof) -> Result<B, RedeemFailure<B>> {
        let error = if debt.device != self.info.id {
            RedeemError::ForeignDebt {
                owner: debt.device,
                device: self.info.id,
            }
        } else if debt.domain != proof.domain {
            RedeemError::ForeignProof {
                owed: debt.domain,
                proof: proof.domain,
            }
        } else if debt.since > proof.completed {
            RedeemError::OlderProof {
                owed: debt.since,
                completed: proof.completed,
            }
        } else {
            return Ok(debt.memory);
        };
        Err(RedeemFailure { error, debt })
    }

    /// Takes the device away: the driver has stopped it and unmapped everything.
    ///
    /// # Errors
    /// [`LeftBehind`], with the numbers, where something lives on; it is leaked then. The checker,
    /// where there is one, names each.
    pub fn remove(self) -> Result<DeviceStats, LeftBehind> {
        self.checker.removed(&self.info);
        let stats = self.stats();
        let left = LeftBehind {
            mappings: stats.live(),
            coherent: stats.coherent_live(),
        };
        if left.mappings + left.coherent > 0 {
            return Err(left);
        }
        Ok(stats)
    }
}

impl<P: Platform, M, C> fmt::Debug for Device<'_, P, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?}, {})", self.info.name, self.info.id)
    }
}
