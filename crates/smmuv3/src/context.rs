//! Translations that streams can be attached to.

use alloc::vec::Vec;

use dmakit_iommu::DomainId;
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
    /// Which streams, and which substreams of theirs, are attached to what.
    attached: Vec<(u32, u32, Tag)>,
    /// Contexts that were created, and the domain of each.
    contexts: Vec<(Tag, Option<DomainId>)>,
    /// Streams with substreams.
    open: Vec<u32>,
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
            contexts: Vec::new(),
            open: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Room to remember one more of each.
    pub(crate) fn reserve(&mut self) -> Result<(), AttachError> {
        let attached = self.attached.try_reserve(1);
        let descriptors = self.descriptors.try_reserve(1);
        let open = self.open.try_reserve(1);
        let contexts = self.contexts.try_reserve(1);
        let all = attached.and(descriptors).and(open).and(contexts);
        all.map_err(|_| AttachError::Records)
    }

    /// Notes what a stream is attached to now, in room that was reserved.
    pub(crate) fn note(&mut self, stream: u32, tag: Option<Tag>) {
        self.attached.retain(|&(other, ..)| other != stream);
        self.attached.extend(tag.map(|tag| (stream, 0, tag)));
    }

    /// Notes what a substream is attached to now, likewise.
    pub(crate) fn note_substream(&mut self, stream: u32, substream: u32, tag: Option<Tag>) {
        self.attached
            .retain(|&(other, number, _)| (other, number) != (stream, substream));
        self.attached
            .extend(tag.map(|tag| (stream, substream, tag)));
    }

    /// Notes a context, in room that was reserved.
    pub(crate) fn note_context(&mut self, tag: Tag) {
        self.contexts.push((tag, None));
    }

    /// Forgets a context that is gone.
    pub(crate) fn forget_context(&mut self, tag: Tag) {
        self.contexts.retain(|&(other, _)| other != tag);
    }

    /// Notes whose context it is.
    pub(crate) fn assign(&mut self, tag: Tag, domain: DomainId) {
        let context = self.contexts.iter_mut().find(|(other, _)| *other == tag);
        if let Some((_, owner)) = context {
            *owner = Some(domain);
        }
    }

    /// The domain to which a stream, or a substream of it, is attached.
    pub(crate) fn domain_of(&self, stream: u32, substream: u32) -> Option<DomainId> {
        let mut attached = self.attached.iter();
        let &(.., tag) =
            attached.find(|&&(other, number, _)| (other, number) == (stream, substream))?;
        let context = self.contexts.iter().find(|&&(other, _)| other == tag);
        context.and_then(|&(_, domain)| domain)
    }

    /// What a stream is attached to.
    pub(crate) fn tag_of(&self, stream: u32) -> Option<Tag> {
        let found = self.attached.iter().find(|&&(other, ..)| other == stream);
        found.map(|&(.., tag)| tag)
    }

    /// Notes whether a stream has substreams, in room that was reserved.
    pub(crate) fn note_open(&mut self, stream: u32, is_open: bool) {
        self.open.retain(|&other| other != stream);
        self.open.extend(is_open.then_some(stream));
    }

    /// Whether a stream has substreams.
    pub(crate) fn is_open(&self, stream: u32) -> bool {
        self.open.contains(&stream)
    }

    /// The context descriptor of an ASID.
    pub(crate) fn descriptor(&self, asid: u16) -> Option<&Segment> {
        let found = self.descriptors.iter().find(|&&(of, _)| of == asid);
        found.map(|(_, segment)| segment)
    }

    /// A stream that is attached to a context.
    pub(crate) fn attached_to(&self, tag: Tag) -> Option<u32> {
        let found = self.attached.iter().find(|&&(.., other)| other == tag);
        found.map(|&(stream, ..)| stream)
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
