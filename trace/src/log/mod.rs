//! Kernel log text: `dmesg` in its forms, `journalctl -k`, syslog files,
//! serial consoles, logs quoted in mail.
//!
//! [`Reader`] streams cleaned lines and refuses what is no text;
//! [`split`] takes a line's prefix (level, time, host, caller) from its
//! message. Which messages matter is the caller's to know.

mod prefix;
mod reader;
#[cfg(test)]
mod tests;
mod unpacked;

pub use prefix::{Prefix, split};
pub use reader::{Error, LINE_BYTES_MAX, Line, Reader};
pub use unpacked::unpacked;
