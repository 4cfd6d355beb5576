//! No IOMMU: there is no driver for this machine's.

use dmakit_dma::{CoherentSource, DeviceInfo};

use crate::machine::Machine;
use crate::memory::Coherent;
use crate::parameters::Parameters;
use crate::path::{Bounce, Client};

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum Translator {}

impl Translator {
    /// None.
    ///
    /// # Safety
    /// Nothing to promise.
    pub unsafe fn find(
        _: &Machine,
        _: &Parameters,
        _: &'static Coherent,
    ) -> Result<Option<Self>, &'static str> {
        Ok(None)
    }

    pub fn run(
        &self,
        _: &Parameters,
        _: DeviceInfo<'static>,
        _: u32,
        _: Bounce,
        _: CoherentSource<'static>,
        _: impl Client,
    ) -> Result<(), &'static str> {
        match *self {}
    }

    pub fn take_faults(&self) -> u64 {
        match *self {}
    }

    pub fn report(&self) {
        match *self {}
    }
}
