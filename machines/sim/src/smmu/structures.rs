//! Reading stream table entries and context descriptors.

use super::SmmuConfig;
use super::caches::Tag;
use super::record::{BAD_DESCRIPTOR, BAD_ENTRY, BAD_SUBSTREAM, Stopped};
use super::walk::Tables;

/// What a stream table entry says to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    Bypass,
    Stage1(Contexts),
    Stage2(Tag, Tables),
}

/// Where a stream's context descriptors are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contexts {
    pub(super) base: u64,
    /// log2 of how many there are; 0 for one, without substreams.
    pub(super) shift: u32,
    /// Whether `base` is a table of tables of 64.
    pub(super) two_levels: bool,
    /// Whether transactions without a substream use descriptor 0.
    pub(super) plain_uses_0: bool,
}

/// Where a descriptor is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    At(u64),
    /// In the table that the entry at the first address leads to, so far from its start.
    Below(u64, u64),
}

impl Contexts {
    /// The descriptor of a transaction, by its number.
    pub(super) fn number(&self, substream: Option<u32>) -> Result<u32, Stopped> {
        match (self.shift, substream) {
            (0, None) => Ok(0),
            (_, None) if self.plain_uses_0 => Ok(0),
            // Descriptor 0 is that of transactions without one.
            (1.., Some(id)) if id >> self.shift == 0 && !(id == 0 && self.plain_uses_0) => Ok(id),
            _ => Err(BAD_SUBSTREAM),
        }
    }

    pub(super) fn place(&self, number: u32) -> Place {
        let number = u64::from(number);
        match self.two_levels {
            true => Place::Below(self.base + (number >> 6) * 8, (number & 63) * 64),
            false => Place::At(self.base + number * 64),
        }
    }
}

fn bits(word: u64, high: u32, low: u32) -> u64 {
    word >> low & (u64::MAX >> (63 - (high - low)))
}

/// 5.2.
pub(super) fn route(entry: &[u64; 8], config: &SmmuConfig) -> Result<Route, Stopped> {
    let valid = entry[0] & 1 != 0;
    match (valid, bits(entry[0], 3, 1)) {
        (false, _) => Err(BAD_ENTRY),
        (true, 0b000) => Err(Stopped::Abort),
        (true, 0b100) => Ok(Route::Bypass),
        (true, 0b101) => {
            let shift = bits(entry[0], 63, 59) as u32;
            // The format says nothing where there is one descriptor.
            let two_levels = match (shift, bits(entry[0], 5, 4)) {
                (0, _) | (_, 0) => false,
                (_, 1) if config.two_level_contexts => true,
                _ => return Err(BAD_ENTRY),
            };
            // Stalls cannot be turned off where there are none.
            let stalls = bits(entry[1], 27, 27);
            if shift > config.substream_bits || stalls != 0 {
                return Err(BAD_ENTRY);
            }
            Ok(Route::Stage1(Contexts {
                base: entry[0] & 0x000f_ffff_ffff_ffc0,
                shift,
                two_levels,
                plain_uses_0: bits(entry[1], 1, 0) == 0b10,
            }))
        }
        (true, 0b110) if config.stage_2 => stage_2(entry, config),
        _ => Err(BAD_ENTRY),
    }
}

fn stage_2(entry: &[u64; 8], config: &SmmuConfig) -> Result<Route, Stopped> {
    let shift = granule(bits(entry[2], 47, 46)).ok_or(BAD_ENTRY)?;
    let input_bits = 64 - bits(entry[2], 37, 32) as u32;
    let start = bits(entry[2], 39, 38) as u32;
    let is_64_bit = bits(entry[2], 51, 51) != 0;
    let start_level = if shift == 12 { 2_u32 } else { 3 }.checked_sub(start);
    let start_level = start_level
        .filter(|_| is_64_bit && (25..=config.input_bits_max(shift)).contains(&input_bits));
    let tables = Tables {
        base: entry[3] & 0x000f_ffff_ffff_fff0,
        shift,
        input_bits,
        start_level: start_level.ok_or(BAD_ENTRY)?,
        stage: 2,
        output_bits: config.output_bits,
    };
    Ok(Route::Stage2(Tag::Vmid(entry[2] as u16), tables))
}

/// 5.4: the tag and the tables of a context descriptor.
pub(super) fn context(
    descriptor: &[u64; 8],
    config: &SmmuConfig,
) -> Result<(Tag, Tables), Stopped> {
    let word = descriptor[0];
    // V, AA64 and A must be set; no second table.
    let required = 1 << 31 | 1 << 41 | 1 << 46 | 1 << 30;
    if word & required != required {
        return Err(BAD_DESCRIPTOR);
    }
    let shift = granule(bits(word, 7, 6)).ok_or(BAD_DESCRIPTOR)?;
    let input_bits = 64 - bits(word, 5, 0) as u32;
    if !(25..=config.input_bits_max(shift)).contains(&input_bits) {
        return Err(BAD_DESCRIPTOR);
    }
    let tables = Tables {
        base: descriptor[1] & 0x000f_ffff_ffff_fff0,
        shift,
        input_bits,
        start_level: 4 - (input_bits - shift).div_ceil(shift - 3),
        stage: 1,
        output_bits: config.output_bits,
    };
    Ok((Tag::Asid((word >> 48) as u16), tables))
}

fn granule(field: u64) -> Option<u32> {
    match field {
        0 => Some(12),
        1 => Some(16),
        2 => Some(14),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unmodified_linux_driver_wrote_is_understood() {
        // Linux 6.12.95, out of a paused guest.
        let entry = [0x4587_c00b, 0xd6, 0, 0, 0, 0, 0, 0];
        let config = SmmuConfig::default();
        let contexts = Contexts {
            base: 0x4587_c000,
            shift: 0,
            two_levels: false,
            plain_uses_0: true,
        };
        assert_eq!(route(&entry, &config), Ok(Route::Stage1(contexts)));
        let abort = [1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(route(&abort, &config), Err(Stopped::Abort));
        let words = [
            0x0003_e204_c000_3510,
            0x4587_d000,
            0,
            0xf404_ff44,
            0,
            0,
            0,
            0,
        ];
        let (tag, tables) = context(&words, &config).unwrap();
        assert_eq!(tag, Tag::Asid(3));
        assert_eq!((tables.base, tables.shift), (0x4587_d000, 12));
        assert_eq!((tables.input_bits, tables.start_level), (48, 0));
    }
}
