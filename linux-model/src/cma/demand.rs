//! What a recording shows was asked of contiguous areas, without what the kernel answered.

pub use crate::demand::Phase;

use super::Wish;

/// Claims and releases in the order of their events.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Names of the areas, as they appear; empty where the kernel records none.
    pub areas: Vec<String>,
    /// Who claimed: a device where the mapping API claimed for one, else a task.
    pub clients: Vec<Client>,
    /// Every claim.
    pub calls: Vec<Call>,
    /// Pages that were claimed before the recording began, known by their release.
    pub holdings: Vec<Holding>,
    /// What happened.
    pub ops: Vec<Op>,
    /// Marked phases.
    pub phases: Vec<Phase>,
    /// What has no partner.
    pub unpaired: Unpaired,
}

/// Who claimed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// The device's or the task's name.
    pub name: String,
    /// Whether it is a device.
    pub is_device: bool,
}

/// One claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Index of the area.
    pub area: u32,
    /// How many pages, aligned how.
    pub wish: Wish,
    /// Index of the client.
    pub client: u32,
    /// How many ranges the kernel found busy and passed over.
    pub busy: u32,
    /// When it began.
    pub at_ns: u64,
}

/// Pages that somebody had when the recording began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Index of the area.
    pub area: u32,
    /// The number of the first page. It is the caller's, who gives them back: no result.
    pub pfn: u64,
    /// How many.
    pub pages: u64,
}

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// When its event was recorded.
    pub at_ns: u64,
    /// The task.
    pub pid: u32,
    /// What.
    pub kind: OpKind,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// The call of this index looks for a place.
    Start(u32),
    /// The place it found was busy.
    Busy(u32),
    /// It ended, well or not, or its task was seen to do something else.
    Finish(u32),
    /// Pages came back.
    Release {
        /// Whose.
        from: Owner,
        /// The first of them, counted from the owner's first.
        offset: u64,
        /// How many.
        pages: u64,
    },
    /// The phase of this index began.
    PhaseBegin(u32),
    /// It ended.
    PhaseEnd(u32),
}

/// Whose pages are given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The call of this index.
    Call(u32),
    /// The holding of this index.
    Holding(u32),
}

/// Events without their partner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unpaired {
    /// Claims that began and have no end: running when the recording ended, larger than their area,
    /// or their event was lost.
    pub starts: u64,
    /// Claims whose beginning was not recorded.
    pub finishes: u64,
    /// Pages that were given back without having been claimed, twice.
    pub released_pages: u64,
    /// Pages that were claimed again although no event gave them back: their release was lost.
    pub releases_inferred: u64,
    /// Claims that were held when the recording ended.
    pub held_at_end: u64,
}

/// What the kernel answered. Compared with, never used to predict.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recorded {
    /// One for each call; `None` where the recording has no end of it.
    pub outcomes: Vec<Option<Outcome>>,
    /// The places found busy, for each call.
    pub busy: Vec<Vec<u64>>,
    /// When each call ended.
    pub ended_ns: Vec<u64>,
}

/// How a claim ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With the pages from this number on.
    At(u64),
    /// Without, and with this error number, negative, where the kernel records one.
    Failed(Option<i32>),
}
