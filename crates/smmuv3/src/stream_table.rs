//! Which translation each stream uses.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{DmaMask, PhysRange};
use dmakit_platform::{Barrier, NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::spec::registers::STRTAB_TWO_LEVEL;
use crate::spec::ste::{self, Ste};
use crate::{AttachError, Config, Features};

/// log2 of the entries of one level-2 table: a PCI bus.
const SPLIT: u32 = 8;

/// The largest linear table: beyond, two levels are used where the SMMU has them.
const LINEAR_SHIFT_MAX: u32 = SPLIT;

/// log2 of the most streams: a first level of 1 MiB.
const SHIFT_MAX: u32 = SPLIT + 17;

/// A linear or two-level table. Streams that nobody attached are aborted.
pub(crate) struct StreamTable {
    root: Segment,
    /// Level-2 tables by number; empty in a linear table.
    leaves: Vec<Option<Segment>>,
    /// log2 of the streams.
    shift: u32,
    request: SegmentRequest,
    /// Whether the SMMU reads past the CPU's caches.
    cleans: bool,
}

/// An entry, and whether the table that it stands in is new.
pub(crate) struct Slot<'a> {
    pub(crate) words: &'a [AtomicU64],
    pub(crate) range: PhysRange,
    pub(crate) is_new: bool,
}

impl StreamTable {
    pub(crate) fn new(
        features: &Features,
        platform: &impl Platform,
        memory: &impl TableMemory,
        config: &Config,
    ) -> Result<Self, NoMemory> {
        let node = config.node;
        let two_level = config.two_levels
            && features.two_level_streams
            && features.stream_bits > LINEAR_SHIFT_MAX;
        let entry = if two_level { 8 } else { ste::BYTES };
        let shift = features.stream_bits.min(SHIFT_MAX);
        let entries = 1_u64 << if two_level { shift - SPLIT } else { shift };
        let limit = DmaMask::bits(features.output_bits).unwrap_or(DmaMask::ALL);
        let request = |len: u64| {
            let len = len.max(4096);
            SegmentRequest {
                len,
                align: len,
                node,
                limit,
            }
        };
        let root = memory.allocate_table(&request(entries * entry))?;
        let mut leaves = Vec::new();
        if two_level {
            if leaves.try_reserve_exact(entries as usize).is_err() {
                let request = request(entries * entry);
                memory.free_table(root);
                return Err(NoMemory {
                    request,
                    largest_free: None,
                });
            }
            leaves.resize_with(entries as usize, || None);
        } else if let Some(words) = root.window().words64() {
            abort_all(words);
        }
        if !features.coherent {
            platform.clean(root.range());
        }
        Ok(Self {
            root,
            leaves,
            shift,
            request: request(ste::BYTES << SPLIT),
            cleans: !features.coherent,
        })
    }

    /// Where it is.
    pub(crate) fn base(&self) -> u64 {
        self.root.range().start().raw()
    }

    /// `STRTAB_BASE_CFG`.
    pub(crate) fn config(&self) -> u32 {
        match self.leaves.is_empty() {
            true => self.shift,
            false => self.shift | SPLIT << 6 | STRTAB_TWO_LEVEL,
        }
    }

    /// The words of a stream's entry; makes its level-2 table where there is none.
    pub(crate) fn entry(
        &mut self,
        stream: u32,
        platform: &impl Platform,
        memory: &impl TableMemory,
    ) -> Result<Slot<'_>, AttachError> {
        let unknown = AttachError::UnknownStream {
            stream,
            bits: self.shift,
        };
        if u64::from(stream) >> self.shift != 0 {
            return Err(unknown);
        }
        let mut is_new = false;
        let (table, index) = match self.leaves.is_empty() {
            true => (&self.root, stream as usize),
            false => {
                let number = (stream >> SPLIT) as usize;
                if self.leaves.get(number).is_some_and(Option::is_none) {
                    self.add_leaf(number, platform, memory)?;
                    is_new = true;
                }
                let leaf = self
                    .leaves
                    .get(number)
                    .and_then(Option::as_ref)
                    .ok_or(unknown)?;
                (leaf, stream as usize & ((1 << SPLIT) - 1))
            }
        };
        let words = table.window().words64().unwrap_or(&[]);
        let words = words.get(index * ste::WORDS..(index + 1) * ste::WORDS);
        let range = table.range().slice(index as u64 * ste::BYTES, ste::BYTES);
        let (words, range) = words.zip(range).ok_or(unknown)?;
        Ok(Slot {
            words,
            range,
            is_new,
        })
    }

    /// Takes all memory out.
    pub(crate) fn into_segments(self) -> impl Iterator<Item = Segment> {
        self.leaves.into_iter().flatten().chain([self.root])
    }

    fn add_leaf(
        &mut self,
        number: usize,
        platform: &impl Platform,
        memory: &impl TableMemory,
    ) -> Result<(), AttachError> {
        let leaf = memory
            .allocate_table(&self.request)
            .map_err(AttachError::Memory)?;
        if let Some(words) = leaf.window().words64() {
            abort_all(words);
        }
        let base = leaf.range().start().raw();
        // The entries before the descriptor that leads to them.
        if self.cleans {
            platform.clean(leaf.range());
        }
        platform.barrier(Barrier::BeforeDevice);
        if let Some(word) = self
            .root
            .window()
            .words64()
            .and_then(|words| words.get(number))
        {
            word.store(ste::level_1(base, SPLIT), Ordering::Relaxed);
        }
        if self.cleans {
            if let Some(word) = self.root.range().slice(number as u64 * 8, 8) {
                platform.clean(word);
            }
        }
        if let Some(slot) = self.leaves.get_mut(number) {
            *slot = Some(leaf);
        }
        Ok(())
    }
}

fn abort_all(words: &[AtomicU64]) {
    for entry in words.chunks_exact(ste::WORDS) {
        store(entry, &ste::ABORT);
    }
}

fn store(entry: &[AtomicU64], words: &Ste) {
    for (to, from) in entry.iter().zip(words) {
        to.store(*from, Ordering::Relaxed);
    }
}
