//! A device behind an SMMU that shares the pages of programs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dmakit_addr::{Granule, Iova, IovaRange, NodeId, PAGE_BYTES, Pfn, PfnRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_iommu::Invalidation;
use dmakit_phys::{DeviceMappings, Refusal};
use dmakit_platform::Segment;
use dmakit_sim::{DeviceConfig, Machine, MachineMemory, PageId, SimDevice, SimSmmu, SmmuConfig};
use dmakit_smmuv3::{Config, Context, Smmu};

const STREAM: u32 = 0x42;
const IOVA: u64 = 1 << 30;

type Driver = Smmu<Machine, SimSmmu, MachineMemory>;
type Tables = PageTable<Lpae, Machine, MachineMemory>;

/// The device's entries, one for each page that it shares. While a page moves its entry is invalid,
/// and the invalidation complete: the device's accesses fault, and it tries again.
pub struct Shared {
    device: SimDevice,
    driver: Driver,
    tables: Tables,
    context: Context,
    /// The device's address of each shared page, by the frame that it is in.
    at: Mutex<BTreeMap<Pfn, Iova>>,
}

/// An entry that was cleared, and where it is to lead.
pub struct Cleared {
    at: Iova,
    frames: PfnRange,
}

/// The device's address of a page.
pub fn iova(page: PageId) -> Iova {
    Iova::new(IOVA + page.raw() * PAGE_BYTES)
}

impl Shared {
    /// Brings an SMMU and a device up, with `tables` as memory for queues and page tables.
    pub fn new(machine: &Machine, tables: Segment) -> anyhow::Result<Self> {
        let memory = MachineMemory::of_segments(machine, NodeId::new(0), vec![tables]);
        let regs = machine.add_smmu(SmmuConfig::default());
        let device = machine.add_device(DeviceConfig::new().stream(regs.id(), STREAM));
        let config = Config {
            command_shift: 8,
            event_shift: 7,
            ..Config::default()
        };
        let driver = Driver::start(machine.clone(), regs, memory.clone(), config)?;
        let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never)?;
        let coherence = WalkCoherence::Coherent;
        let tables = Tables::new(format, machine.clone(), memory, None, coherence)?;
        let context = driver.create_context(&tables)?;
        driver.attach(STREAM, &context)?;
        Ok(Self {
            device,
            driver,
            tables,
            context,
            at: Mutex::default(),
        })
    }

    /// The device.
    pub fn device(&self) -> &SimDevice {
        &self.device
    }

    /// Forgets the records of faults.
    pub fn drop_events(&self) {
        self.driver.take_events(|_| ());
    }

    /// Shares a page with the device.
    pub fn share(&self, page: PageId, frames: PfnRange) -> anyhow::Result<()> {
        self.map(iova(page), frames)
            .ok_or_else(|| anyhow::anyhow!("{page} cannot be mapped"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pfn, Iova>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map(&self, at: Iova, frames: PfnRange) -> Option<()> {
        let memory = frames.bytes()?;
        let entry = IovaRange::new(at, memory.len()).ok()?;
        let mapped = self
            .tables
            .map(entry, memory.start(), Permissions::READ_WRITE);
        mapped.ok()?;
        self.lock().insert(frames.start(), at);
        Some(())
    }

    /// Clears an entry and waits until nothing remembers it.
    fn break_entry(&self, at: Iova, len: u64) -> Option<()> {
        let range = IovaRange::new(at, len).ok()?;
        let mut gather = Gather::new();
        self.tables.unmap(range, &mut gather).ok()?;
        let what = Invalidation {
            range,
            granule: Granule::K4,
            leaf_height: gather.leaf_height(),
            leaf_shift: gather.leaf_height().map(|_| Granule::K4.shift()),
            tables: gather.frees_tables(),
        };
        self.driver.invalidate(self.context.tag(), &what).ok()?;
        self.driver.sync().ok()?;
        self.tables.recycle(gather);
        Some(())
    }
}

impl DeviceMappings for Shared {
    type Quiesced = Option<Cleared>;

    fn quiesce(&self, frames: PfnRange) -> Result<Option<Cleared>, Refusal> {
        let at = self.lock().remove(&frames.start());
        let Some(at) = at else {
            return Ok(None);
        };
        self.break_entry(at, frames.len() * PAGE_BYTES)
            .ok_or(Refusal::Busy)?;
        Ok(Some(Cleared { at, frames }))
    }

    fn redirect(&self, cleared: &mut Option<Cleared>, to: PfnRange) -> Result<(), Refusal> {
        // The entry is invalid, and that is synced: what it leads to next is nobody's memory of it.
        if let Some(cleared) = cleared {
            cleared.frames = to;
        }
        Ok(())
    }

    fn resume(&self, cleared: Option<Cleared>) {
        if let Some(Cleared { at, frames }) = cleared {
            let mapped = self.map(at, frames);
            // Its table is still there: it was one entry of it that was cleared.
            debug_assert!(mapped.is_some(), "{frames} cannot be mapped again");
        }
    }
}
