//! A device, as its driver sees the memory side of it.

use core::fmt;

use dmakit_addr::AlignMask;
use dmakit_iommu::{Ticket, Untranslated};
use dmakit_platform::{Barrier, Platform};
use dmakit_swiotlb::{BouncePool, NoGrowth};

use crate::check::{Checker, Unchecked};
use crate::debt::Owed;
use crate::stats::Counters;
use crate::two_step::Owner;
use crate::{
    CoherentSource, Debt, DeviceInfo, DeviceStats, DomainId, Epoch, NoTranslation, PoolId, Proof,
    RedeemError, RedeemFailure, SegmentLimits, StrictDomain, SyncError, Translate, Trust, cache,
};

/// How a device's accesses reach memory.
///
/// A driver's code is the same on every path.
#[non_exhaustive]
pub enum Path<'m, P: Platform, M = NoGrowth, T = NoTranslation> {
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
    /// Through an IOMMU: whatever the memory, the device sees contiguous addresses within its reach.
    Translated {
        /// The domain that the device is attached to.
        domain: &'m T,
        /// A pool, with the device's number there, for what no granule may show the device: the
        /// edges of buffers of untrusted devices, lines that other data shares, and borrowed
        /// memory. Such mappings are refused without one.
        bounce: Option<(&'m BouncePool<P, M>, PoolId)>,
    },
}

impl<P: Platform, M, T> Clone for Path<'_, P, M, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform, M, T> Copy for Path<'_, P, M, T> {}

impl<P: Platform, M, T> fmt::Debug for Path<'_, P, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("Direct"),
            Self::Bounced { id, when, .. } => write!(f, "Bounced({id:?}, {when:?})"),
            Self::Translated { bounce: None, .. } => f.write_str("Translated"),
            Self::Translated { .. } => f.write_str("Translated, with a pool"),
        }
    }
}

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
///
/// `T` is the kind of domain that a [translated](Path::Translated) path leads through, which decides
/// whether unmapped memory is withheld (strict) or only addresses are (lazy).
pub struct Device<'m, P: Platform, M = NoGrowth, C = Unchecked, T = NoTranslation> {
    pub(crate) platform: P,
    pub(crate) info: DeviceInfo<'m>,
    pub(crate) path: Path<'m, P, M, T>,
    pub(crate) coherent: CoherentSource<'m>,
    pub(crate) counters: Counters,
    pub(crate) checker: C,
    /// Whose states it takes.
    pub(crate) owner: Owner,
    untranslated: Untranslated,
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

impl<'m, P: Platform, M, T: Translate> Device<'m, P, M, Unchecked, T> {
    /// A device on `platform`, with coherent memory from `coherent`; unwatched. May allocate memory.
    pub fn new(
        platform: P,
        info: DeviceInfo<'m>,
        path: Path<'m, P, M, T>,
        coherent: CoherentSource<'m>,
    ) -> Self {
        let counters = Counters::new(platform.cpu_count());
        let owner = match path {
            Path::Translated { domain, .. } => Owner::domain(domain.domain().id().0),
            Path::Direct | Path::Bounced { .. } => Owner::device(info.id),
        };
        Self {
            platform,
            info,
            path,
            coherent,
            counters,
            checker: Unchecked,
            owner,
            untranslated: Untranslated::new(info.id.raw()),
        }
    }

    /// The same device, watched by `checker`. For a device without mappings: earlier ones would be
    /// unknown to the checker.
    pub fn watched<C: Checker<'m>>(self, checker: C) -> Device<'m, P, M, C, T> {
        Device {
            platform: self.platform,
            info: self.info,
            path: self.path,
            coherent: self.coherent,
            counters: self.counters,
            checker,
            owner: self.owner,
            untranslated: self.untranslated,
        }
    }
}

impl<'m, P: Platform, M, C: Checker<'m>, T: Translate> Device<'m, P, M, C, T> {
    /// What is known of the device.
    pub fn info(&self) -> &DeviceInfo<'m> {
        &self.info
    }

    /// How it reaches memory.
    pub fn path(&self) -> Path<'m, P, M, T> {
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
        match self.strict_domain() {
            Some(domain) => domain.id(),
            None => self.untranslated.id(),
        }
    }

    /// The domain to which the device is attached.
    #[inline]
    pub(crate) fn translation(&self) -> Option<&'m T::Domain> {
        match self.path {
            Path::Translated { domain, .. } => Some(domain.domain()),
            Path::Direct | Path::Bounced { .. } => None,
        }
    }

    /// The domain, where its hardware must have forgotten a mapping before the memory is the CPU's
    /// again. Whoever is not trusted gets no time to use what was unmapped, whatever the domain.
    #[inline]
    pub(crate) fn strict_domain(&self) -> Option<&'m T::Domain> {
        match self.path {
            Path::Translated { domain, .. } => {
                let is_strict = !domain.is_lazy() || self.info.trust == Trust::Untrusted;
                is_strict.then(|| domain.domain())
            }
            Path::Direct | Path::Bounced { .. } => None,
        }
    }

    /// The pool of the path, and the device's number there.
    #[inline]
    pub(crate) fn pool(&self) -> Option<(&'m BouncePool<P, M>, PoolId)> {
        match self.path {
            Path::Direct => None,
            Path::Bounced { pool, id, .. } => Some((pool, id)),
            Path::Translated { bounce, .. } => bounce,
        }
    }

    /// The epoch in which a buffer unmapped now owes, where no domain keeps a ticket for it.
    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        self.untranslated.now()
    }

    /// Makes everything that was unmapped before this call unreachable for the device. Never sleeps.
    ///
    /// Through a strict domain this waits, for a bounded time, until hardware has forgotten all that
    /// was unmapped there. Otherwise it is one atomic increment: nothing can take the device's reach
    /// away, or the domain is lazy and does so when it flushes. The proof then says that the driver,
    /// who unmapped, knew the device to be done.
    ///
    /// # Errors
    /// [`SyncError`], where hardware did not answer in time; never without translation.
    #[inline]
    pub fn sync(&self) -> Result<Proof, SyncError> {
        match self.strict_domain() {
            Some(domain) => domain.sync(),
            None => Ok(self.untranslated.sync()),
        }
    }

    /// The memory of a debt that `proof` pays; addresses and table pages that waited with it are
    /// free again. Never sleeps; O(1), and O(tables) where some fell out of the tree.
    ///
    /// # Errors
    /// [`RedeemFailure`] with the debt where the proof is of another domain or of a sync that began
    /// before the buffer was unmapped, the debt is another device's, or its memory is
    /// [lost](RedeemError::Lost).
    #[inline]
    pub fn redeem<B>(&self, debt: Debt<B>, proof: &Proof) -> Result<B, RedeemFailure<B>> {
        let Debt {
            memory,
            device,
            domain,
            owed,
            stale_lines,
        } = debt;
        let (error, owed) = if device != self.info.id {
            let (owner, device) = (device, self.info.id);
            (RedeemError::ForeignDebt { owner, device }, owed)
        } else {
            match self.pay(domain, owed, proof) {
                Ok(()) => {
                    if let Some(each_run) = stale_lines {
                        each_run(&memory, &mut |run| {
                            cache::before_cpu_reads(&self.platform, run);
                        });
                    }
                    return Ok(memory);
                }
                Err(failure) => failure,
            }
        };
        let debt = Debt {
            memory,
            device,
            domain,
            owed,
            stale_lines,
        };
        Err(RedeemFailure { error, debt })
    }

    /// What memory of an ended mapping owes.
    #[inline]
    pub(crate) fn debt<B>(&self, memory: B, owed: Owed) -> Debt<B> {
        let domain = match owed {
            // Whatever the domain is by now: it may change from strict to lazy and back.
            Owed::Since(_) => self.untranslated.id(),
            _ => self.domain(),
        };
        Debt {
            memory,
            device: self.info.id,
            domain,
            owed,
            stale_lines: None,
        }
    }

    /// Pays what a debt of this device owes.
    #[inline]
    fn pay(&self, domain: DomainId, owed: Owed, proof: &Proof) -> Result<(), (RedeemError, Owed)> {
        match (owed, self.translation()) {
            (Owed::Paid, _) => Ok(()),
            (Owed::Since(epoch), translation) => match proof.pays(domain, epoch) {
                Ok(()) => Ok(()),
                // Unmapped lazily, so nothing was owed but a sync, and the domain is strict by now.
                Err(_) if translation.is_some_and(|domain| domain.id() == proof.domain()) => Ok(()),
                Err(unpaid) => Err((RedeemError::Unpaid(unpaid), Owed::Since(epoch))),
            },
            (Owed::Ticket(ticket), Some(domain)) => self.pay_ticket(domain, ticket, proof),
            // A ticket comes from the domain of the path, which never changes: with none, this is
            // as lost as what its domain has lost.
            (owed, _) => Err((RedeemError::Lost, owed)),
        }
    }

    fn pay_ticket(
        &self,
        domain: &T::Domain,
        ticket: Ticket,
        proof: &Proof,
    ) -> Result<(), (RedeemError, Owed)> {
        let cpu = self.platform.enter_cpu();
        let mut redeemed = domain.redeem(&cpu, ticket, proof);
        // Unmapped strictly, and the domain is lazy by now: the device's syncs ask no hardware.
        if proof.domain() == self.untranslated.id() {
            redeemed = redeemed.or_else(|failure| match domain.sync() {
                Ok(proof) => domain.redeem(&cpu, failure.ticket, &proof),
                Err(_) => Err(failure),
            });
        }
        redeemed.map_err(|failure| {
            let owed = Owed::Ticket(failure.ticket);
            (RedeemError::Unpaid(failure.error), owed)
        })
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

impl<P: Platform, M, C, T> fmt::Debug for Device<'_, P, M, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?}, {})", self.info.name, self.info.id)
    }
}
