//! From registers to a running ITS, and back.

use core::time::Duration;

use dmakit_platform::{IrqMutex, Mmio, Platform, Segment, SleepMutex, TableMemory};

use crate::its::{Tables, no_targets};
use crate::memory::Provider;
use crate::negotiate::negotiate;
use crate::queue::{CommandQueue, QUEUE_BYTES};
use crate::spec::attributes::{Attributes, Placement};
use crate::spec::command;
use crate::spec::registers as reg;
use crate::spec::table::TableKind;
use crate::table::{Table, Wanted};
use crate::{Config, Features, Its, Levels, Sharing, StartError};

/// The longest that an ITS may take to come to rest.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

impl<P: Platform, R: Mmio, M: TableMemory> Its<P, R, M> {
    /// Brings an ITS up: no device or collection is mapped. May sleep.
    ///
    /// It needs no device and no allocator, only `memory`: tables can come from early memory. One
    /// that is found on, after a crash, is turned off and comes to rest first; the tables that it
    /// used are not touched. Devices' interrupts are lost meanwhile.
    ///
    /// The order is that of 5.1 and 12.18: off and at rest, tables described, the queue described,
    /// on.
    ///
    /// # Errors
    /// [`StartError`]. It is off then, and all memory given back, but for [`StartError::Busy`], which
    /// comes before there is any.
    pub fn start(platform: P, regs: R, memory: M, config: Config) -> Result<Self, StartError> {
        let features = Features::probe(&regs).map_err(StartError::Probe)?;
        let limit = config.limit;
        let provider = Provider::new(memory, config.node, limit);
        let targets = no_targets(config.collections).ok_or(StartError::Records)?;
        come_to_rest(&platform, &regs)?;
        for index in 0..reg::BASERS {
            regs.write64(reg::baser(index), 0);
        }
        let mut tables = Tables::default();
        let found = set_up(&platform, &regs, &provider, &features, &config, &mut tables);
        let queue = match found {
            Ok(queue) => queue,
            Err(error) => {
                forget(&regs);
                // All of it is of this provider.
                tables
                    .tables
                    .into_iter()
                    .for_each(|table| table.free(&provider, drop));
                return Err(error);
            }
        };
        regs.write64(reg::CWRITER, 0);
        let ctlr = regs.read32(reg::CTLR);
        regs.write32(reg::CTLR, ctlr | reg::CTLR_ENABLED);
        Ok(Self {
            platform,
            regs,
            config,
            features,
            provider,
            targets,
            tables: SleepMutex::<P, _>::new(tables),
            queue: IrqMutex::<P, _>::new(queue),
        })
    }

    /// The same ITS, which from now on takes its memory from `memory`: begun with early memory, it
    /// goes on with an allocator, or the DMA API. Nothing moves.
    ///
    /// What came from the first provider is known, and never given to the second: see
    /// [`stop`](Self::stop) and [`destroy_device`](Self::destroy_device).
    pub fn with_memory<N: TableMemory>(self, memory: N) -> Its<P, R, N> {
        Its {
            platform: self.platform,
            regs: self.regs,
            config: self.config,
            features: self.features,
            provider: self.provider.replace(memory),
            targets: self.targets,
            tables: self.tables,
            queue: self.queue,
        }
    }

    /// Turns it off and gives its memory home; what came from earlier providers goes to `earlier`.
    /// Tables of devices that were not destroyed stay with these. May sleep.
    ///
    /// # Errors
    /// [`StartError::Busy`]: the memory stays with the ITS, for it may still be in use.
    pub fn stop(self, mut earlier: impl FnMut(Segment)) -> Result<(), StartError> {
        come_to_rest(&self.platform, &self.regs)?;
        forget(&self.regs);
        let queue = self.queue.into_inner().into_memory();
        self.provider.free(queue).map(&mut earlier);
        for table in self.tables.into_inner().tables {
            table.free(&self.provider, &mut earlier);
        }
        Ok(())
    }
}

/// Turns it off, and waits until nothing is in progress.
fn come_to_rest<P: Platform, R: Mmio>(platform: &P, regs: &R) -> Result<(), StartError> {
    let ctlr = regs.read32(reg::CTLR);
    if ctlr & reg::CTLR_ENABLED != 0 {
        regs.write32(reg::CTLR, ctlr & !reg::CTLR_ENABLED);
    }
    let start = platform.now();
    loop {
        let ctlr = regs.read32(reg::CTLR);
        if ctlr & reg::CTLR_QUIESCENT != 0 && ctlr & reg::CTLR_ENABLED == 0 {
            return Ok(());
        }
        if platform.now().saturating_since(start) > REST_TIME_MAX {
            return Err(StartError::Busy { ctlr });
        }
        core::hint::spin_loop();
    }
}

/// Leaves no address in a register of an ITS that is off.
fn forget<R: Mmio>(regs: &R) {
    for index in 0..reg::BASERS {
        regs.write64(reg::baser(index), 0);
    }
    regs.write64(reg::CBASER, 0);
}

/// Tables into `tables`, and the queue.
fn set_up<P: Platform, R: Mmio, M: TableMemory>(
    platform: &P,
    regs: &R,
    provider: &Provider<M>,
    features: &Features,
    config: &Config,
    tables: &mut Tables,
) -> Result<CommandQueue, StartError> {
    let device_bits = features.device_bits;
    let device_bits = config.device_bits.unwrap_or(device_bits).min(device_bits);
    let mut attributes = config.sharing.attributes();
    let reserved = tables.tables.try_reserve_exact(reg::BASERS);
    reserved.map_err(|_| StartError::Records)?;
    for index in 0..reg::BASERS {
        let Some(kind) = TableKind::of(regs.read64(reg::baser(index))) else {
            continue;
        };
        let (ids, levels) = match kind {
            TableKind::Devices => (1 << device_bits, config.levels),
            TableKind::VirtualCpus => match config.virtual_cpu_bits {
                Some(bits) => (1 << bits.min(16), config.levels),
                None => continue,
            },
            // One more than are used, for a command that changes nothing.
            TableKind::Collections => (u64::from(config.collections) + 1, Levels::Flat),
        };
        let wanted = Wanted {
            ids,
            levels,
            sharing: config.sharing,
            attributes,
        };
        let table = Table::start(platform, regs, provider, index, kind, &wanted)?;
        attributes = table.info().attributes;
        tables.tables.push(table);
    }
    if tables.ids(TableKind::Devices) == 0 {
        return Err(StartError::NoTable(TableKind::Devices));
    }
    let idle = idle_command(features, config, tables.ids(TableKind::Collections))?;
    start_queue(regs, provider, config, attributes, idle)
}

/// A command that is always legal and changes nothing: a collection that is never used, if there is
/// one, loses the redistributor that it does not have.
fn idle_command(
    features: &Features,
    config: &Config,
    in_table: u64,
) -> Result<command::Command, StartError> {
    let asked = config.collections;
    let most =
        (u64::from(features.collections_inside) + in_table).min(1 << features.collection_bits);
    match u64::from(asked).cmp(&most) {
        core::cmp::Ordering::Less => Ok(command::unmapc(asked)),
        // The last is in use, and there is nothing better: a sync of no matter what.
        core::cmp::Ordering::Equal => Ok(command::sync(0)),
        core::cmp::Ordering::Greater => Err(StartError::Collections {
            asked,
            most: most as u32,
        }),
    }
}

fn start_queue<R: Mmio, M: TableMemory>(
    regs: &R,
    provider: &Provider<M>,
    config: &Config,
    attributes: Attributes,
    idle: command::Command,
) -> Result<CommandQueue, StartError> {
    let memory = provider
        .allocate(QUEUE_BYTES, QUEUE_BYTES, 52)
        .map_err(StartError::Memory)?;
    let mut queue = CommandQueue::new(memory, idle);
    let exchange = |value| {
        regs.write64(reg::CBASER, value);
        regs.read64(reg::CBASER)
    };
    let result = negotiate(
        reg::CBASER,
        Placement::ITS,
        queue.base(),
        attributes,
        exchange,
    );
    match result {
        Ok(attributes) => {
            queue.cleans = config.sharing == Sharing::Never || !attributes.is_coherent();
            Ok(queue)
        }
        Err(error) => {
            regs.write64(reg::CBASER, 0);
            // Of this provider, which is the first.
            provider.free(queue.into_memory());
            Err(StartError::Refused(error))
        }
    }
}
