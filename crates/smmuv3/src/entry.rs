//! Changing a table entry that hardware may be reading.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::SyncFailure;
use crate::spec::ste::{Ste, used_bits};

/// Replaces a stream table entry. `settle` makes it visible, lets hardware forget what it knew, and
/// waits until it has; it is called after each step (3.21.3.1).
///
/// Hardware reads entries word by word, in any order, and looks only at the bits that an entry of
/// its kind uses. Where the old and the new entry differ in one word of those, transactions never
/// stop: first the words that the old entry does not use, then that one, then the rest. Else the
/// entry is made invalid in between.
pub(crate) fn replace(
    entry: &[AtomicU64],
    new: &Ste,
    mut settle: impl FnMut() -> Result<(), SyncFailure>,
) -> Result<(), SyncFailure> {
    let old: Ste = core::array::from_fn(|i| entry[i].load(Ordering::Relaxed));
    if old == *new {
        return Ok(());
    }
    let (old_used, new_used) = (used_bits(&old), used_bits(new));
    // What may be written without the old entry's meaning changing.
    let prepared: Ste = core::array::from_fn(|i| (old[i] & old_used[i]) | (new[i] & !old_used[i]));
    let critical = |i: &usize| (prepared[*i] ^ new[*i]) & new_used[*i] != 0;
    let mut store = |words: &Ste| {
        let mut changed = false;
        for (slot, word) in entry.iter().zip(words) {
            changed |= slot.swap(*word, Ordering::Relaxed) != *word;
        }
        if changed { settle() } else { Ok(()) }
    };
    let words = (0..new.len()).filter(critical);
    if words.clone().count() <= 1 {
        store(&prepared)?;
        // The one word; what else the old entry used is not used any more.
        let mut switched = prepared;
        for word in words {
            switched[word] = new[word];
        }
        store(&switched)?;
        return store(new);
    }
    let mut invalid = old;
    invalid[0] = 0;
    store(&invalid)?;
    let mut ready = *new;
    ready[0] = 0;
    store(&ready)?;
    store(new)
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use crate::spec::ste::{ABORT, BYPASS, Stage2, stage_1, stage_2};
    use alloc::vec::Vec;

    fn run(from: Ste, to: Ste) -> Vec<Ste> {
        let words = from.map(AtomicU64::new);
        let mut seen = Vec::new();
        let look = || words.each_ref().map(|word| word.load(Ordering::Relaxed));
        replace(&words, &to, || {
            seen.push(look());
            Ok(())
        })
        .unwrap();
        assert_eq!(look(), to);
        seen
    }

    #[test]
    fn streams_go_from_and_to_abort_and_between_contexts_without_a_stop() {
        let (one, two) = (stage_1(0x1000, false), stage_1(0x2000, false));
        let mut ready = one;
        ready[0] = one[0] & !0b1110;
        assert_eq!(run(ABORT, one), [ready, one]);
        assert_eq!(run(one, two), [two]);
        ready[0] = ABORT[0];
        assert_eq!(run(one, ABORT), [ready, ABORT]);
        assert_eq!(run(one, one), [[0; 8]; 0]);
        assert!(run(one, BYPASS).iter().all(|state| state[0] & 1 != 0));
    }

    #[test]
    fn what_differs_in_several_words_never_stands_mixed_while_valid() {
        let [one, two] = [(1, 0x1000), (2, 0x2000)].map(|(vmid, table)| {
            stage_2(Stage2 {
                vmid,
                input_bits: 40,
                start: 1,
                granule: 0,
                output: 4,
                table,
                coherent: true,
            })
        });
        let states = run(one, two);
        let whole = |state: &&Ste| **state == one || **state == two;
        for state in &states {
            assert!(whole(&state) || state[0] & 1 == 0, "{state:x?}");
        }
        assert_eq!(states.len(), 3);
    }
}
