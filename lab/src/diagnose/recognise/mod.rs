//! From a line to typed evidence: a table of patterns.
//!
//! Each recogniser has a needle, a few letters that every match contains, so
//! that the many lines about something else cost only substring searches.

mod bounce;
mod cma;
mod debug;
mod fault;
mod pins;
mod space;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;

use regex_lite::{Captures, Regex};

use super::event::Event;

/// One kind of line.
pub struct Recogniser {
    /// Occurs in every match, in this case.
    needle: &'static str,
    /// May capture `dev`, the device's name as the kernel prints it, or `dev2`
    /// where it can stand in another place.
    pattern: &'static str,
    /// Reads the captures; none if the numbers make no sense.
    read: fn(&Captures<'_>) -> Option<Event>,
}

/// All recognisers, patterns compiled when first needed.
pub struct Table {
    rows: Vec<(&'static Recogniser, OnceCell<Option<Regex>>)>,
}

impl Table {
    pub fn new() -> Self {
        let kinds: [&'static [Recogniser]; 6] = [
            bounce::RECOGNISERS,
            cma::RECOGNISERS,
            debug::RECOGNISERS,
            fault::RECOGNISERS,
            space::RECOGNISERS,
            // Last: it also knows drivers' own words for a refused allocation.
            pins::RECOGNISERS,
        ];
        Self {
            rows: kinds
                .into_iter()
                .flatten()
                .map(|row| (row, OnceCell::new()))
                .collect(),
        }
    }

    /// Whether any recogniser could match within the text.
    pub fn may_match(&self, text: &str) -> bool {
        self.rows.iter().any(|(row, _)| text.contains(row.needle))
    }

    /// The event of the message that begins `joined` and is `own` bytes long,
    /// with its device. What lies wholly in the continuation is left to the
    /// line on which it begins.
    pub fn recognise(&self, joined: &str, own: usize) -> Option<(Event, Option<String>)> {
        self.rows.iter().find_map(|(row, compiled)| {
            let at = joined.find(row.needle)?;
            let regex = compiled
                .get_or_init(|| Regex::new(row.pattern).ok())
                .as_ref()?;
            if at >= own && regex.is_match(joined.get(own..)?) {
                return None;
            }
            let found = regex.captures(joined)?;
            if found.get(0)?.start() >= own {
                return None;
            }
            let device = found.name("dev").or_else(|| found.name("dev2"));
            let device = device.map(|m| m.as_str().trim().to_owned());
            (row.read)(&found).map(|event| (event, device))
        })
    }
}

fn text<'a>(found: &'a Captures<'_>, name: &str) -> Option<&'a str> {
    found.name(name).map(|m| m.as_str())
}

fn decimal(found: &Captures<'_>, name: &str) -> Option<u64> {
    text(found, name)?.parse().ok()
}

fn hex(found: &Captures<'_>, name: &str) -> Option<u64> {
    let digits = text(found, name)?;
    u64::from_str_radix(digits.trim_start_matches("0x"), 16).ok()
}

fn errno(found: &Captures<'_>, name: &str) -> Option<u32> {
    text(found, name)?.trim_start_matches('-').parse().ok()
}

/// `N` with a following unit letter or word.
fn bytes(number: u64, unit: &str) -> Option<u64> {
    let shift = match unit.chars().next().map(|c| c.to_ascii_lowercase()) {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => 0,
    };
    number.checked_mul(1 << shift)
}
