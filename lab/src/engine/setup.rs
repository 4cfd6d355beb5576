//! An engine with its pool, as it would really be made.

use anyhow::Context as _;
use dmakit_linux_model as model;
use model::{Bounce, SEGMENT_SLOTS, SwiotlbConfig};

use super::{Engine, SLOT_BYTES};
use crate::load::Load;
use crate::replay::PoolFacts;

/// What is run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub engine: Engine,
    pub config: SwiotlbConfig,
    pub bounce: Bounce,
    pub forced: bool,
    pub is_recorded: bool,
}

impl Setup {
    /// What `load` was booted with, overlaid with `params`.
    pub fn new(
        load: &Load,
        engine: Engine,
        params: Option<&str>,
        only: bool,
    ) -> anyhow::Result<Self> {
        let _ = only;
        temporary(load, engine, params)
    }

    /// Every effective setting up to `slots_max`, ascending.
    pub fn sizes(setups: &[Self], slots_max: u64) -> Vec<Self> {
        let Some(first) = setups.first() else {
            return Vec::new();
        };
        let mut sizes: Vec<Self> = Vec::new();
        let mut slots = 128;
        while slots <= slots_max {
            let next = first.with_slots(slots);
            if sizes
                .last()
                .is_none_or(|last| last.config.slots != next.config.slots)
            {
                sizes.push(next);
            }
            slots *= 2;
        }
        sizes
    }

    /// The same setup with another size, after the incumbent's rounding.
    pub fn with_slots(&self, slots: u64) -> Self {
        let mut other = self.clone();
        let least = SEGMENT_SLOTS * self.config.areas;
        other.config.slots = (slots as u32).max(least).next_power_of_two();
        other
    }

    /// What to write into a boot line.
    pub fn params_shown(&self) -> String {
        let force = if self.forced { ",force" } else { "" };
        format!("swiotlb={},{}{force}", self.config.slots, self.config.areas)
    }

    /// The pool.
    pub fn pool_facts(&self) -> PoolFacts {
        let slots = u64::from(self.config.slots);
        PoolFacts {
            slots,
            areas: u64::from(self.config.areas),
            bytes: slots * SLOT_BYTES,
            grows: match self.engine {
                Engine::Dmakit => true,
                Engine::Linux(engine) => engine.grows(),
            },
        }
    }
}

/// Stand-in until the command line is parsed by its own crate.
fn temporary(load: &Load, engine: Engine, params: Option<&str>) -> anyhow::Result<Setup> {
    let line = load.facts.command_line.clone().unwrap_or_default();
    let mut slots = 32768;
    let mut areas = 2;
    let mut forced = false;
    for word in line
        .split_whitespace()
        .chain(params.into_iter().flat_map(str::split_whitespace))
    {
        let Some(value) = word.strip_prefix("swiotlb=") else {
            continue;
        };
        for (index, part) in value.split(',').enumerate() {
            match part {
                "force" => forced = true,
                "noforce" => forced = false,
                number if index == 0 => slots = number.parse().context("slots")?,
                number => areas = number.parse().context("areas")?,
            }
        }
    }
    let linux = match engine {
        Engine::Linux(engine) => engine,
        Engine::Dmakit => model::Engine::Linux6_12,
    };
    Ok(Setup {
        engine,
        config: SwiotlbConfig {
            engine: linux,
            slots,
            areas,
            page_bytes: 4096,
            start: 0,
            growth_run_ns: 200_000,
        },
        bounce: if forced && !load.has_bounces() {
            Bounce::All
        } else {
            Bounce::AsRecorded
        },
        forced,
        is_recorded: params.is_none(),
    })
}
