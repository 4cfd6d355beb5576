//! Interrupts above 8191, and the table that says which are on.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use dmakit_addr::{DmaMask, NodeId, PhysRange};
use dmakit_platform::{
    Barrier, IrqMutex, NoMemory, Platform, Segment, SegmentRequest, TableMemory,
};

use crate::Sharing;
use crate::spec::redistributor::{LPI_FIRST, configuration};

/// How the LPIs of a machine are to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LpiConfig {
    /// Bits of an interrupt's number, 14 to 32: see [`id_bits_of`](Self::id_bits_of).
    pub id_bits: u32,
    /// The priority of every LPI; bits 7:2 count, and less is more urgent.
    pub priority: u8,
    /// The node that the configuration table should lie on.
    pub node: Option<NodeId>,
    /// The highest physical address that redistributors reach.
    pub limit: DmaMask,
    /// How the tables are reached.
    pub sharing: Sharing,
}

impl Default for LpiConfig {
    fn default() -> Self {
        Self {
            id_bits: 16,
            priority: 0xc0,
            node: None,
            limit: DmaMask::ALL,
            sharing: Sharing::Negotiated,
        }
    }
}

impl LpiConfig {
    /// Bits of an interrupt's number that a distributor has (`GICD_TYPER.IDbits`).
    pub const fn id_bits_of(gicd_typer: u32) -> u32 {
        (gicd_typer >> 19 & 0x1f) + 1
    }
}

/// No table for LPIs.
#[derive(Debug)]
pub enum LpiTableError {
    /// Too few bits for any LPI, or more than there are.
    IdBits {
        /// How many.
        asked: u32,
    },
    /// No memory for the table.
    Memory(NoMemory),
    /// No memory for the driver's own records; an inherited table comes back.
    Records(Option<Segment>),
    /// An inherited table that is shorter than its interrupts.
    Short {
        /// The table.
        table: Segment,
        /// How long it should be.
        len: u64,
    },
}

impl fmt::Display for LpiTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdBits { asked } => write!(f, "LPIs have 14 to 32 bits, not {asked}"),
            Self::Memory(error) => write!(f, "no memory for the LPIs' table: {error}"),
            Self::Records(_) => f.write_str("no memory for the records of LPIs"),
            Self::Short { table, len } => {
                write!(f, "the LPIs' table at {} needs {len} bytes", table.range())
            }
        }
    }
}

impl core::error::Error for LpiTableError {}

/// All LPIs are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoLpi {
    /// How many there are.
    pub count: u32,
}

impl fmt::Display for NoLpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} LPIs are in use", self.count)
    }
}

impl core::error::Error for NoLpi {}

/// One interrupt, which nobody else has. Dropping it leaks its number.
#[derive(PartialEq, Eq, Debug)]
pub struct Lpi(u32);

impl Lpi {
    /// Its number: at least 8192.
    pub const fn number(&self) -> u32 {
        self.0
    }
}

/// A redistributor has the table.
const SEEN: u8 = 1;
/// One of them reads it past the CPU's caches.
const UNCACHED: u8 = 2;

/// The LPIs of a machine: one configuration table for all redistributors and every ITS.
///
/// Once a redistributor has it, it stays: LPIs cannot be turned off again on many implementations.
/// There is no way to free it.
pub struct Lpis<P: Platform> {
    platform: P,
    config: LpiConfig,
    table: Segment,
    /// `SEEN`, `UNCACHED`.
    readers: AtomicU8,
    numbers: IrqMutex<P, Numbers>,
}

/// Which numbers are out: a bit for each, and the first word that may have a free one.
struct Numbers {
    words: Vec<u64>,
    first: usize,
    free: u32,
}

impl Numbers {
    fn new(count: u32) -> Option<Self> {
        let mut words = Vec::new();
        // LPIs begin at 2^13 and end at a power of two: a multiple of 64.
        let len = count as usize / 64;
        words.try_reserve_exact(len).ok()?;
        words.resize(len, 0);
        Some(Self {
            words,
            first: 0,
            free: count,
        })
    }

    fn take(&mut self) -> Option<u32> {
        let (index, word) = self
            .words
            .iter_mut()
            .enumerate()
            .skip(self.first)
            .find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.first = index;
        self.free -= 1;
        Some(index as u32 * 64 + bit)
    }

    fn put(&mut self, number: u32) {
        let index = (number / 64) as usize;
        if let Some(word) = self.words.get_mut(index) {
            *word &= !(1 << (number % 64));
            self.first = self.first.min(index);
            self.free += 1;
        }
    }
}

/// Bytes of a configuration table.
const fn table_bytes(id_bits: u32) -> u64 {
    // One byte for each LPI; a multiple of the largest page, as other tables are.
    ((1_u64 << id_bits) - LPI_FIRST as u64).next_multiple_of(0x1_0000)
}

impl<P: Platform> Lpis<P> {
    /// All LPIs, off.
    ///
    /// # Errors
    /// [`LpiTableError`].
    pub fn new(
        platform: P,
        memory: &impl TableMemory,
        config: LpiConfig,
    ) -> Result<Self, LpiTableError> {
        check_bits(config.id_bits)?;
        let numbers = Numbers::new(count(config.id_bits)).ok_or(LpiTableError::Records(None))?;
        let request = SegmentRequest {
            len: table_bytes(config.id_bits),
            align: 0x1_0000,
            node: config.node,
            limit: reach(config.limit),
        };
        let table = memory
            .allocate_table(&request)
            .map_err(LpiTableError::Memory)?;
        Ok(Self::over(platform, table, numbers, config))
    }

    /// Takes over the table of an earlier owner, which redistributors use and cannot let go of: it
    /// stays where it is. All LPIs are off afterwards, once each ITS's collections are mapped.
    ///
    /// The embedder has kept this memory out of its allocators, as
    /// [`FoundLpis`](crate::FoundLpis) tells.
    ///
    /// # Errors
    /// [`LpiTableError`].
    pub fn take_over(
        platform: P,
        table: Segment,
        config: LpiConfig,
    ) -> Result<Self, LpiTableError> {
        check_bits(config.id_bits)?;
        let len = u64::from(count(config.id_bits));
        if table.len() < len {
            return Err(LpiTableError::Short { table, len });
        }
        match Numbers::new(count(config.id_bits)) {
            Some(numbers) => Ok(Self::over(platform, table, numbers, config)),
            None => Err(LpiTableError::Records(Some(table))),
        }
    }

    fn over(platform: P, table: Segment, numbers: Numbers, config: LpiConfig) -> Self {
        table.window().fill(configuration(config.priority, false));
        platform.clean(table.range());
        Self {
            platform,
            config,
            table,
            readers: AtomicU8::new(0),
            numbers: IrqMutex::<P, _>::new(numbers),
        }
    }

    /// How they are run.
    pub fn config(&self) -> &LpiConfig {
        &self.config
    }

    /// The configuration table.
    pub fn table(&self) -> PhysRange {
        self.table.range()
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        count(self.config.id_bits)
    }

    /// How many nobody has.
    pub fn free_count(&self) -> u32 {
        self.numbers.lock().free
    }

    /// One that nobody has, off: the lowest. Never sleeps; O(LPIs / 64) at worst.
    ///
    /// # Errors
    /// [`NoLpi`].
    pub fn allocate(&self) -> Result<Lpi, NoLpi> {
        let number = self.numbers.lock().take();
        let number = number.ok_or(NoLpi {
            count: self.count(),
        })?;
        Ok(Lpi(LPI_FIRST + number))
    }

    /// Takes one back: off, and routed by no ITS. Never sleeps.
    pub fn free(&self, lpi: Lpi) {
        self.set(lpi.0, false);
        self.numbers.lock().put(lpi.0 - LPI_FIRST);
    }

    /// Writes an LPI's configuration, which redistributors learn by the command after it.
    pub(crate) fn set(&self, number: u32, is_enabled: bool) {
        let offset = u64::from(number - LPI_FIRST);
        let window = self.table.window();
        if let Some(byte) = window.bytes().get(offset as usize) {
            let value = configuration(self.config.priority, is_enabled);
            byte.store(value, Ordering::Relaxed);
        }
        let cleans = self.readers.load(Ordering::Acquire) != SEEN;
        if let (true, Some(byte)) = (cleans, self.table.range().slice(offset, 1)) {
            self.platform.clean(byte);
        }
        self.platform.barrier(Barrier::BeforeDevice);
    }

    /// A redistributor is about to read the table.
    pub(crate) fn add_reader(&self, is_coherent: bool) {
        let flags = if is_coherent { SEEN } else { SEEN | UNCACHED };
        self.readers.fetch_or(flags, Ordering::AcqRel);
        if !is_coherent {
            // What was changed while all others were coherent.
            self.platform.clean(self.table.range());
        }
        self.platform.barrier(Barrier::BeforeDevice);
    }

    pub(crate) fn platform(&self) -> &P {
        &self.platform
    }
}

fn check_bits(id_bits: u32) -> Result<(), LpiTableError> {
    match id_bits {
        14..=32 => Ok(()),
        asked => Err(LpiTableError::IdBits { asked }),
    }
}

const fn count(id_bits: u32) -> u32 {
    // 14 to 32 bits, so this fits.
    ((1_u64 << id_bits) - LPI_FIRST as u64) as u32
}

/// Addresses of redistributors' tables have 52 bits (12.11).
pub(crate) fn reach(limit: DmaMask) -> DmaMask {
    DmaMask::bits(52).unwrap_or(DmaMask::ALL).intersect(limit)
}
