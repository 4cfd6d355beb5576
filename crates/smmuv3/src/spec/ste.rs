//! Stream table entries (5.2): 64 bytes each, and the level-1 descriptors above them (5.1).

/// Words of an entry.
pub const WORDS: usize = 8;
/// Bytes of an entry.
pub const BYTES: u64 = 64;

/// An entry.
pub type Ste = [u64; WORDS];

/// Valid; transactions of the stream are aborted, without a record.
pub const ABORT: Ste = [1, 0, 0, 0, 0, 0, 0, 0];

/// Valid; transactions of the stream pass untranslated, with their own attributes.
pub const BYPASS: Ste = [1 | 0b100 << 1, 0b01 << 44, 0, 0, 0, 0, 0, 0];

const CONFIG_STAGE_1: u64 = 0b101 << 1;
const CONFIG_STAGE_2: u64 = 0b110 << 1;
/// Transactions without a substream use descriptor 0.
const S1DSS_SUBSTREAM_0: u64 = 0b10;
const S1C_WRITE_BACK: u64 = 1 << 2 | 1 << 4;
const S1C_SHARE_INNER: u64 = 0b11 << 6;
const S1FMT_TABLES_OF_4K: u64 = 0b01 << 4;
const S1STALLD: u64 = 1 << 27;

/// Stage 1 through the context descriptor at `context`, a physical address aligned to 64 bytes.
///
/// `disable_stalls` where the SMMU could stall faulting transactions but shall not.
pub const fn stage_1(context: u64, disable_stalls: bool) -> Ste {
    let stalls = if disable_stalls { S1STALLD } else { 0 };
    let low = 1 | CONFIG_STAGE_1 | context & 0x000f_ffff_ffff_ffc0;
    [
        low,
        S1DSS_SUBSTREAM_0 | S1C_WRITE_BACK | S1C_SHARE_INNER | stalls,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// As [`stage_1`], through `2^shift` descriptors, one for each substream: side by side at `base`, or
/// in tables of 64 that the entries at `base` lead to. Transactions without a substream use
/// descriptor 0.
pub const fn substreams(base: u64, shift: u32, two_levels: bool, disable_stalls: bool) -> Ste {
    let mut words = stage_1(base, disable_stalls);
    words[0] |= (shift as u64) << 59;
    if two_levels {
        words[0] |= S1FMT_TABLES_OF_4K;
    }
    words
}

/// Parameters of a stage 2 translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    /// The tag of its translations.
    pub vmid: u16,
    /// Bits of an input address.
    pub input_bits: u32,
    /// `S2SL0`: where walks start.
    pub start: u32,
    /// `S2TG`: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    pub granule: u32,
    /// `S2PS`: bits of an output address, encoded.
    pub output: u32,
    /// Where the table is.
    pub table: u64,
    /// Whether walks look into the CPU's caches.
    pub coherent: bool,
}

/// Stage 2 through a table.
pub const fn stage_2(with: Stage2) -> Ste {
    let walk = match with.coherent {
        true => 0b01 << 40 | 0b01 << 42 | 0b11 << 44,
        false => 0b10 << 44,
    };
    let word2 = with.vmid as u64
        | ((64 - with.input_bits) as u64) << 32
        | (with.start as u64) << 38
        | walk
        | (with.granule as u64) << 46
        | (with.output as u64) << 48
        | 1 << 51
        | 1 << 54
        | 1 << 58;
    [
        1 | CONFIG_STAGE_2,
        0b01 << 44,
        word2,
        with.table & 0x000f_ffff_ffff_fff0,
        0,
        0,
        0,
        0,
    ]
}

/// The bits of an entry that hardware looks at, given what else it says (5.2: fields that the
/// configuration does not use are ignored).
pub const fn used_bits(entry: &Ste) -> Ste {
    let mut used = [0; WORDS];
    used[0] = 1;
    if entry[0] & 1 == 0 {
        return used;
    }
    used[0] = 0b1111;
    let config = entry[0] >> 1 & 0b111;
    if config & 0b100 == 0 {
        return used;
    }
    if config & 0b01 != 0 {
        used[0] = u64::MAX;
        used[1] |= 0x0000_0000_ffff_ffff;
    }
    if config != 0b101 {
        // Attributes of what passes, or goes through stage 2.
        used[1] |= 0xffff_ffff_0000_0000;
    }
    if config & 0b10 != 0 {
        used[2] = u64::MAX;
        used[3] = u64::MAX;
    }
    used
}

/// A level-1 descriptor of `2^split` entries at `table`.
pub const fn level_1(table: u64, split: u32) -> u64 {
    table & 0x000f_ffff_ffff_ffc0 | (split as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_equal_those_an_unmodified_linux_driver_wrote() {
        // Linux 6.12.95 on arm64, read out of a paused guest.
        assert_eq!(
            stage_1(0x4587_c000, false),
            [0x4587_c00b, 0xd6, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(ABORT, [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(level_1(0x7ac6_0000, 8), 0x7ac6_0009);
    }
}
