//! Which pages of one chunk are out.

use core::fmt;

use crate::chunk::ChunkMemory;

pub(crate) const WORDS: usize = 16;

/// The largest chunk: 4 MiB.
pub(crate) const CHUNK_PAGES_MAX: u64 = WORDS as u64 * 64;

/// Room for one chunk in a [`CoherentPool`](crate::CoherentPool): its bookkeeping.
#[derive(Default)]
pub struct PageChunk {
    pub(crate) memory: Option<ChunkMemory<WORDS>>,
    taken: [u64; WORDS],
    pub(crate) pages: u32,
    free: u32,
}

impl fmt::Debug for PageChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Some(memory) => write!(f, "PageChunk({:?}, {} free)", memory.carved, self.free),
            None => f.write_str("PageChunk(empty)"),
        }
    }
}

impl PageChunk {
    /// With all of `memory` free.
    pub(crate) fn new(memory: ChunkMemory<WORDS>) -> Self {
        let pages = memory.carved.units() as u32;
        Self {
            memory: Some(memory),
            taken: [0; WORDS],
            pages,
            free: pages,
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.memory.is_some() && self.free == self.pages
    }

    /// The lowest free run of `count` pages that starts at a multiple of `align`.
    pub(crate) fn find(&self, count: u32, align: u32) -> Option<u32> {
        if self.memory.is_none() || count > self.free {
            return None;
        }
        let mut first = 0;
        while first + count <= self.pages {
            match self.last_taken(first, count) {
                None => return Some(first),
                Some(page) => first = (page + 1).next_multiple_of(align),
            }
        }
        None
    }

    /// The highest page of the run that is out.
    fn last_taken(&self, first: u32, count: u32) -> Option<u32> {
        let hit = each_word(first, count).filter_map(|(index, bits)| {
            let hit = self.taken[index] & bits;
            (hit != 0).then(|| index as u32 * 64 + 63 - hit.leading_zeros())
        });
        hit.last()
    }

    pub(crate) fn mark(&mut self, first: u32, count: u32, is_taken: bool) {
        for (index, bits) in each_word(first, count) {
            if is_taken {
                self.taken[index] |= bits;
            } else {
                self.taken[index] &= !bits;
            }
        }
        self.free = if is_taken {
            self.free - count
        } else {
            self.free + count
        };
    }
}

/// The words that a run of at least one page touches, each with the run's bits.
fn each_word(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = first + count;
    (first / 64..end.div_ceil(64)).map(move |index| {
        let low = first.saturating_sub(index * 64);
        let high = (end - index * 64).min(64);
        (
            index as usize,
            (u64::MAX >> (64 - high)) & (u64::MAX << low),
        )
    })
}
