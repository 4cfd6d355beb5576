//! From an input address to an output address, through tables in RAM.

use super::caches::{Caches, Leaf, Step, Tag};
use super::record::{ACCESS_FLAG, ADDRESS_SIZE, PERMISSION, Stopped, TRANSLATION, WALK_ABORT};
use crate::rng::Rng;
use crate::transfer::Access;

/// A tree of tables (Arm ARM D8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tables {
    pub(super) base: u64,
    /// log2 of the granule.
    pub(super) shift: u32,
    pub(super) input_bits: u32,
    pub(super) start_level: u32,
    pub(super) stage: u32,
    /// Bits of an output address that the SMMU has.
    pub(super) output_bits: u32,
}

impl Tables {
    /// log2 of what an entry of a level maps.
    fn span(&self, level: u32) -> u32 {
        self.shift + (3 - level) * (self.shift - 3)
    }

    fn has_blocks(&self, level: u32) -> bool {
        match self.shift {
            12 => level == 1 || level == 2,
            // 4 TiB blocks came with 52-bit addresses.
            16 => level == 2 || (level == 1 && self.output_bits == 52),
            _ => level == 2,
        }
    }

    /// Entries of a contiguous group.
    fn group(&self, level: u32) -> u64 {
        match (self.shift, level) {
            (12, _) => 16,
            (14, 3) => 128,
            _ => 32,
        }
    }

    /// Walks, from the lowest table that is remembered.
    pub(super) fn walk(
        &self,
        tag: Tag,
        address: u64,
        caches: &mut Caches,
        rng: &mut Rng,
        mut read: impl FnMut(u64) -> Option<u64>,
    ) -> Result<Leaf, Stopped> {
        if address >> self.input_bits != 0 {
            return Err(TRANSLATION);
        }
        let (mut level, mut table) = match caches.step(tag, address) {
            Some(step) => (step.level, step.table),
            None => (self.start_level, self.base),
        };
        loop {
            let span = self.span(level);
            let mut index = address >> span;
            if level != self.start_level {
                index &= (1 << (self.shift - 3)) - 1;
            }
            let entry = read(table + index * 8).ok_or(WALK_ABORT)?;
            let start = address >> span << span;
            match (entry & 0b11, level) {
                (0b11, 0..=2) => {
                    table = self.output(entry, self.shift);
                    level += 1;
                    let step = Step {
                        tag,
                        start,
                        len: 1 << span,
                        level,
                        table,
                    };
                    caches.add_step(step, rng);
                }
                (0b11, 3) => return self.leaf(tag, start, level, entry),
                (0b01, level) if self.has_blocks(level) => {
                    return self.leaf(tag, start, level, entry);
                }
                _ => return Err(TRANSLATION),
            }
        }
    }

    fn leaf(&self, tag: Tag, start: u64, level: u32, entry: u64) -> Result<Leaf, Stopped> {
        let span = self.span(level);
        if entry >> 10 & 1 == 0 {
            return Err(ACCESS_FLAG);
        }
        let mut leaf = Leaf {
            tag,
            start,
            len: 1 << span,
            output: self.output(entry, span),
            level,
            reads: false,
            writes: false,
        };
        if leaf.output >> self.output_bits != 0 {
            return Err(ADDRESS_SIZE);
        }
        (leaf.reads, leaf.writes) = match self.stage {
            // Transactions are not privileged.
            1 => (entry >> 6 & 1 != 0, entry >> 6 & 0b11 == 0b01),
            _ => (entry >> 6 & 1 != 0, entry >> 7 & 1 != 0),
        };
        if entry >> 52 & 1 != 0 {
            // The hint says that the whole group is alike: it is remembered as one.
            let within = leaf.start & (leaf.len * self.group(level) - 1);
            leaf.start -= within;
            leaf.output -= within;
            leaf.len *= self.group(level);
        }
        Ok(leaf)
    }

    fn output(&self, entry: u64, low: u32) -> u64 {
        let low_bits = entry & ((1 << 48) - 1) & (u64::MAX << low);
        match (self.shift, self.output_bits) {
            // Bits 51:48 stand in 15:12, which pages of 64 KiB leave free (D8.3).
            (16, 52) => low_bits | (entry >> 12 & 0xf) << 48,
            _ => low_bits,
        }
    }
}

impl Leaf {
    /// Where an access that it covers goes.
    pub(super) fn access(&self, access: Access, address: u64) -> Result<u64, Stopped> {
        let allowed = match access {
            Access::Read => self.reads,
            Access::Write => self.writes,
        };
        match allowed {
            true => Ok(self.output + (address - self.start)),
            false => Err(PERMISSION),
        }
    }
}
