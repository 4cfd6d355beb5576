//! Commands that the SMMU did not execute, and what becomes of those who wait for them.

use core::fmt;

use crate::queue::COMMAND_TIME_MAX;
use crate::spec::command::{CFGI_ALL, Command, SYNC, TLBI_NSNH_ALL, opcode};
use crate::spec::registers::{COMMAND_ERROR_ABORT, COMMAND_ERROR_ATC_TIMEOUT};

/// Commands that did not take effect. Nothing that waited for them may be reused until a later sync
/// succeeds, maybe after a [reset](crate::Smmu::reset).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncFailure {
    /// They did not complete in time.
    Timeout {
        /// How far the SMMU had come, counted from the start.
        consumed: u64,
        /// How far it was to come.
        target: u64,
    },
    /// The SMMU refused even the widest invalidation.
    Refused(RefusedCommand),
    /// The SMMU has gone into service failure mode: it executes nothing until it is reset.
    Service,
}

impl fmt::Display for SyncFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { consumed, target } => write!(
                f,
                "the SMMU has executed {consumed} commands and not {target} in {COMMAND_TIME_MAX:?}"
            ),
            Self::Refused(refused) => refused.fmt(f),
            Self::Service => f.write_str("the SMMU is in service failure mode"),
        }
    }
}

impl core::error::Error for SyncFailure {}

/// A command that the SMMU stopped at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedCommand {
    /// The reason, as the manual numbers it: 1 illegal, 2 unreadable, 3 device invalidation timed
    /// out.
    pub reason: u32,
    /// The command.
    pub command: Command,
}

impl fmt::Display for RefusedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = self.command;
        let reason = self.reason;
        write!(
            f,
            "the SMMU stopped at command {low:#018x} {high:#018x}, reason {reason}"
        )
    }
}

/// What to do about a refused command. A refused invalidation must not be skipped: somebody waits
/// to reuse what it was to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remedy {
    /// It was not at fault.
    Repeat,
    /// This does as much, or nothing was asked that matters.
    Replace(Command),
    /// Nothing does as much.
    GiveUp,
}

impl Remedy {
    pub(crate) fn of(reason: u32, command: Command) -> Self {
        if matches!(reason, COMMAND_ERROR_ABORT | COMMAND_ERROR_ATC_TIMEOUT) {
            return Self::Repeat;
        }
        if [SYNC, CFGI_ALL, TLBI_NSNH_ALL].contains(&command) {
            return Self::GiveUp;
        }
        match opcode(command) {
            0x03..=0x07 => Self::Replace(CFGI_ALL),
            0x10..=0x3f => Self::Replace(TLBI_NSNH_ALL),
            _ => Self::Replace(SYNC),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::command::{cfgi_ste, tlbi_nh_asid};

    #[test]
    fn a_refused_invalidation_becomes_a_wider_one_and_never_none() {
        let of = |command| Remedy::of(1, command);
        assert_eq!(of(cfgi_ste(3)), Remedy::Replace(CFGI_ALL));
        assert_eq!(of(tlbi_nh_asid(3)), Remedy::Replace(TLBI_NSNH_ALL));
        assert_eq!(of([0xff, 0]), Remedy::Replace(SYNC));
        for widest in [CFGI_ALL, TLBI_NSNH_ALL, SYNC] {
            assert_eq!(of(widest), Remedy::GiveUp);
            assert_eq!(Remedy::of(2, widest), Remedy::Repeat);
        }
    }
}
