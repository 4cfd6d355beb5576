//! How far the model's answers are the kernel's.

use super::demand::Outcome;

/// How many answers agree.
///
/// The model is told when a claim begins, how many pages it wants and how many ranges were found
/// busy. Who gives back pages that were claimed before the recording got the lowest free ones then:
/// what lay below is assumed to be taken still. Of calls at once, the one whose beginning was
/// recorded first is taken to look first. Where the kernel's answer differs and shows what it had
/// given away before the recording, the call has *told*; where it differs and depends on an order
/// that the recording leaves open, or on what nothing shows, it is *unknowable*. Neither counts as
/// agreeing. After each answer the model goes on from the kernel's, so that one difference is
/// counted once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Calls whose answer follows from what came before: those that agree and those that do not.
    pub calls: u64,
    /// Those with the kernel's answer.
    pub agree: u64,
    /// Those without.
    pub disagree: Vec<Disagreement>,
    /// Calls that told of pages claimed before the recording.
    pub told: u64,
    /// Calls whose answer cannot be known from the recording.
    pub unknowable: Vec<Disagreement>,
    /// Of those that agree, claims of more than the whole area, or of nothing: the kernel refuses
    /// them before it searches, and records no end.
    pub refused_at_once: Vec<u32>,
    /// Calls without an end in the recording, but for those.
    pub unfinished: u64,
    /// Free runs of the model against those that the kernel printed.
    pub bitmaps: Bitmaps,
    /// Pages that somebody is taken to have had before the recording and never gave back: all of a
    /// range that a call told of, and that no event names.
    pub held_before: Vec<(u32, u64)>,
}

impl Agreement {
    /// Agreeing per knowable, in percent; `None` if nothing is knowable.
    pub fn percent(&self) -> Option<f64> {
        (self.calls > 0).then(|| 100.0 * self.agree as f64 / self.calls as f64)
    }
}

/// A call with another answer than the kernel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// Index into the demand's calls.
    pub call: u32,
    /// What the kernel answered.
    pub kernel: Outcome,
    /// What the model did.
    pub model: Outcome,
    /// Why they differ.
    pub reason: Reason,
}

/// Why an answer differs, or cannot be known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The place was free, but the kernel could not move what was in it, for another reason than
    /// that it was busy. No event says that of a range.
    NotMoved,
    /// The caller was killed while pages were moved.
    Interrupted,
    /// The kernel passed over a range that every event shows free.
    PassedOver,
    /// The kernel used pages that no event gave back.
    ReleaseNotRecorded,
    /// The kernel found another range busy than the model tried.
    OtherRangeBusy,
    /// The kernel served more pages than the area is said to have.
    LargerThanArea,
    /// The error is not the one that the search ends with.
    OtherError,
    /// Another task claimed or released while this call ran: the answer depends on who came first.
    OrderOpen,
    /// Nothing shows whether pages of the place were claimed before the recording.
    BeforeRecording,
}

impl Reason {
    /// For people.
    pub fn says(self) -> &'static str {
        match self {
            Self::NotMoved => {
                "the place was free, but its pages could not be moved; no event tells that of a range"
            }
            Self::Interrupted => "the caller was killed while pages were moved",
            Self::PassedOver => "the kernel passed over a range that every event shows free",
            Self::ReleaseNotRecorded => "the kernel used pages that no event gave back",
            Self::OtherRangeBusy => "the kernel found another range busy than the model tried",
            Self::LargerThanArea => "the kernel served more pages than the area is said to have",
            Self::OtherError => "the error is not the one that the search ends with",
            Self::OrderOpen => {
                "another task claimed or released during the call; who came first is not recorded"
            }
            Self::BeforeRecording => {
                "nothing shows whether the place was claimed before the recording"
            }
        }
    }
}

/// The model's free runs against those that the kernel printed with a failure.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bitmaps {
    /// Printed and found in the trace.
    pub compared: u64,
    /// Equal to the page.
    pub equal: u64,
    /// Equal but for pages of which nothing shows whether they were claimed before the recording.
    pub equal_where_known: u64,
    /// Calls with other free runs.
    pub differ: Vec<u32>,
}
