//! The SMMU and the memory behind it.

use std::sync::Arc;

use dmakit_addr::{NodeId, PhysAddr};
use dmakit_iommu::Fault;
use dmakit_platform::Segment;
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_smmuv3::{Config, EventCount, Smmu};

use super::{AttachConfig, Attachment, Part, StackError};
use crate::{Board, FunctionId, Machine, QemuMmio};

/// Where `virt` has its SMMU.
const SMMU_BASE: PhysAddr = PhysAddr::new(0x0905_0000);

/// The driver of such a machine's SMMU.
pub type SmmuDriver = Smmu<HostPlatform, QemuMmio, SegmentStore>;

/// A machine whose SMMU is up: every stream is aborted until it is [attached](Self::attach).
pub struct SmmuStack {
    machine: Machine,
    memory: SegmentStore,
    smmu: Arc<SmmuDriver>,
}

impl SmmuStack {
    /// Brings the SMMU up. `ram` has the machine's memory, one segment for each node, in order.
    ///
    /// # Errors
    /// [`StackError::NoSmmu`], [`StackError::Smmu`].
    pub fn start(machine: &Machine, ram: Vec<Segment>, config: Config) -> Result<Self, StackError> {
        if machine.board() != Board::Virt {
            return Err(StackError::NoSmmu);
        }
        let memory = SegmentStore::new();
        for (node, segment) in (0..).zip(ram) {
            memory.add(NodeId::new(node), segment);
        }
        let regs = machine.mmio(SMMU_BASE);
        let smmu = Smmu::start(machine.platform(), regs, memory.clone(), config)?;
        Ok(Self {
            machine: machine.clone(),
            memory,
            smmu: Arc::new(smmu),
        })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// What this release's SMMU cannot show, and why.
    pub fn missing(&self) -> impl Iterator<Item = (Part, String)> {
        let (version, features) = (self.machine.version(), *self.smmu.features());
        Part::ALL
            .into_iter()
            .filter_map(move |part| Some((part, part.missing(version, &features)?)))
    }

    /// All memory that nobody has.
    pub fn memory(&self) -> &SegmentStore {
        &self.memory
    }

    /// The SMMU.
    pub fn smmu(&self) -> &Arc<SmmuDriver> {
        &self.smmu
    }

    /// Gives a device a domain of its own.
    ///
    /// # Errors
    /// [`StackError`]; the device is aborted as before then.
    pub fn attach(
        &self,
        stream: FunctionId,
        config: AttachConfig,
    ) -> Result<Attachment, StackError> {
        Attachment::open(self, stream, config)
    }

    /// The records of faults so far, oldest first, with their domains. One faulted transfer can have many.
    pub fn take_faults(&self) -> (Vec<Fault>, EventCount) {
        let mut faults = Vec::new();
        let count = self.smmu.take_faults(|fault| faults.push(fault));
        (faults, count)
    }

    /// Turns the SMMU off; gives the memory, with what is still in use.
    ///
    /// # Errors
    /// [`StackError::Busy`] while a device is attached, else [`StackError::Smmu`].
    pub fn stop(self) -> Result<SegmentStore, StackError> {
        let smmu = Arc::try_unwrap(self.smmu).map_err(|smmu| StackError::Busy {
            what: "attached devices",
            count: Arc::strong_count(&smmu) as u64 - 1,
        })?;
        smmu.stop()?;
        Ok(self.memory)
    }
}
