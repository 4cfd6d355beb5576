//! Changing a table entry that hardware may be reading.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::queue::SyncTimeout;

/// Replaces an entry whose first word holds the valid bit.
///
/// Hardware reads entries word by word, in any order. Where one word alone changes, it is stored,
/// and transactions never stop. Else the entry is made invalid first: every word but the first is
/// then free to change. `settle` makes hardware forget the entry and waits until it has; it is
/// called after each step (3.21.3.1).
pub(crate) fn replace(
    entry: &[AtomicU64],
    words: &[u64],
    mut settle: impl FnMut() -> Result<(), SyncTimeout>,
) -> Result<(), SyncTimeout> {
    let changed = |(old, new): &(&AtomicU64, &u64)| old.load(Ordering::Relaxed) != **new;
    let mut changes = entry.iter().zip(words).filter(changed);
    let (first, second) = (changes.next(), changes.next());
    let Some((only, new)) = first else {
        return Ok(());
    };
    if second.is_none() {
        only.store(*new, Ordering::Relaxed);
        return settle();
    }
    let valid = entry[0].load(Ordering::Relaxed) & 1 != 0;
    if valid {
        entry[0].store(0, Ordering::Relaxed);
        settle()?;
    }
    for (old, new) in entry.iter().zip(words).skip(1) {
        old.store(*new, Ordering::Relaxed);
    }
    settle()?;
    entry[0].store(words[0], Ordering::Relaxed);
    settle()
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::vec::Vec;
    use core::sync::atomic::AtomicU64;

    fn entry(words: [u64; 3]) -> [AtomicU64; 3] {
        words.map(AtomicU64::new)
    }

    fn run(from: [u64; 3], to: [u64; 3]) -> Vec<[u64; 3]> {
        let words = entry(from);
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
    fn one_changed_word_is_stored_without_a_stop() {
        assert_eq!(run([1, 2, 3], [1, 9, 3]), [[1, 9, 3]]);
        assert_eq!(run([1, 2, 3], [1, 2, 3]), [[0; 3]; 0]);
    }

    #[test]
    fn several_changed_words_never_stand_mixed_while_valid() {
        assert_eq!(run([1, 2, 3], [5, 6, 7]), [[0, 2, 3], [0, 6, 7], [5, 6, 7]]);
        assert_eq!(run([0, 2, 3], [5, 6, 7]), [[0, 6, 7], [5, 6, 7]]);
    }
}
