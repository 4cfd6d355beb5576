//! Context descriptors (5.4): 64 bytes each.

/// Words of a descriptor.
pub const WORDS: usize = 8;
/// Bytes of a descriptor.
pub const BYTES: u64 = 64;

/// A descriptor.
pub type Cd = [u64; WORDS];

/// No translation: transactions fault.
pub const INVALID: Cd = [0; WORDS];

/// log2 of the descriptors in a level-2 table of 4 KiB.
pub const LEAF_SHIFT: u32 = 6;

/// The level-1 entry that leads to the level-2 table at `address`, aligned to 4 KiB (5.3).
pub const fn table(address: u64) -> u64 {
    address & 0x000f_ffff_ffff_f000 | 1
}

const T0_WRITE_BACK: u64 = 0b01 << 8 | 0b01 << 10;
const T0_UNCACHED: u64 = 0;
const T0_SHARE_INNER: u64 = 0b11 << 12;
const T0_SHARE_OUTER: u64 = 0b10 << 12;
/// No walks through the second table.
const EPD1: u64 = 1 << 30;
const V: u64 = 1 << 31;
const AA64: u64 = 1 << 41;
/// Faults are recorded.
const R: u64 = 1 << 45;
/// Faults abort the transaction.
const A: u64 = 1 << 46;
/// The ASID is not shared with CPUs.
const ASET: u64 = 1 << 47;

/// A translation through one stage 1 table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage1 {
    /// The tag of its translations.
    pub asid: u16,
    /// Bits of an input address.
    pub input_bits: u32,
    /// `TG0`: 0 for 4 KiB, 1 for 64 KiB, 2 for 16 KiB.
    pub granule: u32,
    /// `IPS`: bits of an output address, encoded.
    pub output: u32,
    /// Where the table is.
    pub table: u64,
    /// Memory attributes that entries index.
    pub mair: u64,
    /// Whether walks look into the CPU's caches.
    pub coherent: bool,
}

/// The descriptor of a translation.
pub const fn stage_1(with: Stage1) -> Cd {
    let walk = match with.coherent {
        true => T0_WRITE_BACK | T0_SHARE_INNER,
        false => T0_UNCACHED | T0_SHARE_OUTER,
    };
    let word0 = (64 - with.input_bits) as u64
        | (with.granule as u64) << 6
        | walk
        | EPD1
        | V
        | (with.output as u64) << 32
        | AA64
        | R
        | A
        | ASET
        | (with.asid as u64) << 48;
    [
        word0,
        with.table & 0x000f_ffff_ffff_fff0,
        0,
        with.mair,
        0,
        0,
        0,
        0,
    ]
}

/// How `IPS` and `S2PS` write bits of an output address: the largest size that is not above.
pub const fn output_size(bits: u32) -> u32 {
    match bits {
        ..36 => 0,
        36..40 => 1,
        40..42 => 2,
        42..44 => 3,
        44..48 => 4,
        48..52 => 5,
        52.. => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_equals_that_of_an_unmodified_linux_driver() {
        // Linux 6.12.95 on arm64, read out of a paused guest. Its upper memory attributes are a
        // sign extension, and attribute 3 is for another use: neither is indexed.
        let cd = stage_1(Stage1 {
            asid: 3,
            input_bits: 48,
            granule: 0,
            output: output_size(44),
            table: 0x4587_d000,
            mair: 0xffff_ffff_f404_ff44,
            coherent: true,
        });
        assert_eq!(
            cd,
            [
                0x0003_e204_c000_3510,
                0x4587_d000,
                0,
                0xffff_ffff_f404_ff44,
                0,
                0,
                0,
                0
            ]
        );
    }
}
