//! The grammar of `swiotlb=`.

use std::fmt;
use std::str::FromStr;

use crate::swiotlb::{SEGMENT_SLOTS, SLOT_BYTES};

/// Slots of a pool that ends at 4 GiB at the latest, and so the largest that makes sense.
const SLOTS_MAX: u64 = (1 << 32) / SLOT_BYTES;
/// Areas past this have no slots left: each needs a segment.
const AREAS_MAX: u64 = SLOTS_MAX / SEGMENT_SLOTS as u64;

/// The last word of `swiotlb=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForceWord {
    /// `force`: every streaming mapping is bounced.
    Force,
    /// `noforce`: there is no pool at all.
    NoForce,
}

/// `swiotlb=[slots][,areas][,force|noforce]`, as written and before any rounding.
///
/// Numbers are decimal, octal with a leading `0`, or hexadecimal with `0x`; `K` and `M` do not
/// exist. What the kernel takes in silence and ignores is an error here, with what it would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwiotlbParams {
    /// Slots of 2 KiB.
    pub slots: Option<u32>,
    /// Areas, each with its own lock.
    pub areas: Option<u32>,
    /// Whether everything or nothing is bounced.
    pub force: Option<ForceWord>,
}

/// What is wrong with a `swiotlb=`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SwiotlbParamsError {
    /// A size suffix: the number counts slots, and the kernel ignores the suffix and what follows.
    Suffix {
        /// As written.
        text: String,
        /// The slots that the kernel would take.
        slots: u64,
        /// The slots that were probably meant; `None` past what a pool can be.
        meant_slots: Option<u64>,
    },
    /// Neither a number nor a known word: the kernel ignores it and what follows.
    Word {
        /// As written.
        text: String,
    },
    /// Too large a number; the kernel would wrap or fail to allocate.
    OutOfRange {
        /// As written.
        text: String,
        /// The largest that makes sense.
        max: u64,
    },
    /// Something after `force` or `noforce`: the kernel then knows neither word.
    AfterForce {
        /// As written.
        text: String,
    },
    /// Nothing at all.
    Empty,
}

impl fmt::Display for SwiotlbParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suffix {
                text,
                slots,
                meant_slots,
            } => {
                write!(
                    f,
                    "swiotlb= counts slots of 2 KiB and knows no K, M or G: Linux reads "
                )?;
                write!(f, "\"{text}\" as {slots} slots")?;
                match meant_slots {
                    Some(meant) => write!(f, "; swiotlb={meant} is that size"),
                    None => Ok(()),
                }
            }
            Self::Word { text } => write!(
                f,
                "swiotlb= takes [slots][,areas][,force|noforce]; Linux ignores \"{text}\""
            ),
            Self::OutOfRange { text, max } => {
                write!(
                    f,
                    "swiotlb= number \"{text}\" is out of range (at most {max})"
                )
            }
            Self::AfterForce { text } => {
                write!(
                    f,
                    "swiotlb= ends with force or noforce; Linux ignores \"{text}\""
                )
            }
            Self::Empty => f.write_str("swiotlb= without a value changes nothing"),
        }
    }
}

impl std::error::Error for SwiotlbParamsError {}

impl FromStr for SwiotlbParams {
    type Err = SwiotlbParamsError;

    /// Parses what stands behind `swiotlb=`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SwiotlbParamsError::Empty);
        }
        let mut params = Self::default();
        let mut rest = text;
        if let Some((slots, after)) = number(rest, SLOTS_MAX)? {
            params.slots = Some(slots);
            rest = after;
        }
        let mut comma = rest.strip_prefix(',');
        rest = comma.unwrap_or(rest);
        // A number behind the comma is areas even where slots are left out.
        if comma.is_some() {
            if let Some((areas, after)) = number(rest, AREAS_MAX)? {
                params.areas = Some(areas);
                comma = after.strip_prefix(',');
                rest = comma.unwrap_or(after);
            }
        }
        let is_word_due = comma.is_some() || rest.len() == text.len();
        params.force = match rest {
            "" => None,
            "force" if is_word_due => Some(ForceWord::Force),
            "noforce" if is_word_due => Some(ForceWord::NoForce),
            _ if rest.starts_with("force,") || rest.starts_with("noforce,") => {
                return Err(SwiotlbParamsError::AfterForce {
                    text: rest.to_owned(),
                });
            }
            _ => {
                return Err(SwiotlbParamsError::Word {
                    text: rest.to_owned(),
                });
            }
        };
        Ok(params)
    }
}

/// A number at the beginning, if there is one, and what follows it.
fn number(text: &str, max: u64) -> Result<Option<(u32, &str)>, SwiotlbParamsError> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let lower = text
        .get(..2)
        .is_some_and(|head| head.eq_ignore_ascii_case("0x"));
    let has_hex = lower && text[2..].starts_with(|c: char| c.is_ascii_hexdigit());
    let (radix, digits) = match has_hex {
        true => (16, &text[2..]),
        false if text.starts_with('0') => (8, text),
        false => (10, text),
    };
    let len = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let (digits, after) = digits.split_at(len);
    let written = &text[..text.len() - after.len()];
    let out_of_range = || SwiotlbParamsError::OutOfRange {
        text: written.to_owned(),
        max,
    };
    let value = u64::from_str_radix(digits, radix).map_err(|_| out_of_range())?;
    if let Some(shift) = after.chars().next().and_then(suffix_shift) {
        let end = after.find(',').unwrap_or(after.len());
        let meant = value.checked_shl(shift).map(|bytes| bytes / SLOT_BYTES);
        return Err(SwiotlbParamsError::Suffix {
            text: format!("{written}{}", &after[..end]),
            slots: value,
            meant_slots: meant
                .filter(|slots| *slots <= SLOTS_MAX && value << shift >> shift == value),
        });
    }
    if value > max {
        return Err(out_of_range());
    }
    u32::try_from(value)
        .map(|value| Some((value, after)))
        .map_err(|_| out_of_range())
}

fn suffix_shift(c: char) -> Option<u32> {
    match c.to_ascii_lowercase() {
        'k' => Some(10),
        'm' => Some(20),
        'g' => Some(30),
        _ => None,
    }
}

impl fmt::Display for SwiotlbParams {
    /// As it stands behind `swiotlb=`; empty if nothing is set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let force = match self.force {
            None => "",
            Some(ForceWord::Force) => "force",
            Some(ForceWord::NoForce) => "noforce",
        };
        match (self.slots, self.areas) {
            (Some(slots), Some(areas)) => write!(f, "{slots},{areas}")?,
            (Some(slots), None) => write!(f, "{slots}")?,
            (None, Some(areas)) => write!(f, ",{areas}")?,
            (None, None) => return f.write_str(force),
        }
        if force.is_empty() {
            Ok(())
        } else {
            write!(f, ",{force}")
        }
    }
}

impl SwiotlbParams {
    /// These with what `over` sets; `force` stays unless `over` says `force` or `noforce`.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        let names_size = over.slots.is_some() || over.areas.is_some();
        Self {
            slots: if names_size { over.slots } else { self.slots },
            areas: if names_size { over.areas } else { self.areas },
            force: over.force.or(self.force),
        }
    }
}
