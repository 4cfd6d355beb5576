//! Free bits of 64 units: what fits inside.

/// Bits at which an aligned block of 2^order may start, for order 0 to 6.
const STARTS: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// Where in `word` aligned free blocks of 2^`order` start, for an order up to 6.
#[inline]
pub(crate) fn aligned_starts(word: u64, order: u32) -> u64 {
    let mut starts = word;
    for step in 0..order.min(6) {
        starts &= starts >> (1 << step);
    }
    starts & STARTS[order.min(6) as usize]
}

/// The greatest order of an aligned free block in `word`, or `None` where all is taken.
#[inline]
pub(crate) fn greatest_order(word: u64) -> Option<u32> {
    if word == 0 {
        return None;
    }
    // Counted rather than searched for: where it ends is anyone's guess.
    let mut starts = word;
    let mut greatest = 0;
    for (below, aligned) in STARTS[1..].iter().enumerate() {
        starts = starts & (starts >> (1 << below)) & aligned;
        greatest += u32::from(starts != 0);
    }
    Some(greatest)
}

/// The longest run of set bits.
pub(crate) fn longest_run(word: u64) -> u32 {
    if word == u64::MAX {
        return 64;
    }
    let mut doubled = [word; 6];
    for step in 1..6 {
        let below = doubled[step - 1];
        doubled[step] = below & (below >> (1_u32 << (step - 1)));
    }
    let Some(top) = doubled.iter().rposition(|starts| *starts != 0) else {
        return 0;
    };
    let (mut starts, mut len) = (doubled[top], 1_u32 << top);
    for step in (0..top).rev() {
        let longer = starts & (doubled[step] >> len);
        if longer != 0 {
            (starts, len) = (longer, len + (1 << step));
        }
    }
    len
}

/// The first place in `word` where a run of `len` set bits starts, for a length of 1 to 64.
pub(crate) fn first_run(word: u64, len: u32) -> Option<u32> {
    let mut starts = word;
    let mut have = 1;
    while have < len {
        let step = have.min(len - have);
        starts &= starts >> step;
        have += step;
    }
    (starts != 0).then(|| starts.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_longest(word: u64) -> u32 {
        let bits = (0..64).map(|bit| word >> bit & 1 != 0);
        let mut best = 0;
        let mut run = 0;
        for bit in bits {
            run = if bit { run + 1 } else { 0 };
            best = best.max(run);
        }
        best
    }

    #[test]
    fn words_answer_as_a_look_at_each_bit_does() {
        let mut state = 7_u64;
        for round in 0..20_000 {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            let mut word = state ^ state >> 31;
            for _ in 0..round % 5 {
                word |= word << 1 | word >> 3;
            }
            let longest = naive_longest(word);
            assert_eq!(longest_run(word), longest, "{word:#x}");
            for len in 1..=64 {
                let mask = u64::MAX >> (64 - len);
                let naive = (0..=64 - len).find(|at| word >> at & mask == mask);
                assert_eq!(first_run(word, len), naive, "{word:#x} {len}");
            }
            let greatest = (0..=6).rev().find(|order| {
                let len = 1 << order;
                let mask = u64::MAX >> (64 - len);
                (0..64).step_by(len).any(|at| word >> at & mask == mask)
            });
            assert_eq!(greatest_order(word), greatest, "{word:#x}");
        }
    }
}
