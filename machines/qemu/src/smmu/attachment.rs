//! A device's way to memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PAGE_BYTES, PhysRange};
use dmakit_dma::{CoherentSource, Device, DeviceInfo, Path, PoolId, Unchecked};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{
    Batch, BatchFailure, Domain, DomainId, Exposure, Lazy, LazyConfig, Mapped, Switched, SyncError,
    Translate,
};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, SegmentStore};
use dmakit_platform::{CpuSlot, Platform, SegmentRequest, TableMemory};
use dmakit_smmuv3::Translation;
use dmakit_swiotlb::{BouncePool, NoGrowth};

use super::walk::{WalkStep, walk};
use super::{SmmuDriver, SmmuStack, StackError};
use crate::devices::Block;
use crate::{FunctionId, Machine};

/// Bits of device addresses.
const INPUT_BITS: u32 = 48;

/// What a device behind a port is mapped through.
pub type PortDomain = Switched<
    HostPlatform,
    Vec<CpuSlot<CpuCache>>,
    Lpae,
    SegmentStore,
    Translation<Arc<SmmuDriver>>,
>;

/// A device behind a port, as its driver sees the memory side of it.
pub type PortDevice<'a> = Device<'a, HostPlatform, NoGrowth, Unchecked, PortDomain>;

/// When devices can no longer reach what was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Before unmapping returns: one sync for all that is unmapped together.
    Strict,
    /// At the next flush.
    Lazy,
}

/// How a port is made.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// The number of its domain.
    pub domain: DomainId,
    /// The granule of its tables.
    pub granule: Granule,
    /// What the device can reach.
    pub limit: DmaMask,
    /// When unmapped memory is out of reach.
    pub mode: Mode,
}

impl PortConfig {
    /// Strict, 4 KiB pages, for a device that reaches `limit`.
    pub fn strict(domain: u64, limit: DmaMask) -> Self {
        Self {
            domain: DomainId(domain),
            granule: Granule::K4,
            limit,
            mode: Mode::Strict,
        }
    }
}

/// What a port did so far, and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Mappings made.
    pub maps: u64,
    /// Mappings ended.
    pub unmaps: u64,
    /// Syncs that were waited for, flushes included.
    pub syncs: u64,
    /// Tickets that were not redeemed.
    pub tickets: u64,
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

/// A domain to which one device is attached.
pub struct Port {
    machine: Machine,
    memory: SegmentStore,
    smmu: Arc<SmmuDriver>,
    stream: FunctionId,
    limit: DmaMask,
    translated: PortDomain,
    /// Bytes of addresses that it began with.
    space_bytes: u64,
    maps: AtomicU64,
    unmaps: AtomicU64,
    syncs: AtomicU64,
    tickets: AtomicU64,
}

impl Port {
    pub(super) fn open(
        stack: &SmmuStack,
        stream: FunctionId,
        config: PortConfig,
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
        if let Err(error) = smmu.attach(stream.raw().into(), &context) {
            smmu.release_context(context)?;
            return Err(error.into());
        }
        let hardware = Translation::new(smmu.clone(), context);
        let domain = Domain::new(config.domain, space, table, hardware);
        let translated = match config.mode {
            Mode::Strict => Switched::Strict(domain),
            Mode::Lazy => match Lazy::new(domain, platform, LazyConfig::default()) {
                Ok(lazy) => Switched::Lazy(lazy),
                // Strict is what lazy falls back to: safe, and slower.
                Err(domain) => Switched::Strict(domain),
            },
        };
        Ok(Self {
            machine: machine.clone(),
            memory: memory.clone(),
            smmu: smmu.clone(),
            stream,
            limit: config.limit,
            translated,
            space_bytes,
            maps: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
        })
    }

    /// Whose it is.
    pub fn stream(&self) -> FunctionId {
        self.stream
    }

    /// The device, for a driver that uses the mapping API: with coherent memory of the machine, and a
    /// bounce pool for what no granule may show it.
    pub fn device<'a>(
        &'a self,
        info: DeviceInfo<'a>,
        bounce: Option<(&'a BouncePool<HostPlatform>, PoolId)>,
    ) -> PortDevice<'a> {
        let path = Path::Translated {
            domain: &self.translated,
            bounce,
        };
        let source = CoherentSource::Cached(&self.memory);
        Device::new(self.machine.platform(), info, path, source)
    }

    /// The number of its domain.
    pub fn domain(&self) -> DomainId {
        self.translated.domain().id()
    }

    /// Maps runs of memory, one after the other, to contiguous addresses that the device reaches.
    ///
    /// # Errors
    /// [`StackError::Map`].
    pub fn map(
        &self,
        runs: impl Iterator<Item = PhysRange> + Clone,
        permissions: Permissions,
    ) -> Result<Mapped, StackError> {
        let platform = self.machine.platform();
        let domain = self.translated.domain();
        let mapped = domain.map(&platform.enter_cpu(), runs, permissions, 1, self.limit)?;
        self.maps.fetch_add(1, Ordering::Relaxed);
        Ok(mapped)
    }

    /// Ends mappings, all with one sync. After that, or in lazy mode after the next
    /// [`flush`](Self::flush), the device reaches none of their memory.
    ///
    /// # Errors
    /// [`StackError`]; memory of what failed must not be used again.
    pub fn unmap(&self, mappings: impl IntoIterator<Item = Mapped>) -> Result<(), StackError> {
        let platform = self.machine.platform();
        let mut tickets = Vec::new();
        for mapped in mappings {
            self.unmaps.fetch_add(1, Ordering::Relaxed);
            match &self.translated {
                Switched::Lazy(lazy) => lazy.unmap(&platform.enter_cpu(), mapped)?,
                Switched::Strict(domain) => {
                    tickets.push(domain.unmap(mapped)?);
                    self.tickets.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if tickets.is_empty() {
            return Ok(());
        }
        let domain = self.translated.domain();
        let proof = domain.sync()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        for ticket in tickets {
            domain.redeem(&platform.enter_cpu(), ticket, &proof)?;
            self.tickets.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends a mapping together with others: the device reaches its memory until `batch` closes, which
    /// this does where it makes it full. What comes out of reach goes to `give`, and `owned` with it
    /// when its time has come.
    ///
    /// # Errors
    /// [`StackError`]; what was not given must not be used again.
    pub fn unmap_into<B>(
        &self,
        batch: &mut Batch<B>,
        mapped: Mapped,
        owned: B,
        give: impl FnMut(B),
    ) -> Result<(), StackError> {
        let platform = self.machine.platform();
        self.unmaps.fetch_add(1, Ordering::Relaxed);
        self.tickets.fetch_add(1, Ordering::Relaxed);
        self.counting(batch, |batch| {
            let (cpu, now) = (platform.enter_cpu(), platform.now());
            batch.unmap(self.translated.domain(), &cpu, now, mapped, owned, give)
        })
        .map_err(|failure| match failure {
            BatchFailure::Refused { failure, .. } | BatchFailure::Lost(failure) => failure.into(),
            BatchFailure::Full { error, .. } | BatchFailure::Sync(error) => error.into(),
        })
    }

    /// Closes a batch: its ring is idle, or it is due.
    ///
    /// # Errors
    /// [`StackError::Sync`]; everything still waits.
    pub fn close_batch<B>(
        &self,
        batch: &mut Batch<B>,
        give: impl FnMut(B),
    ) -> Result<(), StackError> {
        let platform = self.machine.platform();
        let closed: Result<(), SyncError> = self.counting(batch, |batch| {
            batch.close(self.translated.domain(), &platform.enter_cpu(), give)
        });
        Ok(closed?)
    }

    /// Counts the syncs and tickets of what is done with a batch.
    fn counting<B, T>(&self, batch: &mut Batch<B>, run: impl FnOnce(&mut Batch<B>) -> T) -> T {
        let before = batch.held();
        let done = run(batch);
        let after = batch.held();
        self.syncs
            .fetch_add(after.syncs - before.syncs, Ordering::Relaxed);
        self.tickets
            .fetch_sub(after.redeemed - before.redeemed, Ordering::Relaxed);
        done
    }

    /// Lets the SMMU forget what was unmapped lazily. Nothing to do in strict mode.
    ///
    /// # Errors
    /// [`StackError::Sync`].
    pub fn flush(&self) -> Result<(), StackError> {
        let platform = self.machine.platform();
        match &self.translated {
            Switched::Strict(_) => Ok(()),
            Switched::Lazy(lazy) => Ok(lazy.flush(&platform.enter_cpu())?),
        }
    }

    /// What lazy mode exposed; nothing in strict mode.
    pub fn exposure(&self) -> Exposure {
        match &self.translated {
            Switched::Strict(_) => Exposure::default(),
            Switched::Lazy(lazy) => lazy.exposure(),
        }
    }

    /// Zeroed memory of whole pages that the device and the CPU both see.
    ///
    /// # Errors
    /// [`StackError::Memory`], [`StackError::Map`].
    pub fn block(&self, len: u64, node: Option<NodeId>) -> Result<Block, StackError> {
        let request = SegmentRequest {
            len: len.next_multiple_of(PAGE_BYTES),
            align: PAGE_BYTES,
            node,
            limit: DmaMask::ALL,
        };
        let segment = self.memory.allocate_table(&request)?;
        let runs = std::iter::once(segment.range());
        match self.map(runs, Permissions::READ_WRITE) {
            Ok(mapped) => Ok(Block::new(segment, mapped)),
            Err(error) => {
                self.memory.free_table(segment);
                Err(error)
            }
        }
    }

    /// Ends a block, out of the device's reach before its memory is free.
    ///
    /// # Errors
    /// [`StackError`]; its memory is lost then.
    pub fn free_block(&self, block: Block) -> Result<(), StackError> {
        let (mapped, segment) = block.into_parts();
        self.unmap([mapped])?;
        self.flush()?;
        self.memory.free_table(segment);
        Ok(())
    }

    /// How the SMMU translates an address: the entries in RAM that it reads.
    pub fn walk(&self, iova: Iova) -> Vec<WalkStep> {
        let table = self.translated.domain().table();
        walk(&self.machine, table.format(), table.root_phys(), iova)
    }

    /// What it did so far, and what it holds.
    pub fn counters(&self) -> Counters {
        let domain = self.translated.domain();
        let space = domain.space().statistics();
        let whole = IovaRange::new(Iova::new(0), 1 << (INPUT_BITS - 1)).ok();
        Counters {
            maps: self.maps.load(Ordering::Relaxed),
            unmaps: self.unmaps.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed) + self.exposure().flushes,
            tickets: self.tickets.load(Ordering::Relaxed),
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
        let domain = match self.translated {
            Switched::Strict(domain) => domain,
            Switched::Lazy(lazy) => {
                lazy.into_strict(&platform.enter_cpu())
                    .map_err(|(lazy, error)| {
                        // Hardware may still use its tables.
                        std::mem::forget(lazy);
                        error
                    })?
            }
        };
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
