//! The SMMU, and domains for devices behind it.

use alloc::vec;

use dmakit_addr::{Granule, Iova, IovaRange};
use dmakit_dma::{CoherentSource, Device, DeviceInfo, Path};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, FaultFold, Hardware, Lazy, LazyConfig};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::{CpuSlot, IrqMutex, Platform};
use dmakit_smmuv3::{Config, Smmu, Translation};

use crate::board::Board;
use crate::machine::Machine;
use crate::memory::{Coherent, leak};
use crate::parameters::Parameters;
use crate::path::{Bounce, Client, Untyped, slots_used};
use crate::registers::Registers;
use crate::usage::{Usage, settle};

use super::failing_domain::Failing;

type Driver = Smmu<Board, Registers, &'static Coherent>;
type Slots = vec::Vec<CpuSlot<CpuCache>>;

/// A domain whose unmaps are strict.
type Strict = Domain<Board, Slots, Lpae, &'static Coherent, Translation<&'static Driver>>;
/// A domain whose invalidations are put off.
type LazyDomain = Lazy<Board, Slots, Lpae, &'static Coherent, Translation<&'static Driver>>;

/// Bits of device addresses.
const INPUT_BITS: u32 = 48;

/// An SMMU that aborts every stream until it is given a domain.
pub struct Translator {
    smmu: &'static Driver,
    memory: &'static Coherent,
    faults: IrqMutex<Board, Faults>,
}

/// What devices were refused.
#[derive(Default)]
struct Faults {
    records: u64,
    lost: bool,
    folded: FaultFold<8>,
}

impl Translator {
    /// Brings up the SMMU, its tables and queues near it, unless devices are to go past it.
    ///
    /// # Safety
    /// The device tree tells the truth, and nobody else uses the SMMU.
    pub unsafe fn find(
        machine: &Machine,
        parameters: &Parameters,
        memory: &'static Coherent,
    ) -> Result<Option<Self>, &'static str> {
        match parameters.passthrough {
            true => Ok(None),
            // SAFETY: the caller's promise.
            false => unsafe { Self::start(machine, memory) }.map(Some),
        }
    }

    /// # Safety
    /// As for `find`.
    unsafe fn start(machine: &Machine, memory: &'static Coherent) -> Result<Self, &'static str> {
        let registers = machine.chips.smmu.ok_or("no SMMU")?;
        // SAFETY: the caller's promise.
        let regs = unsafe { Registers::new(registers.start().raw(), registers.len()) };
        let smmu = Smmu::start(Board, regs, memory, Config::default());
        let smmu = leak(smmu.map_err(|_| "the SMMU does not start")?);
        Ok(Self {
            smmu,
            memory,
            faults: IrqMutex::<Board, _>::new(Faults::default()),
        })
    }

    /// Runs a client on a device behind the SMMU, strict or lazy, and says what is left behind.
    pub fn run(
        &self,
        parameters: &Parameters,
        info: DeviceInfo<'static>,
        stream: u32,
        bounce: Bounce,
        coherent: CoherentSource<'static>,
        client: impl Client,
    ) -> Result<(), &'static str> {
        if parameters.lazy {
            let lazy = self.lazy(stream)?;
            let usage = || {
                let flushed = lazy.flush(&Board.enter_cpu());
                flushed.map_err(|_| "the SMMU does not forget")?;
                usage(lazy.domain(), bounce)
            };
            let before = usage()?;
            let domain = leak(Failing::new(lazy));
            let path = Path::Translated { domain, bounce };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, before, usage()?)
        } else {
            let strict = self.strict(stream)?;
            let before = usage(strict, bounce)?;
            let domain = leak(Failing::new(strict));
            let path = Path::Translated { domain, bounce };
            let device = Untyped::new(Device::new(Board, info, path, coherent));
            settle(client.run(device)?, before, usage(strict, bounce)?)
        }
    }

    /// A domain of a stream's own.
    fn strict(&self, stream: u32) -> Result<&'static Strict, &'static str> {
        self.domain(stream).map(leak)
    }

    /// The same, lazy.
    fn lazy(&self, stream: u32) -> Result<&'static LazyDomain, &'static str> {
        let lazy = Lazy::new(self.domain(stream)?, Board, LazyConfig::default());
        lazy.map(leak).map_err(|_| "no queues for a lazy domain")
    }

    /// How many records there are of what devices were refused, since this was last asked. Hardware
    /// may record every few bytes of one transfer.
    pub fn take_faults(&self) -> u64 {
        let mut faults = self.faults.lock();
        let count = self
            .smmu
            .take_events(|event| faults.folded.add(event.into()));
        faults.records += count.records;
        faults.lost |= count.lost;
        count.records + u64::from(count.lost)
    }

    /// Says what devices were refused so far.
    pub fn report(&self) {
        self.take_faults();
        let faults = self.faults.lock();
        for folded in faults.folded.faults() {
            println!("smmu: {} ({} records)", folded.fault, folded.records);
        }
        if faults.lost {
            println!("smmu: more than the queue holds");
        }
        println!("faults={}", faults.records);
    }

    /// Takes tables out of a domain that map nothing any more. Nobody may map there meanwhile.
    fn prune(domain: &Strict) -> Result<(), &'static str> {
        let mut gather = Gather::new();
        let pruned = domain.table().prune(aperture()?, &mut gather);
        pruned.map_err(|_| "no such aperture")?;
        let hardware = domain.hardware();
        let forgotten = hardware.invalidate_all().and_then(|()| hardware.sync());
        forgotten.map_err(|_| "the SMMU does not forget")?;
        domain.table().recycle(gather);
        Ok(())
    }

    fn domain(&self, stream: u32) -> Result<Strict, &'static str> {
        let output = self.smmu.features().output_bits.min(48);
        let format = Lpae::new(
            Stage::One,
            Granule::K4,
            INPUT_BITS,
            output,
            ContiguousHint::Never,
        );
        let format = format.map_err(|_| "no such page table")?;
        let cpus = (0..Board.cpu_count()).map(|_| CpuSlot::default()).collect();
        let space = Space::new(Granule::K4, aperture()?, Policy::TopDown, cpus);
        let space = space.map_err(|_| "no address space")?;
        let coherence = match self.smmu.features().coherent {
            true => WalkCoherence::Coherent,
            false => WalkCoherence::NonCoherent,
        };
        let table = PageTable::new(format, Board, self.memory, None, coherence);
        let table = table.map_err(|_| "no page table")?;
        let context = self.smmu.create_context(&table).map_err(|_| "no context")?;
        self.smmu
            .attach(stream, &context)
            .map_err(|_| "the stream is not attached")?;
        let hardware = Translation::new(self.smmu, context);
        Ok(Domain::new(DomainId(stream.into()), space, table, hardware))
    }
}

/// What a domain holds that nobody uses at the moment, and the pool's slots.
fn usage(domain: &Strict, bounce: Bounce) -> Result<Usage, &'static str> {
    // Emptied tables stay for the next mapping until they are taken out.
    Translator::prune(domain)?;
    Ok(Usage {
        addresses: domain.space().statistics().used,
        tables: domain.table().statistics().used as u64,
        quarantined: domain.quarantined(),
        slots: slots_used(bounce),
    })
}

/// What domains give out: the lower half, so that no address of the upper one is ever mapped.
fn aperture() -> Result<IovaRange, &'static str> {
    let aperture = IovaRange::new(Iova::new(0), 1 << (INPUT_BITS - 1));
    aperture.map_err(|_| "no such aperture")
}
