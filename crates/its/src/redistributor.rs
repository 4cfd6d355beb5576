//! A CPU's redistributor, as far as LPIs go.

use core::fmt;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_platform::{Mmio, NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::lpi::reach;
use crate::negotiate::negotiate;
use crate::spec::attributes::{Attributes, Placement};
use crate::spec::redistributor as reg;
use crate::{Lpis, Refused, Sharing};

/// What commands call a redistributor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// The physical address of its registers.
    pub base: PhysAddr,
    /// The number of its CPU.
    pub processor: u16,
}

/// LPIs that were found on: whoever came before, or firmware, left live tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundLpis {
    /// The configuration table.
    pub configuration: PhysRange,
    /// The pending table.
    pub pending: PhysRange,
    /// Bits of an interrupt's number.
    pub id_bits: u32,
}

impl FoundLpis {
    /// What a redistributor uses, if its LPIs are on. The embedder asks before it gives memory to
    /// any allocator, and keeps these ranges out: the redistributor writes to them.
    pub fn read(regs: &impl Mmio) -> Option<Self> {
        if regs.read32(reg::CTLR) & reg::CTLR_ENABLE_LPIS == 0 {
            return None;
        }
        let (configuration, id_bits) = reg::parse_propbaser(regs.read64(reg::PROPBASER));
        let pending = regs.read64(reg::PENDBASER) & reg::PENDING_ADDRESS;
        let configured = (1_u64 << id_bits).saturating_sub(reg::LPI_FIRST.into());
        let range = |start, len| PhysRange::new(PhysAddr::new(start), len).ok();
        Some(Self {
            configuration: range(configuration, configured)?,
            pending: range(pending, pending_bytes(id_bits))?,
            id_bits,
        })
    }
}

/// A redistributor that takes no LPIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedistributorError {
    /// It has no physical LPIs.
    NoLpis {
        /// `GICR_TYPER`.
        typer: u64,
    },
    /// Its LPIs are on already, with tables that it cannot let go of.
    InUse(FoundLpis),
    /// Its LPIs are off: there is nothing to take over.
    Off,
    /// No memory for its pending table.
    Memory(NoMemory),
    /// A register that did not take a value.
    Refused(Refused),
}

impl fmt::Display for RedistributorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLpis { typer } => {
                write!(
                    f,
                    "the redistributor has no LPIs (GICR_TYPER {typer:#018x})"
                )
            }
            Self::InUse(found) => write!(
                f,
                "LPIs are on, with tables at {} and {}",
                found.configuration, found.pending
            ),
            Self::Off => f.write_str("LPIs are off"),
            Self::Memory(error) => write!(f, "no memory for pending LPIs: {error}"),
            Self::Refused(error) => write!(f, "redistributor {error}"),
        }
    }
}

impl core::error::Error for RedistributorError {}

/// A redistributor whose LPIs are on.
///
/// The pending table is the hardware's own from now on: there is no way to free it.
#[derive(Debug)]
pub struct Redistributor {
    target: Target,
    pending: PhysRange,
    /// Absent where it was taken over.
    _memory: Option<Segment>,
}

/// Bytes of a pending table: a bit for each interrupt, those below the first LPI included. What
/// shares the last 64 KiB page is left alone.
const fn pending_bytes(id_bits: u32) -> u64 {
    ((1_u64 << id_bits) / 8).next_multiple_of(0x1_0000)
}

impl Redistributor {
    /// Gives the redistributor at `base` the LPIs, with a pending table on `node`. Its CPU is awake
    /// (`GICR_WAKER`), which is the interrupt controller driver's business.
    ///
    /// # Errors
    /// [`RedistributorError`]; its LPIs are then as before.
    pub fn start<P: Platform>(
        regs: &impl Mmio,
        base: PhysAddr,
        node: Option<NodeId>,
        lpis: &Lpis<P>,
        memory: &impl TableMemory,
    ) -> Result<Self, RedistributorError> {
        let target = target(regs, base)?;
        if let Some(found) = FoundLpis::read(regs) {
            return Err(RedistributorError::InUse(found));
        }
        let pending = memory
            .allocate_table(&SegmentRequest {
                len: pending_bytes(lpis.config().id_bits),
                align: 0x1_0000,
                node,
                limit: reach(lpis.config().limit),
            })
            .map_err(RedistributorError::Memory)?;
        match describe(regs, lpis, pending.range()) {
            Ok(()) => Ok(Self {
                target,
                pending: pending.range(),
                _memory: Some(pending),
            }),
            Err(error) => {
                // LPIs are off: it has seen nothing.
                memory.free_table(pending);
                Err(RedistributorError::Refused(error))
            }
        }
    }

    /// Goes on with a redistributor whose LPIs are on, where it uses the table of `lpis` (see
    /// [`Lpis::take_over`]). Neither table moves.
    ///
    /// # Errors
    /// [`RedistributorError::InUse`] where it uses another table, [`RedistributorError::Off`].
    pub fn take_over<P: Platform>(
        regs: &impl Mmio,
        base: PhysAddr,
        lpis: &Lpis<P>,
    ) -> Result<Self, RedistributorError> {
        let target = target(regs, base)?;
        let found = FoundLpis::read(regs).ok_or(RedistributorError::Off)?;
        let is_same = found.configuration.start() == lpis.table().start();
        if !is_same || found.id_bits != lpis.config().id_bits {
            return Err(RedistributorError::InUse(found));
        }
        let attributes = Placement::REDISTRIBUTOR.decode(regs.read64(reg::PROPBASER));
        lpis.add_reader(is_coherent(lpis, attributes));
        Ok(Self {
            target,
            pending: found.pending,
            _memory: None,
        })
    }

    /// What commands call it.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The pending table: a bit for each interrupt.
    pub fn pending(&self) -> PhysRange {
        self.pending
    }
}

fn target(regs: &impl Mmio, base: PhysAddr) -> Result<Target, RedistributorError> {
    let typer = regs.read64(reg::TYPER);
    if typer & reg::TYPER_PLPIS == 0 {
        return Err(RedistributorError::NoLpis { typer });
    }
    Ok(Target {
        base,
        processor: reg::processor(typer),
    })
}

fn is_coherent<P: Platform>(lpis: &Lpis<P>, attributes: Attributes) -> bool {
    lpis.config().sharing == Sharing::Negotiated && attributes.is_coherent()
}

/// Tells it both tables, and turns LPIs on.
fn describe<P: Platform>(
    regs: &impl Mmio,
    lpis: &Lpis<P>,
    pending: PhysRange,
) -> Result<(), Refused> {
    let exchange = |register| {
        move |value| {
            regs.write64(register, value);
            regs.read64(register)
        }
    };
    let first = lpis.config().sharing.attributes();
    let place = Placement::REDISTRIBUTOR;
    let table = lpis.table().start().raw();
    let value = reg::propbaser(table, lpis.config().id_bits);
    let register = reg::PROPBASER;
    let attributes = negotiate(register, place, value, first, exchange(register))?;
    let coherent = is_coherent(lpis, attributes);
    let value = reg::pendbaser(pending.start().raw());
    let register = reg::PENDBASER;
    let attributes = negotiate(register, place, value, attributes, exchange(register))?;
    if !is_coherent(lpis, attributes) {
        lpis.platform().clean(pending);
    }
    lpis.add_reader(coherent);
    let wrote = regs.read32(reg::CTLR) | reg::CTLR_ENABLE_LPIS;
    regs.write32(reg::CTLR, wrote);
    let read = regs.read32(reg::CTLR);
    match read & reg::CTLR_ENABLE_LPIS {
        0 => Err(Refused {
            register: reg::CTLR,
            wrote: wrote.into(),
            read: read.into(),
        }),
        _ => Ok(()),
    }
}
