//! An engine with its pool, as it would really be made.

use anyhow::Context as _;
use dmakit_linux_model as model;
use model::{
    Architecture, Bounce, CommandLine, ForceWord, Machine, SwiotlbConfig, SwiotlbParams, Unbounced,
};

use super::{Engine, SLOT_BYTES};
use crate::load::Load;
use crate::replay::PoolFacts;

/// What is run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub engine: Engine,
    machine: Machine,
    /// The whole line, before any rounding.
    line: CommandLine,
    params: SwiotlbParams,
    /// What the kernel makes of it, or why it makes no pool.
    pub pool: Result<model::Setup, Unbounced>,
    /// Which mappings go through the pool.
    pub bounce: Bounce,
    /// Whether this is what the trace was recorded on.
    pub is_recorded: bool,
}

impl Setup {
    /// What `load` was booted with, overlaid with `params`; with `only`, the kernel's defaults
    /// overlaid with `params`.
    ///
    /// # Errors
    /// A parameter that the kernel would ignore in silence, with the nearest that it knows.
    pub fn new(
        load: &Load,
        engine: Engine,
        params: Option<&str>,
        only: bool,
    ) -> anyhow::Result<Self> {
        let booted =
            CommandLine::parse(load.facts.command_line.as_deref().unwrap_or("")).dma_only();
        let base = if only {
            CommandLine::default()
        } else {
            booted.clone()
        };
        let asked = CommandLine::parse_dma(params.unwrap_or("")).context("--params")?;
        let line = base.overlaid(&asked).context("the trace's command line")?;
        let machine = machine(load);
        let params = line.swiotlb()?;
        let mut setup = Self {
            engine,
            machine,
            params,
            pool: model::setup(linux(engine), &machine, params),
            line,
            bounce: Bounce::AsRecorded,
            is_recorded: false,
        };
        setup.bounce = bounce(load, &setup);
        let recorded = booted.swiotlb().unwrap_or_default();
        let recorded = model::setup(linux(engine), &machine, recorded);
        setup.is_recorded = load.recorded_engine() == Some(engine) && recorded == setup.pool;
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
        other.pool = model::setup(linux(self.engine), &other.machine, other.params);
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

    /// Whether every streaming mapping is bounced.
    pub fn is_forced(&self) -> bool {
        self.pool.as_ref().is_ok_and(|pool| pool.is_forced)
    }

    /// Slots of the pool, 0 without one.
    pub fn slots(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| u64::from(pool.slots))
    }

    /// Areas of the pool, 0 without one.
    pub fn areas(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| u64::from(pool.areas))
    }

    /// The model's configuration, if there is a pool.
    pub fn config(&self) -> Option<SwiotlbConfig> {
        let pool = self.pool.as_ref().ok()?;
        Some(pool.config(linux(self.engine), self.machine.page_bytes, 0))
    }

    /// What to write into a boot line.
    pub fn params_shown(&self) -> String {
        let effective = match &self.pool {
            Ok(pool) => SwiotlbParams {
                slots: Some(pool.slots),
                areas: Some(pool.areas),
                force: self.params.force,
            },
            Err(_) => SwiotlbParams {
                force: Some(ForceWord::NoForce),
                ..SwiotlbParams::default()
            },
        };
        let effective = CommandLine::parse(&format!("swiotlb={effective}"));
        // Both were read before, so laying one on the other cannot fail.
        let line = self.line.overlaid(&effective).unwrap_or(effective);
        line.to_string()
    }

    /// The pool.
    pub fn pool_facts(&self) -> PoolFacts {
        PoolFacts {
            slots: self.slots(),
            areas: self.areas(),
            bytes: self.slots() * SLOT_BYTES,
            grows: match self.engine {
                Engine::Dmakit => true,
                Engine::Linux(engine) => engine.grows(),
            },
        }
    }

    /// How the size came about, where it is not what was asked for; why there is no pool.
    pub fn reasons(&self) -> Vec<String> {
        match &self.pool {
            Ok(pool) => pool.reasons.iter().map(ToString::to_string).collect(),
            Err(unbounced) => vec![format!("no pool: {unbounced}")],
        }
    }
}

/// The rules by which `swiotlb=` is read; ours are those of the latest.
fn linux(engine: Engine) -> model::Engine {
    match engine {
        Engine::Linux(engine) => engine,
        Engine::Dmakit => model::Engine::Linux6_12,
    }
}

/// The machine of the sidecar; without one, a PC with as many CPUs as the trace shows.
fn machine(load: &Load) -> Machine {
    let capture = load.sidecar.as_ref().map(|sidecar| &sidecar.capture);
    let arch = capture.and_then(|capture| capture.arch.as_deref());
    let architecture = arch.map_or(Architecture::X86_64, Architecture::from_name);
    let ram_kib = capture.and_then(|capture| capture.mem_total_kib);
    let shown = load
        .demand
        .mappings
        .iter()
        .map(|mapping| mapping.cpu + 1)
        .max();
    Machine {
        architecture,
        ram_bytes: ram_kib.unwrap_or(0) << 10,
        cpus: capture
            .and_then(|capture| capture.cpus)
            .or(shown)
            .unwrap_or(1),
        page_bytes: 4096,
        has_unreachable_memory: has_unreachable_memory(load),
        is_confidential: false,
        largest_free_slots: None,
    }
}

/// The kernel's log lists the ranges of memory; a bounce that nobody forced shows it too. Without
/// a log, a pool is taken to be there.
fn has_unreachable_memory(load: &Load) -> bool {
    let natural = |mapping: &model::Mapping| mapping.was_bounced && !mapping.was_forced;
    if load.demand.mappings.iter().any(natural) {
        return true;
    }
    let Some(sidecar) = &load.sidecar else {
        return true;
    };
    let ends = sidecar.dmesg.lines.iter().filter_map(|line| {
        let (_, range) = line.split_once(" node ")?.1.split_once("[mem 0x")?;
        let (_, last) = range.split_once("-0x")?;
        u64::from_str_radix(last.trim_end_matches(']'), 16).ok()
    });
    ends.max().is_some_and(|last| last >> 32 != 0)
}

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
