//! From where mappings are asked for.

use dmakit_trace::{Context, Level};
use serde::Serialize;

use crate::engine::SLOT_BYTES;

/// Demand of one context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Demanded {
    pub mappings: u64,
    pub bytes: u64,
    /// Slots that the sizes alone need, without alignment.
    pub slots: u64,
}

/// Demand by context. Only a sleepable caller can wait for memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ContextShare {
    pub hard_irq: Demanded,
    pub soft_irq: Demanded,
    pub preempt_off: Demanded,
    pub sleepable: Demanded,
    /// The trace's format does not say.
    pub unknown: Demanded,
}

impl ContextShare {
    /// Counts a mapping.
    pub fn note(&mut self, context: Option<Context>, bytes: u64) {
        let demanded = match context {
            None => &mut self.unknown,
            Some(context) => match context.level {
                Level::HardIrq | Level::Nmi => &mut self.hard_irq,
                Level::SoftIrq => &mut self.soft_irq,
                Level::Task if context.may_sleep() => &mut self.sleepable,
                Level::Task => &mut self.preempt_off,
            },
        };
        demanded.mappings += 1;
        demanded.bytes += bytes;
        demanded.slots += bytes.div_ceil(SLOT_BYTES);
    }

    /// Mappings of all contexts.
    pub fn mappings(&self) -> u64 {
        self.parts().iter().map(|(_, part)| part.mappings).sum()
    }

    /// The contexts by name.
    pub fn parts(&self) -> [(&'static str, Demanded); 5] {
        [
            ("hard interrupt", self.hard_irq),
            ("soft interrupt", self.soft_irq),
            ("preemption off", self.preempt_off),
            ("sleepable", self.sleepable),
            ("unknown", self.unknown),
        ]
    }

    /// Adds another trace's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.hard_irq, other.hard_irq),
            (&mut self.soft_irq, other.soft_irq),
            (&mut self.preempt_off, other.preempt_off),
            (&mut self.sleepable, other.sleepable),
            (&mut self.unknown, other.unknown),
        ] {
            mine.mappings += theirs.mappings;
            mine.bytes += theirs.bytes;
            mine.slots += theirs.slots;
        }
    }
}
