//! Memory under a mapping that ends.

use dmakit_addr::PhysRange;
use dmakit_platform::CopyTarget;

use crate::DmaMemory;

/// Memory under a mapping that ends.
pub(crate) trait Original {
    /// Where what the device wrote to slots goes.
    type Bytes: CopyTarget + ?Sized;

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_;

    fn bytes(&mut self) -> &mut Self::Bytes;
}

impl<B: DmaMemory> Original for B {
    type Bytes = B;

    #[inline]
    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        DmaMemory::runs(self)
    }

    #[inline]
    fn bytes(&mut self) -> &mut B {
        self
    }
}

/// One run, and its bytes.
pub(crate) struct OneRun<'a, B: ?Sized> {
    pub(crate) run: PhysRange,
    pub(crate) bytes: &'a mut B,
}

impl<B: CopyTarget + ?Sized> Original for OneRun<'_, B> {
    type Bytes = B;

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        core::iter::once(self.run)
    }

    fn bytes(&mut self) -> &mut B {
        self.bytes
    }
}

/// Runs of whose bytes nothing is wanted.
/// Runs of whose bytes nothing is wanted.
pub(super) struct Runs<I>(pub(super) I);

impl<I: Iterator<Item = PhysRange> + Clone> Original for Runs<I> {
    type Bytes = [u8];

    fn runs(&self) -> impl Iterator<Item = PhysRange> + Clone + '_ {
        self.0.clone()
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut []
    }
}
