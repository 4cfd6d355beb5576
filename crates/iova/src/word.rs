//! Aligned groups of set bits in one word.

/// The largest order of an aligned group, all 64 bits.
pub(crate) const WORD_ORDER: u32 = 6;

/// At bit `i`, for `i` a multiple of `2^order`: whether bits `[i, i + 2^order)` of `bits` are all
/// set. Every other bit is clear.
#[inline]
pub(crate) fn groups(bits: u64, order: u32) -> u64 {
    let mut groups = bits;
    // Each step joins two neighbouring groups; five steps at the most, and the sixth is a compare.
    if order >= 1 {
        groups &= (groups >> 1) & 0x5555_5555_5555_5555;
    }
    if order >= 2 {
        groups &= (groups >> 2) & 0x1111_1111_1111_1111;
    }
    if order >= 3 {
        groups &= (groups >> 4) & 0x0101_0101_0101_0101;
    }
    if order >= 4 {
        groups &= (groups >> 8) & 0x0001_0001_0001_0001;
    }
    if order >= 5 {
        groups &= (groups >> 16) & 0x0000_0001_0000_0001;
    }
    if order >= 6 {
        groups &= (groups >> 32) & 1;
    }
    groups
}

/// For each order, whether there is an aligned group of so many set bits.
#[inline]
pub(crate) fn sizes(bits: u64) -> [bool; WORD_ORDER as usize + 1] {
    // Every step is taken: no branch to be mispredicted.
    let pairs = bits & (bits >> 1) & 0x5555_5555_5555_5555;
    let fours = pairs & (pairs >> 2) & 0x1111_1111_1111_1111;
    let eights = fours & (fours >> 4) & 0x0101_0101_0101_0101;
    let sixteens = eights & (eights >> 8) & 0x0001_0001_0001_0001;
    let halves = sixteens & (sixteens >> 16) & 0x0000_0001_0000_0001;
    let whole = halves & (halves >> 32);
    [bits, pairs, fours, eights, sixteens, halves, whole].map(|groups| groups != 0)
}

/// The order of the largest aligned group of set bits, or `None` where no bit is set.
#[inline]
pub(crate) fn largest(bits: u64) -> Option<u32> {
    if bits == 0 {
        return None;
    }
    let larger = &sizes(bits)[1..];
    Some(larger.iter().map(|has| u32::from(*has)).sum())
}

/// The `2^order` bits from `bit` on.
#[inline]
pub(crate) fn group_mask(bit: u32, order: u32) -> u64 {
    (u64::MAX >> (64 - (1_u32 << order))) << bit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bits: u64, bit: u32, order: u32) -> bool {
        bit % (1 << order) == 0 && (bit..bit + (1 << order)).all(|i| bits >> i & 1 == 1)
    }

    #[test]
    fn groups_are_those_a_bit_by_bit_look_finds() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..2000_u32 {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            // Dense and sparse words, so that large groups occur.
            let bits = match round % 4 {
                0 => state,
                1 => state | state.rotate_left(7) | state.rotate_left(29),
                2 => !(1 << (state % 64)),
                _ => u64::MAX << (state % 64),
            };
            let mut best = None;
            for order in 0..=WORD_ORDER {
                let found = groups(bits, order);
                for bit in 0..64 {
                    assert_eq!(found >> bit & 1 == 1, naive(bits, bit, order), "{bits:#x}");
                }
                if found != 0 {
                    best = Some(order);
                }
            }
            assert_eq!(largest(bits), best, "{bits:#x}");
        }
    }

    #[test]
    fn a_group_mask_covers_its_bits() {
        assert_eq!(group_mask(0, 6), u64::MAX);
        assert_eq!(group_mask(8, 3), 0xff00);
        assert_eq!(group_mask(63, 0), 1 << 63);
    }
}
