//! An engine with its pool, as it would really be made.

use std::time::Duration;

use anyhow::Context as _;
use dmakit_addr::{DmaMask, PAGE_BYTES};
use dmakit_linux_model as model;
use dmakit_swiotlb::{AREA_SLOTS_MIN, AREAS_MAX, GrowthConfig};
use model::{Bounce, CommandLine, ForceWord, Machine, SwiotlbConfig, SwiotlbParams, Unbounced};

use super::{Engine, SLOT_BYTES};
use crate::load::Load;
use crate::replay::{GrowthFacts, PoolFacts};

/// What is run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub engine: Engine,
    machine: Machine,
    /// The whole line, before any rounding.
    line: CommandLine,
    params: SwiotlbParams,
    /// What comes of it, or why there is no pool.
    pool: Result<Pool, Unbounced>,
    /// Which mappings go through the pool.
    pub bounce: Bounce,
    /// Whether this is what the trace was recorded on.
    pub is_recorded: bool,
}

/// The pool that an engine begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    slots: u64,
    areas: u64,
    is_forced: bool,
    /// Ours alone: how it grows, unless a size was asked for.
    growth: Option<GrowthConfig>,
    reasons: Vec<String>,
}

/// What an engine is replayed on.
pub enum Memory {
    /// No pool at all.
    None,
    /// The model of a kernel's.
    Linux(SwiotlbConfig),
    /// Ours.
    Dmakit {
        slots: u64,
        areas: u64,
        growth: Option<GrowthConfig>,
    },
}

impl Setup {
    /// What `load` was booted with, overlaid with `params`; with `only`, the kernel's defaults
    /// overlaid with `params`. Our own pool takes areas and force from it, but the size only from
    /// `params`: without one it begins small and grows.
    ///
    /// # Errors
    /// A parameter that the kernel would ignore in silence, with the nearest that it knows.
    pub fn new(
        load: &Load,
        engine: Engine,
        params: Option<&str>,
        only: bool,
    ) -> anyhow::Result<Self> {
        let booted = CommandLine::parse(load.command_line()).dma_only();
        let base = if only {
            CommandLine::default()
        } else {
            booted.clone()
        };
        let asked = CommandLine::parse_dma(params.unwrap_or("")).context("--params")?;
        let line = base.overlaid(&asked)?;
        let machine = load.machine();
        let mut params = line.swiotlb()?;
        if engine == Engine::Dmakit {
            params.slots = asked.swiotlb()?.slots;
        }
        let recorded = booted
            .swiotlb()
            .ok()
            .and_then(|p| make(engine, &machine, p).ok());
        let mut setup = Self {
            engine,
            machine,
            params,
            pool: make(engine, &machine, params),
            line,
            bounce: Bounce::AsRecorded,
            is_recorded: false,
        };
        setup.bounce = bounce(load, &setup);
        setup.is_recorded =
            load.recorded_engine() == Some(engine) && recorded.as_ref() == setup.pool.as_ref().ok();
        Ok(setup)
    }

    /// The same with another size, after the engine's rounding; 0 is no pool at all.
    pub fn with_slots(&self, slots: u64) -> Self {
        let mut other = self.clone();
        if slots == 0 {
            other.params = SwiotlbParams {
                force: Some(ForceWord::NoForce),
                ..SwiotlbParams::default()
            };
        } else {
            // A machine that needs no pool gets one where a size is asked for, to try it.
            other.machine.has_unreachable_memory = true;
            other.params.slots = u32::try_from(slots).ok();
        }
        other.pool = make(self.engine, &other.machine, other.params);
        other
    }

    /// The same without a size: ours begins small and grows then.
    pub fn without_size(&self) -> Self {
        let mut other = self.clone();
        other.params.slots = None;
        other.pool = make(self.engine, &other.machine, other.params);
        other
    }

    /// The same, growing by `step` bytes and with `reserve` bytes for what cannot wait; nothing
    /// changes where nothing grows.
    pub fn with_growth(&self, step: u64, reserve: u64) -> Self {
        let mut other = self.clone();
        if let Ok(Pool {
            growth: Some(growth),
            ..
        }) = &mut other.pool
        {
            growth.step = step;
            growth.granule = step.min(reserve);
            growth.reserve = reserve;
        }
        other
    }

    /// Every effective setting from none to `slots_max`, ascending. Where bouncing is forced, no
    /// pool is no choice.
    pub fn sizes(&self, slots_max: u64) -> Vec<Self> {
        let mut sizes = Vec::new();
        if !self.is_forced() {
            sizes.push(self.with_slots(0));
        }
        let mut slots = 1;
        while slots <= slots_max {
            let next = self.with_slots(slots);
            let made = next.slots();
            if made > slots_max || made < slots {
                break;
            }
            sizes.push(next);
            // The least that is rounded up to something larger.
            slots = made + 1;
        }
        sizes
    }

    /// The whole line, before any rounding.
    pub fn command_line(&self) -> &CommandLine {
        &self.line
    }

    /// Whether every streaming mapping is bounced.
    pub fn is_forced(&self) -> bool {
        self.pool.as_ref().is_ok_and(|pool| pool.is_forced)
    }

    /// Slots of the pool, 0 without one.
    pub fn slots(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.slots)
    }

    /// Areas of the pool, 0 without one.
    pub fn areas(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.areas)
    }

    /// How pools grow, where they are ours and do.
    pub fn growth(&self) -> Option<GrowthConfig> {
        self.pool.as_ref().ok()?.growth
    }

    /// What it is replayed on.
    pub fn memory(&self) -> Memory {
        let Ok(pool) = &self.pool else {
            return Memory::None;
        };
        match self.engine {
            Engine::Linux(engine) => Memory::Linux(SwiotlbConfig {
                engine,
                slots: pool.slots as u32,
                areas: pool.areas as u32,
                page_bytes: self.machine.page_bytes,
                start: 0,
                growth_run_ns: SwiotlbConfig::GROWTH_RUN_NS,
            }),
            Engine::Dmakit => Memory::Dmakit {
                slots: pool.slots,
                areas: pool.areas,
                growth: pool.growth,
            },
        }
    }

    /// What to write into a boot line.
    pub fn params_shown(&self) -> String {
        let effective = match &self.pool {
            Ok(pool) => SwiotlbParams {
                // Without a size our pool grows, so naming where it begins would change it.
                slots: pool.growth.is_none().then_some(pool.slots as u32),
                areas: Some(pool.areas as u32),
                force: self.params.force,
            },
            // `noforce` where that was asked for. Where nobody asked, naming it would.
            Err(_) => SwiotlbParams {
                force: self.params.force,
                ..SwiotlbParams::default()
            },
        };
        let mut words: Vec<String> = Vec::new();
        for parameter in self
            .line
            .parameters()
            .iter()
            .filter(|p| p.name != "swiotlb")
        {
            words.push(match &parameter.value {
                Some(value) => format!("{}={value}", parameter.name),
                None => parameter.name.clone(),
            });
        }
        let effective = effective.to_string();
        if !effective.is_empty() {
            words.push(format!("swiotlb={effective}"));
        }
        if words.is_empty() {
            words.push("(no swiotlb=)".into());
        }
        words.join(" ")
    }

    /// The pool.
    pub fn pool_facts(&self) -> PoolFacts {
        PoolFacts {
            slots: self.slots(),
            areas: self.areas(),
            bytes: self.slots() * SLOT_BYTES,
            grows: match self.engine {
                Engine::Dmakit => self.growth().is_some(),
                Engine::Linux(engine) => engine.grows(),
            },
            reasons: self.reasons(),
            growth: self.growth().map(|growth| GrowthFacts {
                step_bytes: growth.step,
                reserve_bytes: growth.reserve,
                bytes_max: growth.bytes_max,
                shrink_after_s: growth.shrink_after.as_secs_f64(),
            }),
        }
    }

    /// How the size came about, where it is not what was asked for; why there is no pool.
    fn reasons(&self) -> Vec<String> {
        match &self.pool {
            Ok(pool) => pool.reasons.clone(),
            Err(unbounced) => vec![format!("no pool: {unbounced}")],
        }
    }
}

/// The pool that an engine makes of parameters.
fn make(engine: Engine, machine: &Machine, params: SwiotlbParams) -> Result<Pool, Unbounced> {
    let linux = match engine {
        Engine::Linux(engine) => engine,
        Engine::Dmakit => model::Engine::Linux6_12,
    };
    let made = model::setup(linux, machine, params)?;
    if engine == Engine::Dmakit {
        return Ok(own(machine, params, made.is_forced));
    }
    Ok(Pool {
        slots: u64::from(made.slots),
        areas: u64::from(made.areas),
        is_forced: made.is_forced,
        growth: None,
        reasons: made.reasons.iter().map(ToString::to_string).collect(),
    })
}

/// Slots of a page: what pools of ours are made of.
pub const PAGE_SLOTS: u64 = PAGE_BYTES / SLOT_BYTES;

/// Ours: sizes are rounded up to whole pages, areas down to none with less than an area's least.
fn own(machine: &Machine, params: SwiotlbParams, is_forced: bool) -> Pool {
    let least = u64::from(AREA_SLOTS_MIN);
    let slots = params
        .slots
        .map(|slots| u64::from(slots).max(1).next_multiple_of(PAGE_SLOTS));
    let areas = params
        .areas
        .filter(|areas| *areas > 0)
        .unwrap_or(machine.cpus);
    let areas = u64::from(areas).clamp(1, AREAS_MAX as u64);
    Pool {
        slots: slots.unwrap_or(least),
        areas: slots.map_or(areas, |slots| areas.min(slots / least).max(1)),
        is_forced,
        growth: slots.is_none().then_some(GROWTH),
        reasons: Vec::new(),
    }
}

/// How our pools grow where nothing is said: by little, so that little is held in vain.
const GROWTH: GrowthConfig = GrowthConfig {
    step: 128 << 10,
    granule: 128 << 10,
    bytes_max: 1 << 30,
    reserve: 128 << 10,
    shrink_after: Duration::from_secs(1),
    headroom: 0,
    node: None,
    limit: DmaMask::ALL,
};

fn bounce(load: &Load, setup: &Setup) -> Bounce {
    let was_forced = load
        .demand
        .mappings
        .iter()
        .any(|mapping| mapping.was_forced);
    match (was_forced, setup.is_forced()) {
        (true, true) | (false, false) => Bounce::AsRecorded,
        (false, true) => Bounce::All,
        (true, false) => Bounce::Needed,
    }
}
