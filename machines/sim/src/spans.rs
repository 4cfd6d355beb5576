//! What holds for which addresses.

use std::collections::BTreeMap;

/// A value for every 64-bit address, stored as the places where it changes, so that its cost goes
/// with the number of different runs and not with their size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans<V> {
    /// The value from this address on, up to the next key. Below the first key it is the default.
    from: BTreeMap<u64, V>,
}

impl<V: Copy + Eq + Default> Spans<V> {
    pub(crate) fn at(&self, address: u64) -> V {
        self.from
            .range(..=address)
            .next_back()
            .map_or_else(V::default, |(_, value)| *value)
    }

    /// Applies `change` to every value in `[start, end)`.
    pub(crate) fn update(&mut self, start: u64, end: u64, mut change: impl FnMut(V) -> V) {
        if start >= end {
            return;
        }
        for edge in [start, end] {
            let value = self.at(edge);
            self.from.entry(edge).or_insert(value);
        }
        for value in self.from.range_mut(start..end).map(|(_, value)| value) {
            *value = change(*value);
        }
        self.join(start, end);
    }

    /// Forgets the places in `[start, end]` where nothing changes any more.
    fn join(&mut self, start: u64, end: u64) {
        let mut before = start
            .checked_sub(1)
            .map_or_else(V::default, |address| self.at(address));
        let mut useless = Vec::new();
        for (&edge, &value) in self.from.range(start..=end) {
            if value == before {
                useless.push(edge);
            }
            before = value;
        }
        for edge in useless {
            self.from.remove(&edge);
        }
    }

    /// The runs of equal value that together are `[start, end)`, in order.
    pub(crate) fn runs(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        let mut at = start;
        let mut value = self.at(start);
        let mut edges = self
            .from
            .range(start.saturating_add(1)..end.max(start.saturating_add(1)));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let next = edges.next();
            let stop = next.map_or(end, |(&edge, _)| edge);
            let run = (at, stop, value);
            at = stop;
            value = next.map_or(value, |(_, &next)| next);
            Some(run)
        })
    }

    /// The first address of `[start, end)` whose value is not `wanted`.
    pub(crate) fn first_not(
        &self,
        start: u64,
        end: u64,
        mut wanted: impl FnMut(V) -> bool,
    ) -> Option<u64> {
        self.runs(start, end)
            .find(|&(_, _, value)| !wanted(value))
            .map(|(at, _, _)| at)
    }

    /// The runs, in all of the space, whose value is not the default.
    pub(crate) fn set(&self) -> impl Iterator<Item = (u64, u64, V)> + '_ {
        self.runs(0, u64::MAX)
            .filter(|&(_, _, value)| value != V::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn spans_agree_with_a_plain_array() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut spans = Spans::<u8>::default();
            let mut array = [0_u8; 64];
            for _ in 0..50 {
                let (a, b) = (rng.below(64), rng.below(65));
                let bit = 1 << rng.below(3);
                spans.update(a, b, |value| value ^ bit);
                (a..b).for_each(|at| array[at as usize] ^= bit);
            }
            for at in 0..64 {
                assert_eq!(
                    spans.at(at),
                    array[at as usize],
                    "seed {seed}, address {at}"
                );
            }
            let mut end = 0;
            for (start, stop, value) in spans.runs(0, 64) {
                assert_eq!(start, end, "seed {seed}");
                assert!((start..stop).all(|at| array[at as usize] == value));
                end = stop;
            }
            assert_eq!(end, 64);
            spans.update(0, 64, |_| 0);
            assert!(spans.from.is_empty(), "seed {seed}: nothing left to store");
        }
    }
}
