//! Numbers with units, as typed and as printed.

use std::time::Duration;

use thiserror::Error;

/// A size that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    #[error("'{0}' is not a size, expected a number with K, M, G, KiB, MiB, GiB, KB, MB or GB")]
    NotASize(String),
    #[error("'{0}' has the unknown unit '{1}', expected K, M, G, T, KiB, MiB, GiB, KB, MB or GB")]
    UnknownUnit(String, String),
    #[error("'{0}' is more than 2^64 bytes")]
    TooLarge(String),
}

/// Reads `64M`, `64MiB` (binary), `64MB` (decimal) or plain bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NotASize(text.to_owned()));
    }
    let too_large = || SizeError::TooLarge(text.to_owned());
    let number: u64 = number.parse().map_err(|_| too_large())?;
    let scale = match unit.trim_start() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => return Err(SizeError::UnknownUnit(text.to_owned(), other.to_owned())),
    };
    number.checked_mul(scale).ok_or_else(too_large)
}

/// Reads `500ms`, `30s`, `5m`, `1h` or plain seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let wrong = || format!("'{text}' is not a time, expected a number with ms, s, m or h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit.trim_start() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(millis).ok_or_else(wrong)?;
    match millis {
        0 => Err(format!("'{text}' is no time at all")),
        _ => Ok(Duration::from_millis(millis)),
    }
}

/// `12345678` as `12,345,678`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest binary unit that keeps them short: `64 MiB`,
/// `6.3 MiB`, `512 B`.
pub fn bytes(number: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    for (unit, scale) in UNITS {
        if number >= scale {
            return scaled(number, scale, unit);
        }
    }
    format!("{number} B")
}

fn scaled(number: u64, scale: u64, unit: &str) -> String {
    if number % scale == 0 {
        return format!("{} {unit}", grouped(number / scale));
    }
    // Tenths by integers: floating point would round halves by luck.
    let tenths = (u128::from(number) * 10 + u128::from(scale) / 2) / u128::from(scale);
    format!("{}.{} {unit}", grouped((tenths / 10) as u64), tenths % 10)
}

/// Slots and the bytes they are: `3,328 slots (6.5 MiB)`.
pub fn slots(number: u64) -> String {
    format!(
        "{} slot{} ({})",
        grouped(number),
        if number == 1 { "" } else { "s" },
        bytes(number.saturating_mul(crate::engine::SLOT_BYTES))
    )
}

/// Pages and the bytes they are: `16 pages (64 KiB)`.
pub fn pages(number: u64) -> String {
    format!(
        "{} page{} ({})",
        grouped(number),
        if number == 1 { "" } else { "s" },
        bytes(number.saturating_mul(dmakit_addr::PAGE_BYTES))
    )
}

/// `part` of `whole` in per cent with one decimal, `-` of nothing.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = (u128::from(part) * 1000 + u128::from(whole) / 2) / u128::from(whole);
    // A share that is not all never reads as 100, one that is not nothing
    // never as 0.
    let tenths = match tenths {
        1000 if part < whole => 999,
        0 if part > 0 => 1,
        other => other,
    };
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Nanoseconds as seconds with microseconds.
pub fn seconds(ns: u64) -> f64 {
    // Whole microseconds first, so that the printed decimal is short.
    (ns / 1_000) as f64 / 1e6
}

/// A span of time for people: `13.2 s`, `412 ms`, `7.0 us`.
pub fn span(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => (ns as f64, "ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        100.0.. => format!("{value:.0} {unit}"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_binary_and_spelled_out_bytes_are_decimal() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
    }

    #[test]
    fn a_wrong_size_says_what_is_wrong() {
        assert_eq!(parse_size("M"), Err(SizeError::NotASize("M".into())));
        assert_eq!(
            parse_size("3X"),
            Err(SizeError::UnknownUnit("3X".into(), "X".into()))
        );
        assert_eq!(
            parse_size("99999999999G"),
            Err(SizeError::TooLarge("99999999999G".into()))
        );
    }

    #[test]
    fn times_are_read_with_their_unit_and_never_empty() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["0", "s", "5 weeks", "-1s", "99999999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_never_round_to_all_or_nothing() {
        assert_eq!(percent(99_999, 100_000), "99.9 %");
        assert_eq!(percent(1, 1_000_000), "0.1 %");
        assert_eq!(percent(0, 5), "0.0 %");
        assert_eq!(percent(5, 5), "100.0 %");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn bytes_are_short_and_exact_where_they_can_be() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(3328 * 2048), "6.5 MiB");
        assert_eq!(bytes(2047), "2.0 KiB");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
