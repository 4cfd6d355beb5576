//! A device behind the SMMU, in a domain of its own.

use std::sync::Arc;

use dmakit_addr::{Granule, Iova, IovaRange};
use dmakit_dma::{CoherentSource, Device, DeviceInfo, Path, PoolId};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Exposure, LazyConfig, Switched, Translate};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};
use dmakit_smmuv3::Translation;
use dmakit_swiotlb::BouncePool;

use super::walk::{WalkStep, walk};
use super::{SmmuDriver, SmmuStack, StackError};
use crate::devices::DmaDevice;
use crate::{FunctionId, Machine};

/// Bits of device addresses.
const INPUT_BITS: u32 = 48;

/// What a device is mapped through.
pub type SmmuDomain = Switched<
    HostPlatform,
    Vec<CpuSlot<CpuCache>>,
    Lpae,
    SegmentStore,
    Translation<Arc<SmmuDriver>>,
>;

/// A device of a machine, as its driver sees the memory side of it: behind the SMMU or not.
pub type QemuDevice<'a> = DmaDevice<'a, HostPlatform, SmmuDomain>;

/// When devices can no longer reach what was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// With the sync that gives the memory back.
    Strict,
    /// At the next flush.
    Lazy,
}

/// How a device is attached.
#[derive(Clone, Copy, Debug)]
pub struct AttachConfig {
    /// The number of its domain.
    pub domain: DomainId,
    /// The granule of its tables.
    pub granule: Granule,
    /// When unmapped memory is out of reach.
    pub mode: Mode,
}

impl AttachConfig {
    /// A domain of this number with 4 KiB pages.
    pub fn new(domain: u64, mode: Mode) -> Self {
        Self {
            domain: DomainId(domain),
            granule: Granule::K4,
            mode,
        }
    }
}

/// What a domain did so far, and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Bytes of device addresses in use.
    pub iova_bytes: u64,
    /// Requests for addresses that a CPU's cache served.
    pub iova_hits: u64,
    /// Table pages in the tree, the root included.
    pub tables: u64,
    /// Leaves in the tree.
    pub leaves: u64,
    /// Bytes of device addresses that are lost.
    pub quarantined: u64,
}

/// A device that is attached to a domain of its own. Nobody else reaches the domain.
pub struct Attachment {
    machine: Machine,
    memory: SegmentStore,
    smmu: Arc<SmmuDriver>,
    stream: FunctionId,
    domain: SmmuDomain,
    /// Bytes of addresses that it began with.
    space_bytes: u64,
}

impl Attachment {
    pub(super) fn open(
        stack: &SmmuStack,
        stream: FunctionId,
        config: AttachConfig,
    ) -> Result<Self, StackError> {
        let (machine, memory, smmu) = (stack.machine(), stack.memory(), stack.smmu());
        let platform = machine.platform();
        let output = smmu.features().output_bits.min(48);
        let hint = ContiguousHint::Never;
        let format = Lpae::new(Stage::One, config.granule, INPUT_BITS, output, hint)
            .map_err(|error| StackError::Table(error.to_string()))?;
        let cpus = (0..platform.cpu_count())
            .map(|_| CpuSlot::default())
            .collect();
        let aperture = IovaRange::new(Iova::new(0), 1 << (INPUT_BITS - 1))
            .map_err(|error| StackError::Table(error.to_string()))?;
        let space = Space::new(config.granule, aperture, Policy::TopDown, cpus)?;
        let space_bytes = space.statistics().free;
        let coherence = match smmu.features().coherent {
            true => WalkCoherence::Coherent,
            false => WalkCoherence::NonCoherent,
        };
        let table = PageTable::new(format, platform.clone(), memory.clone(), None, coherence)
            .map_err(|error| StackError::Table(error.to_string()))?;
        let context = smmu.create_context(&table)?;
        let hardware = Translation::new(smmu.clone(), context);
        let domain = Domain::new(config.domain, space, table, hardware);
        let domain = Switched::strict(domain, platform, LazyConfig::default());
        let domain = domain.map_err(|_| StackError::Queues)?;
        let attached = match config.mode {
            Mode::Strict => Ok(()),
            Mode::Lazy => domain.make_lazy().map_err(|_| StackError::Queues),
        };
        let context = domain.domain().hardware().context();
        let attached = attached.and_then(|()| Ok(smmu.attach(stream.raw().into(), context)?));
        if let Err(error) = attached {
            let strict = domain.into_strict(&machine.platform().enter_cpu());
            if let Ok(Ok((hardware, _))) = strict.map(Domain::close) {
                smmu.release_context(hardware.into_context())?;
            }
            return Err(error);
        }
        Ok(Self {
            machine: machine.clone(),
            memory: memory.clone(),
            smmu: smmu.clone(),
            stream,
            domain,
            space_bytes,
        })
    }

    /// Whose it is.
    pub fn stream(&self) -> FunctionId {
        self.stream
    }

    /// The device for its driver: with coherent memory of the machine, and a bounce pool for what no
    /// granule may show it.
    pub fn device<'a>(
        &'a self,
        info: DeviceInfo<'a>,
        bounce: Option<(&'a BouncePool<HostPlatform>, PoolId)>,
    ) -> QemuDevice<'a> {
        let domain = &self.domain;
        let path = Path::Translated { domain, bounce };
        let source = CoherentSource::Cached(&self.memory);
        Device::new(self.machine.platform(), info, path, source)
    }

    /// Goes to the other mode, whoever maps meanwhile.
    ///
    /// # Errors
    /// [`StackError::Queues`] without memory, [`StackError::Sync`] where the SMMU does not forget.
    pub fn switch(&self, mode: Mode) -> Result<(), StackError> {
        let platform = self.machine.platform();
        match mode {
            Mode::Strict => Ok(self.domain.make_strict(&platform.enter_cpu())?),
            Mode::Lazy => self.domain.make_lazy().map_err(|_| StackError::Queues),
        }
    }

    /// Lets the SMMU forget what was unmapped lazily. Nothing to do in strict mode.
    ///
    /// # Errors
    /// [`StackError::Sync`].
    pub fn flush(&self) -> Result<(), StackError> {
        let platform = self.machine.platform();
        Ok(self.domain.flush(&platform.enter_cpu())?)
    }

    /// What lazy mode exposed; nothing in strict mode.
    pub fn exposure(&self) -> Exposure {
        self.domain.exposure()
    }

    /// How the SMMU translates an address: the entries in RAM that it reads.
    pub fn walk(&self, iova: Iova) -> Vec<WalkStep> {
        let table = self.domain.domain().table();
        walk(&self.machine, table.format(), table.root_phys(), iova)
    }

    /// What it did so far, and what it holds.
    pub fn counters(&self) -> Counters {
        let domain = self.domain.domain();
        let space = domain.space().statistics();
        let whole = IovaRange::new(Iova::new(0), 1 << (INPUT_BITS - 1)).ok();
        Counters {
            iova_bytes: self.space_bytes - space.free - space.cached,
            iova_hits: space.hits,
            tables: domain.table().statistics().used as u64,
            leaves: whole.map_or(0, |range| domain.table().leaves(range).count() as u64),
            quarantined: domain.quarantined(),
        }
    }

    /// Detaches the device, which is aborted from then on, and gives everything back.
    ///
    /// # Errors
    /// [`StackError`]: [`StackError::Busy`] where something is still mapped, which leaves the device
    /// aborted and the tables lost.
    pub fn close(self) -> Result<Counters, StackError> {
        self.flush()?;
        let counters = self.counters();
        self.smmu.detach(self.stream.raw().into())?;
        let platform = self.machine.platform();
        let strict = self.domain.into_strict(&platform.enter_cpu());
        let domain = strict.map_err(|(domain, error)| {
            // Hardware may still use its tables.
            std::mem::forget(domain);
            error
        })?;
        match domain.close() {
            Ok((hardware, table)) => {
                self.smmu.release_context(hardware.into_context())?;
                drop(table);
                Ok(counters)
            }
            Err((domain, count)) => {
                // Somebody may still count on those addresses being his.
                std::mem::forget(domain);
                Err(StackError::Busy {
                    what: "bytes of device addresses",
                    count,
                })
            }
        }
    }
}
