//! Many contexts behind one stream.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::PhysRange;
use dmakit_platform::{Barrier, Mmio, NoMemory, Platform, Segment, TableMemory};

use crate::context::Streams;
use crate::smmu::allocate;
use crate::spec::cd;
use crate::spec::command::{self, Command};
use crate::spec::ste::{ABORT, substreams};
use crate::{AttachError, Context, Smmu, Tag};

/// The context descriptors of a stream, one for each substream (a PASID, on PCI): side by side, or
/// in tables of 64 that are made when one of them is wanted (5.3).
///
/// It is moved, never copied, and given back by [`Smmu::close_substreams`].
#[derive(Debug)]
pub struct Substreams {
    stream: u32,
    /// log2 of the descriptors.
    shift: u32,
    root: Segment,
    /// Level-2 tables by number; `None` where descriptors lie side by side.
    leaves: Option<Vec<Option<Segment>>>,
}

impl Substreams {
    /// The stream.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// Whether they lie in two levels.
    pub fn has_two_levels(&self) -> bool {
        self.leaves.is_some()
    }

    /// The words of a descriptor, and where they are.
    fn descriptor(&self, substream: u32) -> Option<(&[AtomicU64], PhysRange)> {
        let (table, index) = match &self.leaves {
            None => (&self.root, u64::from(substream)),
            Some(leaves) => {
                let leaf = leaves.get((substream >> cd::LEAF_SHIFT) as usize)?;
                let within = substream & ((1 << cd::LEAF_SHIFT) - 1);
                (leaf.as_ref()?, u64::from(within))
            }
        };
        let slot = table.window().slice(index * cd::BYTES, cd::BYTES)?;
        Some((slot.words64()?, slot.range()))
    }

    fn into_segments(self) -> impl Iterator<Item = Segment> {
        let leaves = self.leaves.into_iter().flatten().flatten();
        leaves.chain([self.root])
    }
}

impl<P: Platform, R: Mmio, M: TableMemory> Smmu<P, R, M> {
    /// Gives a stream `2^bits` substreams, none of them attached yet; transactions without a
    /// substream use number 0. `two_levels` where the SMMU can do that and there are more than 64:
    /// 8 bytes for 64 of them and a page for 64 that are used, else 64 bytes for each. May sleep.
    ///
    /// # Errors
    /// [`AttachError::Shape`] for more bits than the SMMU has, or none; [`AttachError::Substreams`] where
    /// they are open already; without memory [`AttachError::Memory`] or [`AttachError::Records`]. After
    /// [`AttachError::Sync`] their memory is lost, for the SMMU may know it.
    pub fn open_substreams(
        &self,
        stream: u32,
        bits: u32,
        two_levels: bool,
    ) -> Result<Substreams, AttachError> {
        if bits == 0 || bits > self.features.substream_bits {
            return Err(AttachError::Shape);
        }
        let two_levels = two_levels && self.features.two_level_contexts && bits > cd::LEAF_SHIFT;
        let mut streams = self.streams.lock();
        if streams.is_open(stream) {
            return Err(AttachError::Substreams { stream });
        }
        streams.reserve()?;
        let mut leaves = None;
        let mut len = cd::BYTES << bits;
        if two_levels {
            let count = 1_usize << (bits - cd::LEAF_SHIFT);
            let mut empty = Vec::new();
            let room = empty.try_reserve_exact(count);
            room.map_err(|_| AttachError::Records)?;
            empty.resize_with(count, || None);
            leaves = Some(empty);
            len = 8 * count as u64;
        }
        let root = self.table(len).map_err(AttachError::Memory)?;
        let base = root.range().start().raw();
        let table = Substreams {
            stream,
            shift: bits,
            root,
            leaves,
        };
        let entry = substreams(base, bits, two_levels, self.features.stalls);
        match self.write_entry(&mut streams, stream, &entry, None) {
            Ok(()) => {
                streams.note_open(stream, true);
                Ok(table)
            }
            Err(error @ AttachError::Sync(_)) => {
                // The SMMU may know it: it is lost.
                core::mem::forget(table);
                Err(error)
            }
            Err(error) => {
                table
                    .into_segments()
                    .for_each(|part| self.memory.free_table(part));
                Err(error)
            }
        }
    }

    /// Attaches a substream to a context of stage 1, or to none: then its transactions are aborted,
    /// with a record. May sleep.
    ///
    /// # Errors
    /// [`AttachError`]; [`AttachError::Shape`] for a context of stage 2.
    pub fn set_substream(
        &self,
        table: &mut Substreams,
        substream: u32,
        context: Option<&Context>,
    ) -> Result<(), AttachError> {
        if u64::from(substream) >> table.shift != 0 {
            let bits = table.shift;
            return Err(AttachError::UnknownSubstream { substream, bits });
        }
        let mut streams = self.streams.lock();
        streams.reserve()?;
        let tag = context.map(Context::tag);
        let words = match tag {
            None => cd::INVALID,
            Some(Tag::Asid(asid)) => words_of(&streams, asid).ok_or(AttachError::Shape)?,
            Some(Tag::Vmid(_)) => return Err(AttachError::Shape),
        };
        let is_new = match context {
            Some(_) => self
                .make_leaf(table, substream)
                .map_err(AttachError::Memory)?,
            None => false,
        };
        let Some((slots, range)) = table.descriptor(substream) else {
            // In no table, so attached to nothing.
            return Ok(());
        };
        let stream = table.stream;
        let forget = match is_new {
            true => command::cfgi_cd_and_table(stream, substream),
            false => command::cfgi_cd(stream, substream),
        };
        if slots[0].load(Ordering::Relaxed) != 0 {
            // Not valid while it changes (5.4.1): its words are read in any order.
            self.store(slots, range, &cd::INVALID[..1], forget)?;
        }
        // All words but the one that makes them valid; nobody looks at them before.
        for (slot, word) in slots.iter().zip(words).skip(1) {
            slot.store(word, Ordering::Relaxed);
        }
        self.platform.barrier(Barrier::BeforeDevice);
        self.store(slots, range, &words[..1], forget)?;
        streams.note_substream(stream, substream, tag);
        Ok(())
    }

    /// Ends a stream's substreams: it is aborted from then on. May sleep.
    ///
    /// # Errors
    /// [`AttachError`]: their memory is lost then, for the SMMU may still know it.
    pub fn close_substreams(&self, table: Substreams) -> Result<(), AttachError> {
        let stream = table.stream;
        let mut streams = self.streams.lock();
        self.write_entry(&mut streams, stream, &ABORT, None)?;
        let forgotten = self.run([command::cfgi_cd_all(stream)]);
        forgotten.map_err(AttachError::Sync)?;
        streams.note_open(stream, false);
        table
            .into_segments()
            .for_each(|part| self.memory.free_table(part));
        Ok(())
    }

    /// Makes the level-2 table of a substream where there is none: whether it did.
    fn make_leaf(&self, table: &mut Substreams, substream: u32) -> Result<bool, NoMemory> {
        let number = (substream >> cd::LEAF_SHIFT) as usize;
        let leaf = table
            .leaves
            .as_mut()
            .and_then(|leaves| leaves.get_mut(number));
        let Some(slot @ None) = leaf else {
            return Ok(false);
        };
        let leaf = self.table(cd::BYTES << cd::LEAF_SHIFT)?;
        let entry = cd::table(leaf.range().start().raw());
        *slot = Some(leaf);
        // Its zeroes before the entry that leads to them.
        self.platform.barrier(Barrier::BeforeDevice);
        let at = number as u64 * 8;
        if let Some(words) = table
            .root
            .window()
            .slice(at, 8)
            .and_then(|word| word.words64())
        {
            words[0].store(entry, Ordering::Relaxed);
        }
        if let (false, Some(range)) = (self.features.coherent, table.root.range().slice(at, 8)) {
            self.platform.clean(range);
        }
        Ok(true)
    }

    /// Writes first words of a descriptor, and waits until the SMMU has forgotten what it knew.
    fn store(
        &self,
        slots: &[AtomicU64],
        range: PhysRange,
        words: &[u64],
        forget: Command,
    ) -> Result<(), AttachError> {
        for (slot, word) in slots.iter().zip(words) {
            slot.store(*word, Ordering::Relaxed);
        }
        if !self.features.coherent {
            self.platform.clean(range);
        }
        self.run([forget]).map_err(AttachError::Sync)
    }

    /// A zeroed table.
    fn table(&self, len: u64) -> Result<Segment, NoMemory> {
        let segment = allocate(&self.memory, &self.features, self.node, len)?;
        if !self.features.coherent {
            self.platform.clean(segment.range());
        }
        Ok(segment)
    }
}

/// The descriptor of an ASID, as it was made.
fn words_of(streams: &Streams, asid: u16) -> Option<cd::Cd> {
    let words = streams.descriptor(asid)?.window().words64()?;
    let mut copy = cd::INVALID;
    for (to, from) in copy.iter_mut().zip(words) {
        *to = from.load(Ordering::Relaxed);
    }
    Some(copy)
}
