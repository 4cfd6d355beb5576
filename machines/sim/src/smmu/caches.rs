//! What the SMMU remembers.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// What tells translations apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Tag {
    Asid(u16),
    Vmid(u16),
}

/// A translation of a page, a block or a contiguous group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub(super) tag: Tag,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) output: u64,
    pub(super) level: u32,
    pub(super) reads: bool,
    pub(super) writes: bool,
}

/// A table that a walk came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) tag: Tag,
    pub(super) start: u64,
    pub(super) len: u64,
    /// The level of the table.
    pub(super) level: u32,
    pub(super) table: u64,
}

/// Which translations are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Forget {
    pub(super) tag: Tag,
    pub(super) start: u64,
    /// The last byte.
    pub(super) last: u64,
    /// Only leaves of this level, if it is not 0.
    pub(super) level: u32,
    pub(super) only_leaves: bool,
}

/// More of anything than this, and something is dropped.
const ENTRIES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Caches {
    pub(super) level_1: BTreeMap<u32, u64>,
    pub(super) entries: BTreeMap<u32, [u64; 8]>,
    /// By stream and number.
    pub(super) descriptors: BTreeMap<(u32, u32), [u64; 8]>,
    /// Entries above tables of descriptors, by stream and number.
    pub(super) descriptor_tables: BTreeMap<(u32, u32), u64>,
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
}

impl Caches {
    pub(super) fn leaf(&self, tag: Tag, address: u64) -> Option<Leaf> {
        let covers = |leaf: &&Leaf| leaf.tag == tag && address.wrapping_sub(leaf.start) < leaf.len;
        self.leaves.iter().find(covers).copied()
    }

    /// The lowest table on the way to an address.
    pub(super) fn step(&self, tag: Tag, address: u64) -> Option<Step> {
        let covers = |step: &&Step| step.tag == tag && address.wrapping_sub(step.start) < step.len;
        let steps = self.steps.iter().filter(covers);
        steps.max_by_key(|step| step.level).copied()
    }

    pub(super) fn add_leaf(&mut self, leaf: Leaf, rng: &mut Rng) {
        add(&mut self.leaves, leaf, rng);
    }

    pub(super) fn add_step(&mut self, step: Step, rng: &mut Rng) {
        let same = |other: &Step| {
            (other.tag, other.level, other.start) == (step.tag, step.level, step.start)
        };
        self.steps.retain(|other| !same(other));
        add(&mut self.steps, step, rng);
    }

    pub(super) fn forget(&mut self, what: &Forget) {
        let overlaps = |start: u64, len: u64| start <= what.last && what.start <= start + (len - 1);
        self.leaves.retain(|leaf| {
            let level = what.level == 0 || what.level == leaf.level;
            !(leaf.tag == what.tag && level && overlaps(leaf.start, leaf.len))
        });
        if !what.only_leaves {
            self.steps
                .retain(|step| !(step.tag == what.tag && overlaps(step.start, step.len)));
        }
    }

    pub(super) fn forget_tags(&mut self, matches: impl Fn(Tag) -> bool) {
        self.leaves.retain(|leaf| !matches(leaf.tag));
        self.steps.retain(|step| !matches(step.tag));
    }

    /// Drops something, as caches do.
    pub(super) fn evict(&mut self, rng: &mut Rng) {
        match rng.below(8) {
            0 if !self.leaves.is_empty() => {
                self.leaves
                    .swap_remove(rng.below(self.leaves.len() as u64) as usize);
            }
            1 if !self.steps.is_empty() => {
                self.steps
                    .swap_remove(rng.below(self.steps.len() as u64) as usize);
            }
            2 => drop(self.entries.pop_first()),
            3 => drop(self.descriptors.pop_first()),
            4 => drop(self.descriptor_tables.pop_first()),
            _ => {}
        }
    }
}

fn add<T>(entries: &mut Vec<T>, entry: T, rng: &mut Rng) {
    if entries.len() >= ENTRIES_MAX {
        entries.swap_remove(rng.below(entries.len() as u64) as usize);
    }
    entries.push(entry);
}
