//! What can go wrong with a machine in another process.

use std::fmt;
use std::io;
use std::time::Duration;

/// A machine that could not be started or does not answer any more.
#[derive(Debug)]
pub enum QemuError {
    /// There is no such program.
    Missing {
        /// What was to be run.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The program does not say that it is QEMU.
    NotQemu {
        /// What was run.
        program: String,
    },
    /// The program is older than what the drivers were checked against.
    TooOld {
        /// What it says of itself.
        version: String,
    },
    /// The system refused something.
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// QEMU ended, or closed its socket.
    Ended {
        /// What was being done.
        doing: String,
        /// The end of its log.
        log: String,
    },
    /// QEMU refused a command.
    Refused {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
    /// No answer in time.
    Timeout {
        /// What was being waited for.
        waiting: String,
        /// For how long.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// No such device, or no room for it.
    Device(String),
    /// So much memory does not lie in one piece on this board.
    Memory {
        /// Bytes that were asked for.
        bytes: u64,
        /// Bytes that do.
        max: u64,
    },
}

impl fmt::Display for QemuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program, package } => {
                write!(
                    f,
                    "{program} is not installed; on Debian: apt-get install {package}"
                )
            }
            Self::NotQemu { program } => {
                write!(f, "{program} --version names no release of QEMU")
            }
            Self::TooOld { version } => {
                write!(f, "QEMU {version} is too old: 7.2 or later is needed")
            }
            Self::System { doing, error } => write!(f, "{doing}: {error}"),
            Self::Ended { doing, log } => write!(f, "QEMU ended while {doing}; its log: {log}"),
            Self::Refused { command, answer } => {
                write!(f, "QEMU answers {answer:?} to {command:?}")
            }
            Self::Timeout {
                waiting,
                after,
                log,
            } => {
                write!(f, "no {waiting} within {after:?}; QEMU's log: {log}")
            }
            Self::Device(why) => f.write_str(why),
            Self::Memory { bytes, max } => write!(
                f,
                "the board has at most {} MiB of memory in one piece, and not {}",
                max >> 20,
                bytes >> 20
            ),
        }
    }
}

impl std::error::Error for QemuError {}
