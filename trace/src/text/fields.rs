//! `key=value` pieces of an event's text.

use dmakit_addr::{Attributes, Direction};

/// What a field should have been. The line and its position are added by the caller.
pub(crate) type Expected = &'static str;

/// The rest of an event's text, read from left to right.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }

    /// Everything before `mark`, which is passed.
    pub(crate) fn until(&mut self, mark: &str, expected: Expected) -> Result<&'a str, Expected> {
        let (before, after) = self.rest.split_once(mark).ok_or(expected)?;
        self.rest = after;
        Ok(before)
    }

    /// The next piece up to a space.
    pub(crate) fn piece(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start_matches(' ');
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        let end = rest.find(' ').unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        self.rest = after;
        Some(piece)
    }

    /// The value of the next field called `key`; fields between, which a later kernel may have
    /// added, are passed over. Where there is none, nothing is passed.
    pub(crate) fn optional(&mut self, key: &str) -> Option<&'a str> {
        let mut ahead = *self;
        while let Some(piece) = ahead.piece() {
            if let Some(value) = piece
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('='))
            {
                *self = ahead;
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn required(&mut self, key: &str, expected: Expected) -> Result<&'a str, Expected> {
        self.optional(key).ok_or(expected)
    }

    pub(crate) fn decimal(&mut self, key: &str, expected: Expected) -> Result<u64, Expected> {
        decimal(self.required(key, expected)?).ok_or(expected)
    }

    pub(crate) fn hex(&mut self, key: &str, expected: Expected) -> Result<u64, Expected> {
        hex(self.required(key, expected)?).ok_or(expected)
    }

    pub(crate) fn direction(&mut self) -> Result<Direction, Expected> {
        const EXPECTED: Expected = "dir=TO_DEVICE, FROM_DEVICE or BIDIRECTIONAL";
        direction(self.required("dir", EXPECTED)?).ok_or(EXPECTED)
    }

    /// A list `{0x1,0x2}` in hexadecimal.
    pub(crate) fn list(&mut self, key: &str, expected: Expected) -> Result<Vec<u64>, Expected> {
        list(self.required(key, expected)?).ok_or(expected)
    }
}

/// A decimal number that fits.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut number = 0u64;
    for byte in text.bytes() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// A hexadecimal number that fits, with or without `0x`.
pub(crate) fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut number = 0u64;
    for byte in digits.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return None,
        };
        number = number << 4 | u64::from(digit);
    }
    Some(number)
}

fn list(text: &str) -> Option<Vec<u64>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    // Every entry but the last has a comma: the guess is exact or a little high.
    let mut numbers = Vec::with_capacity(inner.len() / 8 + 1);
    for entry in inner.split(',') {
        numbers.push(hex(entry)?);
    }
    Some(numbers)
}

pub(crate) fn direction(text: &str) -> Option<Direction> {
    match text {
        "TO_DEVICE" => Some(Direction::ToDevice),
        "FROM_DEVICE" => Some(Direction::FromDevice),
        "BIDIRECTIONAL" => Some(Direction::Bidirectional),
        _ => None,
    }
}

/// The set that `A|B|0x…` names, and how many of its names are unknown.
pub(crate) fn attributes(text: &str) -> (Attributes, u64) {
    // Newer than the names that the mapping API knows.
    const CPU_CACHE_CLEAN: Attributes = Attributes::from_bits(1 << 11);
    const CC_SHARED: Attributes = Attributes::from_bits(1 << 13);
    let mut set = Attributes::NONE;
    let mut unknown = 0;
    for name in text.split('|').filter(|name| !name.is_empty()) {
        let one = match name {
            "CACHELINES_OVERLAP" => Some(CPU_CACHE_CLEAN),
            "CC_SHARED" => Some(CC_SHARED),
            _ => Attributes::by_name(name).or_else(|| {
                name.starts_with("0x")
                    .then(|| hex(name).and_then(|bits| u32::try_from(bits).ok()))
                    .flatten()
                    .map(Attributes::from_bits)
            }),
        };
        match one {
            Some(one) => set = set | one,
            None => unknown += 1,
        }
    }
    (set, unknown)
}
