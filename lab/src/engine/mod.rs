//! What a load can be run on.

mod areas;
mod arena;
mod bounce;
mod lent_area;
mod no_pool;
mod pools;
mod run;
mod setup;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use dmakit_linux_model as model;

pub use areas::{claim_all, page_bytes, resized, with_pages};
pub use bounce::Bounce;
pub use lent_area::AREA_GRAIN;
pub use pools::{PoolKind, PoolRun, run_pool};
pub use run::{Failures, Run, confidence, failures, notes, run};
pub use setup::{PAGE_SLOTS, Setup};

/// Bytes of a slot, Linux's and ours.
pub const SLOT_BYTES: u64 = model::SLOT_BYTES;

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This project's bounce pool: the code that ships.
    Dmakit,
    /// The model of a Linux version.
    Linux(model::Engine),
}

impl Engine {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dmakit => "dmakit",
            Self::Linux(engine) => engine.name(),
        }
    }
}

impl ValueEnum for Engine {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Dmakit,
            Self::Linux(model::Engine::Linux6_1),
            Self::Linux(model::Engine::Linux6_12),
            Self::Linux(model::Engine::Linux6_12Dynamic),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
