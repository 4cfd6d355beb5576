//! Which commands forget a range.

use dmakit_iommu::Invalidation;

use crate::spec::command::{Command, RANGE_NUM_MAX, TlbiRange};

/// A tag of translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// Stage 1.
    Asid(u16),
    /// Stage 2.
    Vmid(u16),
}

/// The commands that forget exactly a range.
///
/// With range invalidation at most one command for every five bits of its length in granules:
/// the lowest set bits first, as `num x 2^scale` (4.4.1.1). Without, one for each leaf.
pub(crate) struct Commands {
    tag: Tag,
    what: Invalidation,
    ranges: bool,
    /// A command for one leaf, or one granule, at address 0.
    single: Command,
    /// Bytes that it forgets.
    step: u64,
    at: u64,
    left: u64,
}

impl Commands {
    #[inline]
    pub(crate) fn new(tag: Tag, what: Invalidation, ranges: bool) -> Self {
        let shift = match ranges {
            true => what.granule.shift(),
            false => what.leaf_shift.unwrap_or(what.granule.shift()),
        };
        let single = TlbiRange {
            address: 0,
            num: 1,
            scale: 0,
            level_hint: 0,
            granule: 0,
            leaf: !what.tables,
        };
        Self {
            tag,
            what,
            ranges,
            single: tag.command(single),
            step: 1 << shift,
            at: what.range.start().raw(),
            left: what.range.len(),
        }
    }

    /// The next stretch of granules; `None` where only a single command says it.
    fn range(&mut self) -> Option<Command> {
        let shift = self.what.granule.shift();
        let granules = self.left >> shift;
        let scale = granules.trailing_zeros().min(31);
        let num = granules >> scale & (RANGE_NUM_MAX - 1);
        let level_hint = match self.what.tables {
            true => 0,
            // Arm counts levels from the root: 3 is the table of single granules.
            false => self.what.leaf_height.map_or(0, |height| 3 - height),
        };
        if (num, scale, level_hint) == (1, 0, 0) {
            // One granule by range and without a level is a reserved encoding (4.4.1.1).
            return None;
        }
        let range = TlbiRange {
            address: self.at,
            num: num as u32,
            scale,
            level_hint,
            granule: (shift - 10) / 2,
            leaf: !self.what.tables,
        };
        self.pass(num << scale << shift);
        Some(self.tag.command(range))
    }

    #[inline]
    fn pass(&mut self, bytes: u64) {
        self.at += bytes;
        self.left -= bytes;
    }
}

impl Tag {
    #[inline]
    fn command(self, range: TlbiRange) -> Command {
        match self {
            Self::Asid(asid) => range.of_asid(asid),
            Self::Vmid(vmid) => range.of_vmid(vmid),
        }
    }
}

/// How many commands a range takes; at most that.
pub(crate) fn count(what: &Invalidation, ranges: bool) -> u64 {
    let granules = what.range.len() >> what.granule.shift();
    match ranges {
        true => u64::from((64 - granules.leading_zeros()).div_ceil(5)) + 1,
        false => what.range.len() >> what.leaf_shift.unwrap_or(what.granule.shift()),
    }
}

impl Iterator for Commands {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        if self.left == 0 {
            return None;
        }
        if self.ranges {
            if let Some(command) = self.range() {
                return Some(command);
            }
        }
        let command = [self.single[0], self.single[1] | self.at];
        self.pass(self.step.min(self.left));
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use super::*;
    use alloc::vec::Vec;
    use dmakit_addr::{Granule, Iova, IovaRange};

    fn commands(asid: u16, start: u64, len: u64, level: u32, tables: bool) -> Vec<Command> {
        let what = Invalidation {
            range: IovaRange::new(Iova::new(start), len).unwrap(),
            granule: Granule::K4,
            leaf_shift: Some(12),
            leaf_height: Some(3 - level),
            tables,
        };
        Commands::new(Tag::Asid(asid), what, true).collect()
    }

    #[test]
    fn ranges_equal_those_an_unmodified_linux_driver_queued() {
        // Linux 6.12.95 on arm64, read out of a paused guest's ring.
        let nh_va = 0x12;
        let expected = [
            (
                3,
                0xffff_b000,
                0x1000,
                3,
                [0x0003_0000_0000_0000 | nh_va, 0xffff_b701],
            ),
            (
                3,
                0xfffb_8000,
                0x2000,
                3,
                [0x0003_0000_0010_0012, 0xfffb_8701],
            ),
            (
                3,
                0xfffb_4000,
                0x3000,
                3,
                [0x0003_0000_0000_2012, 0xfffb_4701],
            ),
            (
                3,
                0xfffb_4000,
                0x4000,
                3,
                [0x0003_0000_0020_0012, 0xfffb_4701],
            ),
            (
                1,
                0xffd0_0000,
                0x10_0000,
                3,
                [0x0001_0000_0080_0012, 0xffd0_0701],
            ),
            (
                1,
                0xffc0_0000,
                0x20_0000,
                2,
                [0x0001_0000_0090_0012, 0xffc0_0601],
            ),
        ];
        for (asid, start, len, level, words) in expected {
            assert_eq!(
                commands(asid, start, len, level, false),
                [words],
                "{len:#x}"
            );
        }
        assert_eq!(
            commands(1, 0xffc0_0000, 0x1f_f000, 3, false),
            [
                [0x0001_0000_0001_e012, 0xffc0_0701],
                [0x0001_0000_0050_e012, 0xffc1_f701]
            ]
        );
        assert_eq!(
            commands(1, 0xffc0_0000, 0x20_0000, 3, true),
            [[0x0001_0000_0090_0012, 0xffc0_0400]]
        );
    }

    #[test]
    fn one_granule_of_unknown_level_is_not_asked_for_by_range() {
        // Scale, number and level all 0 with a granule set: reserved.
        let all = commands(1, 0x20_0000, 0x20_1000, 3, true);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], [0x0001_0000_0000_0012, 0x20_0000]);
        assert_eq!(all[1], [0x0001_0000_0090_0012, 0x20_1400]);
    }

    #[test]
    fn any_length_is_covered_exactly_and_in_order() {
        for granules in (1..3000_u64).chain([1 << 20, (1 << 20) - 1, (1 << 30) + 7]) {
            let mut at = 0;
            for [word0, word1] in commands(1, 0, granules << 12, 3, false) {
                assert_eq!(word1 & !0xfff, at << 12);
                at += ((word0 >> 12 & 0x1f) + 1) << (word0 >> 20 & 0x1f);
            }
            assert_eq!(at, granules);
        }
    }
}
