//! What can go wrong while an ITS is brought up, and with commands.

use core::fmt;

use dmakit_platform::NoMemory;

use crate::spec::command::Command;
use crate::spec::table::TableKind;
use crate::{ProbeError, Refused};

/// An ITS that did not come up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Not one that can be used.
    Probe(ProbeError),
    /// No memory for a table or the queue.
    Memory(NoMemory),
    /// No memory for the driver's own records.
    Records,
    /// A register that did not take a value.
    Refused(Refused),
    /// It did not come to rest after it was turned off: what its tables' memory is used for is
    /// unknown.
    Busy {
        /// `GITS_CTLR`.
        ctlr: u32,
    },
    /// It has no table of a kind that it cannot do without.
    NoTable(TableKind),
    /// More collections than it has.
    Collections {
        /// How many were asked for.
        asked: u16,
        /// How many it has.
        most: u32,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "no memory for the ITS's tables: {error}"),
            Self::Records => f.write_str("no memory for the records of the ITS"),
            Self::Refused(error) => write!(f, "ITS {error}"),
            Self::Busy { ctlr } => write!(f, "the ITS does not rest (GITS_CTLR {ctlr:#010x})"),
            Self::NoTable(kind) => write!(f, "the ITS has no {kind} table"),
            Self::Collections { asked, most } => {
                write!(f, "{asked} collections, the ITS has {most}")
            }
        }
    }
}

impl core::error::Error for StartError {}

/// A command at which the ITS stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedCommand {
    /// The command.
    pub command: Command,
}

/// Commands that did not take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandFailure {
    /// The ITS refused one. The others of the same call, and all later ones, are not affected.
    Refused(RefusedCommand),
    /// It did not come to the end of them in time; they may still take effect.
    Timeout {
        /// `GITS_CREADR`.
        creadr: u32,
        /// Where it should be.
        cwriter: u32,
    },
    /// Its index is where no command is.
    Strayed {
        /// `GITS_CREADR`.
        creadr: u32,
        /// Where it should end.
        cwriter: u32,
    },
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(RefusedCommand { command }) => {
                write!(f, "the ITS refused the command {command:#x?}")
            }
            Self::Timeout { creadr, cwriter } => {
                write!(f, "the ITS stays at {creadr:#x} of {cwriter:#x}")
            }
            Self::Strayed { creadr, cwriter } => {
                write!(
                    f,
                    "the ITS is at {creadr:#x}, beyond {cwriter:#x} or the queue"
                )
            }
        }
    }
}

impl core::error::Error for CommandFailure {}
