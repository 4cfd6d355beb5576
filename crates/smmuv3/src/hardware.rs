//! What a domain sees of the SMMU.

use core::ops::Deref;

use dmakit_addr::Iova;
use dmakit_iommu::{
    DomainId, Fault, FaultReason, Hardware, Invalidation, InvalidationCosts, SyncError,
};
use dmakit_platform::{Mmio, Platform, TableMemory};

use crate::queue::COMMAND_TIME_MAX;
use crate::spec::event::{Event, EventKind};
use crate::{Context, RefusedCommand, Smmu, SyncFailure};

/// One context of an SMMU, as a domain's hardware. `S` is how the domain holds the SMMU: a
/// reference, or a counted one.
///
/// It owns the context, so that the tag cannot be given back while a domain lives that still has
/// debts of it: [`Domain::close`](dmakit_iommu::Domain::close) gives it out when there are none.
#[derive(Debug)]
pub struct Translation<S> {
    smmu: S,
    context: Context,
}

impl<S> Translation<S> {
    /// The translations of `context`.
    pub fn new(smmu: S, context: Context) -> Self {
        Self { smmu, context }
    }

    /// The context, to attach streams to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The context, to release it.
    pub fn into_context(self) -> Context {
        self.context
    }
}

impl<S, P, R, M> Hardware for Translation<S>
where
    S: Deref<Target = Smmu<P, R, M>> + Send + Sync,
    P: Platform,
    R: Mmio + Send + Sync,
    M: TableMemory + Send + Sync,
{
    #[inline]
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        Ok(self.smmu.invalidate(self.context.tag, what)?)
    }

    fn commands_for(&self, what: &Invalidation) -> u64 {
        self.smmu.commands_for(what)
    }

    fn costs(&self) -> InvalidationCosts {
        self.smmu.costs()
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        Ok(self.smmu.invalidate_all(self.context.tag)?)
    }

    #[inline]
    fn sync(&self) -> Result<(), SyncError> {
        Ok(self.smmu.sync()?)
    }

    fn assign(&mut self, domain: DomainId) {
        self.smmu.assign(self.context.tag, domain);
    }
}

impl From<SyncFailure> for SyncError {
    fn from(failure: SyncFailure) -> Self {
        match failure {
            SyncFailure::Timeout { consumed, target } => Self::Timeout {
                waited: COMMAND_TIME_MAX,
                executed: consumed,
                wanted: target,
            },
            SyncFailure::Refused(RefusedCommand { reason, command }) => {
                Self::Refused { reason, command }
            }
            SyncFailure::Service => Self::Failed,
        }
    }
}

/// All but the domain, which [`Smmu::take_faults`] adds.
impl From<Event> for Fault {
    fn from(event: Event) -> Self {
        let reason = match event.kind {
            EventKind::Translation => FaultReason::Unmapped,
            EventKind::Permission => FaultReason::Permission,
            EventKind::WalkAbort | EventKind::AddressSize | EventKind::AccessFlag => {
                FaultReason::Table
            }
            EventKind::Other(number) => FaultReason::Other(number.into()),
            _ => FaultReason::Device,
        };
        let translated = matches!(
            reason,
            FaultReason::Unmapped | FaultReason::Permission | FaultReason::Table
        );
        Self {
            domain: None,
            stream: event.stream,
            substream: event.substream,
            iova: translated.then(|| Iova::new(event.address)),
            is_write: translated.then_some(!event.is_read),
            reason,
        }
    }
}
