//! From parameters and machine to the boot pool.

use std::fmt;

use crate::boot::{ForceWord, SwiotlbParams};
use crate::engine::Engine;
use crate::replay::Bounce;
use crate::swiotlb::{DEFAULT_SLOTS, SEGMENT_SLOTS, SLOT_BYTES, SwiotlbConfig, halved};

const GIB: u64 = 1 << 30;

/// How the platform decides about the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// x86-64: a pool if memory lies above 4 GiB.
    X86_64,
    /// arm64: a pool if memory lies above the DMA limit, else one for small unaligned buffers.
    Arm64,
    /// Others: a pool if memory lies above the DMA limit.
    Other,
}

impl Architecture {
    /// The architecture of a machine name such as `x86_64` or `aarch64`.
    pub fn from_name(name: &str) -> Self {
        match name {
            "x86_64" | "amd64" | "x86" | "i686" | "i386" => Self::X86_64,
            "aarch64" | "arm64" => Self::Arm64,
            _ => Self::Other,
        }
    }
}

/// What of a machine decides about its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The architecture.
    pub architecture: Architecture,
    /// Memory in bytes.
    pub ram_bytes: u64,
    /// Possible CPUs.
    pub cpus: u32,
    /// The kernel's page size.
    pub page_bytes: u64,
    /// Whether memory lies where some devices cannot reach it: above 4 GiB on x86, above the DMA
    /// limit elsewhere.
    pub has_unreachable_memory: bool,
    /// A confidential guest (SEV, TDX, CCA): everything is bounced, and x86 sizes the pool by RAM.
    pub is_confidential: bool,
    /// The largest pool that early memory can hold, in slots; smaller ones are tried by halving.
    pub largest_free_slots: Option<u32>,
}

/// One step between the parameters and the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No `swiotlb=` size: the default.
    Default,
    /// Slots rounded up to whole segments of 128.
    Segments(u32),
    /// A confidential guest without a size gets 6 % of memory, from 64 MiB to 1 GiB.
    Confidential(u32),
    /// `swiotlb=32768` equals the default, so the kernel takes it for "not given".
    DefaultByName(u32),
    /// arm64 with all memory in reach: 1 MiB per GiB, for unaligned kmalloc buffers.
    PerGib(u32),
    /// As many areas as possible CPUs.
    AreasOfCpus(u32),
    /// Areas rounded up to a power of two.
    AreasPower(u32),
    /// At least 128 slots per area.
    AreasNeed(u32),
    /// The total rounded up to a power of two.
    Power(u32),
    /// Memory was short: halved.
    Halved(u32),
    /// Fewer areas, since each needs 128 slots.
    AreasLimited(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Default => write!(f, "{DEFAULT_SLOTS} slots by default"),
            Self::Segments(slots) => write!(f, "{slots} slots: whole segments of {SEGMENT_SLOTS}"),
            Self::Confidential(slots) => {
                write!(
                    f,
                    "{slots} slots: 6 % of a confidential guest's memory, 64 MiB to 1 GiB"
                )
            }
            Self::DefaultByName(slots) => {
                write!(
                    f,
                    "{slots} slots: the default's own number counts as not given"
                )
            }
            Self::PerGib(slots) => {
                write!(
                    f,
                    "{slots} slots: all memory is in reach, 1 MiB per GiB for kmalloc"
                )
            }
            Self::AreasOfCpus(areas) => write!(f, "{areas} areas: one per possible CPU"),
            Self::AreasPower(areas) => write!(f, "{areas} areas: a power of two"),
            Self::AreasNeed(slots) => write!(f, "{slots} slots: {SEGMENT_SLOTS} per area"),
            Self::Power(slots) => write!(f, "{slots} slots: a power of two"),
            Self::Halved(slots) => write!(f, "{slots} slots: halved until memory sufficed"),
            Self::AreasLimited(areas) => write!(f, "{areas} areas: {SEGMENT_SLOTS} slots each"),
        }
    }
}

/// Why there is no pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unbounced {
    /// `noforce`.
    NoForce,
    /// Every device reaches all memory and nothing is forced.
    NotNeeded,
    /// Not even 1 MiB of early memory.
    NoMemory,
}

impl fmt::Display for Unbounced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoForce => "swiotlb=noforce",
            Self::NotNeeded => "all memory is in reach of 32-bit devices and nothing is forced",
            Self::NoMemory => "no early memory for the smallest pool",
        })
    }
}

/// The boot pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Slots.
    pub slots: u32,
    /// Areas.
    pub areas: u32,
    /// Whether every streaming mapping is bounced.
    pub is_forced: bool,
    /// How it came to that, in order.
    pub reasons: Vec<Reason>,
}

impl Setup {
    /// Bytes of the pool.
    pub fn bytes(&self) -> u64 {
        u64::from(self.slots) * SLOT_BYTES
    }

    /// What goes through this pool.
    pub fn bounce(&self) -> Bounce {
        if self.is_forced {
            Bounce::All
        } else {
            Bounce::Needed
        }
    }

    /// The model's configuration of this pool; `start` as for [`SwiotlbConfig::start`].
    pub fn config(&self, engine: Engine, page_bytes: u64, start: u64) -> SwiotlbConfig {
        SwiotlbConfig {
            engine,
            slots: self.slots,
            areas: self.areas,
            page_bytes,
            start,
            growth_run_ns: SwiotlbConfig::GROWTH_RUN_NS,
        }
    }
}

/// What the kernel makes of `swiotlb=` on a machine.
///
/// # Errors
/// Why it makes no pool.
pub fn setup(engine: Engine, machine: &Machine, params: SwiotlbParams) -> Result<Setup, Unbounced> {
    if params.force == Some(ForceWord::NoForce) {
        return Err(Unbounced::NoForce);
    }
    let is_forced = params.force == Some(ForceWord::Force) || machine.is_confidential;
    // Since 6.6 arm64 bounces unaligned kmalloc buffers, so it always has a pool.
    let is_for_kmalloc = machine.architecture == Architecture::Arm64
        && engine != Engine::Linux6_1
        && !machine.has_unreachable_memory
        && !machine.is_confidential;
    if !is_forced && !machine.has_unreachable_memory && !is_for_kmalloc {
        return Err(Unbounced::NotNeeded);
    }
    let mut reasons = Vec::new();
    let slots = asked_slots(machine, params, is_for_kmalloc, &mut reasons);
    let areas = asked_areas(machine, params, &mut reasons);
    let slots = rounded(slots, areas, &mut reasons);
    let (slots, areas) = fitted(machine, slots, areas, &mut reasons)?;
    Ok(Setup {
        slots,
        areas,
        is_forced,
        reasons,
    })
}

fn asked_slots(
    machine: &Machine,
    params: SwiotlbParams,
    is_for_kmalloc: bool,
    reasons: &mut Vec<Reason>,
) -> u32 {
    let given = match params.slots {
        None => {
            reasons.push(Reason::Default);
            DEFAULT_SLOTS
        }
        Some(slots) => {
            let whole = slots.next_multiple_of(SEGMENT_SLOTS);
            if whole != slots {
                reasons.push(Reason::Segments(whole));
            }
            whole
        }
    };
    let adjusted_bytes = if machine.is_confidential && machine.architecture == Architecture::X86_64
    {
        let default_bytes = u64::from(DEFAULT_SLOTS) * SLOT_BYTES;
        Some((machine.ram_bytes / 100 * 6).clamp(default_bytes, GIB))
    } else if is_for_kmalloc {
        let pool_bytes = u64::from(given) * SLOT_BYTES;
        Some(machine.ram_bytes.div_ceil(1024).min(pool_bytes))
    } else {
        None
    };
    // A size equal to the default counts as none; any other given size stands.
    let Some(bytes) = adjusted_bytes.filter(|_| given == DEFAULT_SLOTS) else {
        return given;
    };
    let slots = (bytes.div_ceil(SLOT_BYTES) as u32).next_multiple_of(SEGMENT_SLOTS);
    reasons.retain(|reason| *reason != Reason::Default);
    if params.slots.is_some() {
        reasons.push(Reason::DefaultByName(slots));
    }
    reasons.push(if is_for_kmalloc {
        Reason::PerGib(slots)
    } else {
        Reason::Confidential(slots)
    });
    slots
}

fn asked_areas(machine: &Machine, params: SwiotlbParams, reasons: &mut Vec<Reason>) -> u32 {
    // 0 counts as not given.
    let areas = params.areas.filter(|areas| *areas > 0).unwrap_or_else(|| {
        reasons.push(Reason::AreasOfCpus(machine.cpus.max(1)));
        machine.cpus.max(1)
    });
    let power = areas.next_power_of_two();
    if power != areas {
        reasons.push(Reason::AreasPower(power));
    }
    power
}

fn rounded(slots: u32, areas: u32, reasons: &mut Vec<Reason>) -> u32 {
    let need = SEGMENT_SLOTS.saturating_mul(areas);
    if slots < need {
        reasons.push(Reason::AreasNeed(need));
        return need;
    }
    let power = slots.next_power_of_two();
    if power != slots {
        reasons.push(Reason::Power(power));
    }
    power
}

fn fitted(
    machine: &Machine,
    mut slots: u32,
    areas: u32,
    reasons: &mut Vec<Reason>,
) -> Result<(u32, u32), Unbounced> {
    let largest = machine.largest_free_slots.unwrap_or(u32::MAX);
    while slots > largest {
        slots = halved(slots).ok_or(Unbounced::NoMemory)?;
        reasons.push(Reason::Halved(slots));
    }
    let limited = crate::swiotlb::areas_for(areas, slots);
    if limited != areas {
        reasons.push(Reason::AreasLimited(limited));
    }
    Ok((slots, limited))
}
