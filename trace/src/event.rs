//! One event: when, where, in whose name, and what.

use crate::{Body, Name, Position};

/// The task that was running; in an interrupt, the one interrupted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Task {
    /// Its name, at most 15 bytes in Linux. It may hold any character.
    pub comm: Name,
    /// Its thread id; 0 for the idle task of any CPU.
    pub pid: u32,
}

/// What an interrupt stack looks like, innermost first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// A task.
    Task,
    /// A soft interrupt.
    SoftIrq,
    /// A hard interrupt, perhaps inside a soft one.
    HardIrq,
    /// A non-maskable interrupt.
    Nmi,
}

/// The context in which an event was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Context {
    /// Task or interrupt.
    pub level: Level,
    /// Whether hard interrupts were off.
    pub irqs_off: bool,
    /// Whether soft interrupts were off without one running.
    pub bh_off: bool,
    /// How deep preemption was disabled, at most 15.
    pub preempt_depth: u8,
    /// How deep migration was disabled, at most 15.
    pub migrate_depth: u8,
}

impl Context {
    /// A task that may sleep.
    pub const SLEEPABLE: Self = Self {
        level: Level::Task,
        irqs_off: false,
        bh_off: false,
        preempt_depth: 0,
        migrate_depth: 0,
    };

    /// Whether the code may sleep there, as far as the flags tell.
    pub fn may_sleep(self) -> bool {
        self.level == Level::Task && !self.irqs_off && !self.bh_off && self.preempt_depth == 0
    }
}

/// One recorded event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Its number in the trace as delivered, from 0.
    pub index: u64,
    /// Where it stands in its input.
    pub position: Position,
    /// When, in nanoseconds of the trace's clock (microsecond steps in ftrace text). With a clock
    /// that counts (`counter`, `x86-tsc`) its ticks.
    pub time_ns: u64,
    /// The CPU that recorded it.
    pub cpu: u32,
    /// The task.
    pub task: Task,
    /// The context, where the format says it (`perf script` does not).
    pub context: Option<Context>,
    /// What happened.
    pub body: Body,
}
