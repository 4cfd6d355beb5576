//! Translations that streams can be attached to.

use alloc::vec::Vec;

use dmakit_platform::Segment;

use crate::spec::ste::Ste;
use crate::stream_table::StreamTable;
use crate::tags::Tags;
use crate::{AttachError, Tag};

/// A translation: a page table under a tag of its own.
///
/// It is moved, never copied, and given back by [`Smmu::release_context`](crate::Smmu). It does not
/// own the page table; whoever frees that has released this before.
#[derive(PartialEq, Eq, Debug)]
pub struct Context {
    pub(crate) tag: Tag,
    /// The stream table entry of a stream that is attached to it.
    pub(crate) entry: Ste,
}

impl Context {
    /// The tag of its translations.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The entry of a stream that is attached to it, for a driver that will
    /// [take over](crate::Inherited).
    pub fn entry(&self) -> Ste {
        self.entry
    }
}

/// What the driver remembers of streams and contexts.
pub(crate) struct Streams {
    pub(crate) table: StreamTable,
    pub(crate) asids: Tags,
    pub(crate) vmids: Tags,
    /// Which streams are attached to what.
    attached: Vec<(u32, Tag)>,
    /// Context descriptors, by ASID.
    descriptors: Vec<(u16, Segment)>,
}

impl Streams {
    pub(crate) fn new(table: StreamTable, asids: Tags, vmids: Tags) -> Self {
        Self {
            table,
            asids,
            vmids,
            attached: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Room to remember one more of each.
    pub(crate) fn reserve(&mut self) -> Result<(), AttachError> {
        let attached = self.attached.try_reserve(1);
        let descriptors = self.descriptors.try_reserve(1);
        attached.and(descriptors).map_err(|_| AttachError::Records)
    }

    /// Notes what a stream is attached to now, in room that was reserved.
    pub(crate) fn note(&mut self, stream: u32, tag: Option<Tag>) {
        self.attached.retain(|&(other, _)| other != stream);
        self.attached.extend(tag.map(|tag| (stream, tag)));
    }

    /// What a stream is attached to.
    pub(crate) fn tag_of(&self, stream: u32) -> Option<Tag> {
        let found = self.attached.iter().find(|&&(other, _)| other == stream);
        found.map(|&(_, tag)| tag)
    }

    /// A stream that is attached to a context.
    pub(crate) fn attached_to(&self, tag: Tag) -> Option<u32> {
        let found = self.attached.iter().find(|&&(_, other)| other == tag);
        found.map(|&(stream, _)| stream)
    }

    /// Keeps a descriptor, in room that was reserved.
    pub(crate) fn keep(&mut self, asid: u16, descriptor: Segment) {
        self.descriptors.push((asid, descriptor));
    }

    /// Gives a descriptor that nobody uses.
    pub(crate) fn take(&mut self, asid: u16) -> Option<Segment> {
        let index = self.descriptors.iter().position(|&(of, _)| of == asid)?;
        Some(self.descriptors.swap_remove(index).1)
    }

    /// Takes all memory out.
    pub(crate) fn into_segments(self) -> impl Iterator<Item = Segment> {
        let descriptors = self.descriptors.into_iter();
        descriptors
            .map(|(_, segment)| segment)
            .chain(self.table.into_segments())
    }
}
