//! Memory attributes, agreed upon by writing and reading back.

use core::fmt;

use crate::Sharing;
use crate::spec::attributes::{Attributes, Placement};

/// The most often that one register is written: what was wanted, what it said, that without caches.
const ROUNDS_MAX: u32 = 3;

/// A register that did not keep what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Its offset.
    pub register: u64,
    /// What was written.
    pub wrote: u64,
    /// What it said then.
    pub read: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            register,
            wrote,
            read,
        } = self;
        write!(
            f,
            "register {register:#x} did not take {wrote:#018x}, it reads {read:#018x}"
        )
    }
}

impl core::error::Error for Refused {}

impl Sharing {
    /// What to try first.
    pub(crate) const fn attributes(self) -> Attributes {
        match self {
            Self::Negotiated => Attributes::SHARED,
            Self::Never => Attributes::UNCACHED,
        }
    }
}

/// Writes `value` with attributes that the hardware accepts, `attributes` if it can; gives those
/// that it took.
///
/// What it reads back is what it will do: other attributes are adopted and written once more, so
/// that memory is never reached under two of them. What is not shareable is not cached either.
/// `exchange` writes the register and reads it back. Everything but the attributes must stick.
pub(crate) fn negotiate(
    register: u64,
    place: Placement,
    value: u64,
    attributes: Attributes,
    mut exchange: impl FnMut(u64) -> u64,
) -> Result<Attributes, Refused> {
    let value = value & !place.mask();
    let mut attributes = attributes;
    let mut rounds = 0;
    loop {
        let wrote = value | place.encode(attributes);
        let read = exchange(wrote);
        let seen = place.decode(read);
        rounds += 1;
        if read & !place.mask() != value || rounds > ROUNDS_MAX {
            return Err(Refused {
                register,
                wrote,
                read,
            });
        }
        let adopted = match seen.shareability {
            0 => Attributes::UNCACHED,
            _ => seen,
        };
        if seen == attributes || adopted == attributes {
            return Ok(adopted);
        }
        attributes = adopted;
    }
}
