//! What a page of a process must hold.

use crate::rng::mix;

/// Bytes of the parts in which a page is written.
pub(crate) const LINE_BYTES: usize = 64;
/// Parts of a page.
pub(crate) const LINES: usize = 4096 / LINE_BYTES;

/// The contents of a page, as far as each of its lines has come: version 0 is what it was filled
/// with, each write makes the next. No two pages, lines or versions look alike, so a page that was
/// lost, torn, copied too early or swapped with another is seen.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    tag: u64,
    versions: [u32; LINES],
}

impl Contents {
    pub(crate) fn new(tag: u64) -> Self {
        Self {
            tag,
            versions: [0; LINES],
        }
    }

    pub(crate) fn version(&self, line: usize) -> u32 {
        self.versions[line]
    }

    /// Says that a line holds a later version.
    pub(crate) fn advance(&mut self, line: usize, version: u32) {
        self.versions[line] = version;
    }

    /// What a line looks like at some version.
    pub(crate) fn line(&self, line: usize, version: u32) -> [u8; LINE_BYTES] {
        let place = (line as u64) << 32 | u64::from(version);
        let start = mix(mix(self.tag) ^ mix(!place));
        let mut bytes = [0; LINE_BYTES];
        let words = (0_u64..).map(|index| start.wrapping_add(index.wrapping_mul(start | 1)));
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The page as it must be.
    pub(crate) fn page(&self) -> [u8; LINES * LINE_BYTES] {
        let mut bytes = [0; LINES * LINE_BYTES];
        for (line, part) in bytes.chunks_exact_mut(LINE_BYTES).enumerate() {
            part.copy_from_slice(&self.line(line, self.versions[line]));
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lines_and_versions_never_look_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for tag in 0..8 {
            let contents = Contents::new(tag);
            for line in 0..LINES {
                for version in 0..8 {
                    assert!(seen.insert(contents.line(line, version)));
                }
            }
        }
    }

    #[test]
    fn a_write_changes_its_own_line_and_no_other() {
        let mut contents = Contents::new(7);
        let before = contents.page();
        contents.advance(3, 1);
        let after = contents.page();
        let differ = |line: usize| {
            let at = line * LINE_BYTES..(line + 1) * LINE_BYTES;
            before[at.clone()] != after[at]
        };
        assert!((0..LINES).all(|line| differ(line) == (line == 3)));
    }
}
