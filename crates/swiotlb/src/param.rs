//! The `swiotlb=` boot parameter.

use core::fmt;
use core::str::FromStr;

/// Slots in the unit to which a size is rounded up, and the fewest of an area.
const SEGMENT_SLOTS: u64 = 128;
/// Slots where nothing is said: 64 MiB of 2 KiB.
const DEFAULT_SLOTS: u32 = 32768;
/// The most that is accepted: 2 GiB slots would not fit the incumbent's counters either.
const SLOTS_MAX: u64 = 1 << 31;

/// Whether everything, or nothing, is bounced whatever the devices need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bouncing {
    /// `force`: everything.
    Force,
    /// `noforce`: there is no pool at all.
    NoForce,
}

/// `swiotlb=[<slots>][,<areas>][,force|noforce]`, as Linux reads it, but with every mistake an
/// error instead of silence.
///
/// Numbers are decimal, octal after `0` or hexadecimal after `0x`; there are no size suffixes,
/// because the first counts slots of 2 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SwiotlbParam {
    /// Slots as written; `None` where none were.
    pub slots: Option<u32>,
    /// Areas as written; `None` where none were.
    pub areas: Option<u32>,
    /// The word, where there was one.
    pub bouncing: Option<Bouncing>,
}

/// What a [`SwiotlbParam`] comes to after rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EffectivePool {
    /// A power of two, at least 128 for each area.
    pub slots: u32,
    /// A power of two.
    pub areas: u32,
}

/// What is wrong with a `swiotlb=` value, and where: the offset in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamError {
    /// Where.
    pub offset: usize,
    /// What.
    pub kind: ParamErrorKind,
}

/// What is wrong with a `swiotlb=` value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParamErrorKind {
    /// A size suffix, which Linux would silently take for the end of the number.
    Suffix(char),
    /// A number above what can be used, or 0.
    OutOfRange,
    /// Neither a number nor `force` nor `noforce`, or in the wrong place.
    Unknown,
    /// Nothing at all.
    Empty,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match self.kind {
            ParamErrorKind::Suffix(suffix) => write!(
                f,
                "swiotlb: '{suffix}' at byte {at}: sizes take no suffix; they count slots of 2 KiB \
                 (64 MiB = {DEFAULT_SLOTS})"
            ),
            ParamErrorKind::OutOfRange => write!(f, "swiotlb: number at byte {at} out of range"),
            ParamErrorKind::Unknown => write!(
                f,
                "swiotlb: byte {at}: expected <slots>[,<areas>][,force|noforce]"
            ),
            ParamErrorKind::Empty => f.write_str("swiotlb: no value"),
        }
    }
}

impl core::error::Error for ParamError {}

impl FromStr for SwiotlbParam {
    type Err = ParamError;

    /// Reads the value, what stands after `swiotlb=`.
    fn from_str(value: &str) -> Result<Self, ParamError> {
        if value.is_empty() {
            return Err(ParamError {
                offset: 0,
                kind: ParamErrorKind::Empty,
            });
        }
        let mut reader = Reader { value, offset: 0 };
        let mut param = Self {
            slots: reader.number()?,
            ..Self::default()
        };
        // A comma is skipped where there is one: `force` may follow no number at all.
        let separated = reader.comma();
        if param.slots.is_none() || separated {
            param.areas = reader.number()?;
        }
        if param.areas.is_some() && !reader.is_at_end() && !reader.comma() {
            return Err(reader.unknown());
        }
        if !reader.is_at_end() {
            param.bouncing = Some(reader.word()?);
        } else if value.ends_with(',') {
            return Err(reader.unknown());
        }
        Ok(param)
    }
}

struct Reader<'a> {
    value: &'a str,
    offset: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.value[self.offset..]
    }

    fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    fn unknown(&self) -> ParamError {
        self.error(ParamErrorKind::Unknown)
    }

    fn error(&self, kind: ParamErrorKind) -> ParamError {
        ParamError {
            offset: self.offset,
            kind,
        }
    }

    fn comma(&mut self) -> bool {
        let found = self.rest().starts_with(',');
        self.offset += usize::from(found);
        found
    }

    fn number(&mut self) -> Result<Option<u32>, ParamError> {
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
        let (digits, radix) = match hex {
            Some(digits) => (digits, 16),
            None if rest.starts_with('0') => (rest, 8),
            None => (rest, 10),
        };
        let count = digits
            .find(|c: char| !c.is_digit(radix))
            .unwrap_or(digits.len());
        let read = rest.len() - digits.len() + count;
        let number = u64::from_str_radix(&digits[..count], radix);
        let follows = rest[read..].chars().next();
        match (number, follows) {
            (_, Some(c)) if c.is_ascii_alphanumeric() => {
                self.offset += read;
                let is_suffix = "kmgKMG".contains(c);
                Err(if is_suffix {
                    self.error(ParamErrorKind::Suffix(c))
                } else {
                    self.unknown()
                })
            }
            (Ok(number), _) if (1..=SLOTS_MAX).contains(&number) => {
                self.offset += read;
                Ok(Some(number as u32))
            }
            (_, _) => Err(self.error(ParamErrorKind::OutOfRange)),
        }
    }

    fn word(&mut self) -> Result<Bouncing, ParamError> {
        match self.rest() {
            "force" => Ok(Bouncing::Force),
            "noforce" => Ok(Bouncing::NoForce),
            _ => Err(self.unknown()),
        }
    }
}

impl SwiotlbParam {
    /// What it comes to on a machine of `cpus` possible CPUs, as Linux rounds: slots up to 128,
    /// areas up to a power of two (one for each CPU where none are given), then slots to at least
    /// 128 for each area and up to a power of two.
    pub fn effective(&self, cpus: u32) -> EffectivePool {
        let areas = self.areas.unwrap_or(cpus).clamp(1, 1 << 24);
        let areas = areas.next_power_of_two();
        let slots = u64::from(self.slots.unwrap_or(DEFAULT_SLOTS));
        let slots = slots
            .next_multiple_of(SEGMENT_SLOTS)
            .max(SEGMENT_SLOTS * u64::from(areas))
            .next_power_of_two();
        EffectivePool {
            slots: slots as u32,
            areas,
        }
    }
}

impl fmt::Display for SwiotlbParam {
    /// The value as it would be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(slots) = self.slots {
            write!(f, "{slots}")?;
            separator = ",";
        }
        if let Some(areas) = self.areas {
            // Without slots, the comma says that the number is areas.
            write!(f, ",{areas}")?;
            separator = ",";
        }
        match self.bouncing {
            Some(Bouncing::Force) => write!(f, "{separator}force"),
            Some(Bouncing::NoForce) => write!(f, "{separator}noforce"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    fn parsed(value: &str) -> Result<SwiotlbParam, ParamError> {
        value.parse()
    }

    fn refused(value: &str) -> (usize, ParamErrorKind) {
        let error = parsed(value).unwrap_err();
        (error.offset, error.kind)
    }

    #[test]
    fn every_part_may_be_left_out_and_is_printed_as_written() {
        for value in [
            "65536",
            "65536,8",
            "65536,8,force",
            "force",
            "noforce",
            "512,force",
            ",4",
            ",4,force",
        ] {
            let param = parsed(value).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(param.to_string(), value);
            assert_eq!(parsed(&param.to_string()), Ok(param));
        }
    }

    #[test]
    fn numbers_are_octal_and_hexadecimal_too() {
        assert_eq!(parsed("0x200").unwrap().slots, Some(512));
        assert_eq!(parsed("01000").unwrap().slots, Some(512));
    }

    #[test]
    fn a_suffix_is_an_error_that_says_so() {
        assert_eq!(refused("64M"), (2, ParamErrorKind::Suffix('M')));
        assert_eq!(refused("512,4k"), (5, ParamErrorKind::Suffix('k')));
    }

    #[test]
    fn garbage_is_refused_where_it_stands() {
        assert_eq!(refused(""), (0, ParamErrorKind::Empty));
        assert_eq!(refused("forse"), (0, ParamErrorKind::Unknown));
        assert_eq!(refused("512,force,4"), (4, ParamErrorKind::Unknown));
        assert_eq!(refused("512;4"), (3, ParamErrorKind::Unknown));
        assert_eq!(refused("512,"), (4, ParamErrorKind::Unknown));
        assert_eq!(refused("0"), (0, ParamErrorKind::OutOfRange));
        assert_eq!(
            refused("99999999999999999999"),
            (0, ParamErrorKind::OutOfRange)
        );
        assert_eq!(refused("09"), (1, ParamErrorKind::Unknown));
        assert_eq!(refused("-1"), (0, ParamErrorKind::Unknown));
    }

    #[test]
    fn rounding_is_the_incumbents() {
        let effective = |value: &str, cpus| {
            let EffectivePool { slots, areas } = parsed(value).unwrap().effective(cpus);
            (slots, areas)
        };
        assert_eq!(effective("force", 2), (32768, 2));
        assert_eq!(effective("100,1", 2), (128, 1));
        assert_eq!(effective("500,1", 8), (512, 1));
        assert_eq!(effective("600,3", 8), (1024, 4));
        assert_eq!(effective("512", 8), (1024, 8));
        assert_eq!(effective("512", 6), (1024, 8));
    }
}
