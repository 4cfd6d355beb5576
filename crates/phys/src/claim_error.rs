//! Why a claim failed, and what was in the way.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::PfnRange;

use crate::error::NoFrames;
use crate::migration::Refusal;
use crate::pin::PinInfo;

/// Why frames are in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// They are not the allocator's, or not all of one zone of one node.
    NotHere,
    /// They are of an area, or of none, and that is not where a window was wanted.
    OtherMemory,
    /// They belong to memory that nobody can move.
    Unmovable,
    /// They are pinned.
    Pinned,
    /// They are leased and the holder did not let go.
    Leased,
    /// Another claim is clearing them, or somebody moves them just now.
    BeingCleared,
    /// Their mover said no.
    Refused(Refusal),
    /// There is no room for them elsewhere.
    NoRoom,
}

/// Frames in the way of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocking {
    /// The frames: of one allocation.
    pub frames: PfnRange,
    /// Why they are in the way.
    pub why: Obstacle,
    /// Who holds them, where they are pinned or leased: the first of those who do.
    pub holder: Option<PinInfo>,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere => f.write_str("no memory of one zone"),
            Self::OtherMemory => f.write_str("other memory than was wanted"),
            Self::Unmovable => f.write_str("unmovable"),
            Self::Pinned => f.write_str("pinned"),
            Self::Leased => f.write_str("leased"),
            Self::BeingCleared => f.write_str("being cleared or moved"),
            Self::Refused(reason) => reason.fmt(f),
            Self::NoRoom => f.write_str("without room elsewhere"),
        }
    }
}

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frames {} are {}", self.frames, self.why)?;
        match &self.holder {
            Some(PinInfo {
                id, owner, since, ..
            }) => write!(f, " by {owner} ({id} since {since:?})"),
            None => Ok(()),
        }
    }
}

/// What a claim came to its end at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimFailure {
    /// Nothing, or more than there can be, was asked for.
    Request,
    /// Everywhere something is in the way that does not move, or no range is as long.
    NoWindow,
    /// Something in the range does not move.
    Blocked,
    /// Something in the range did not move in the tries there were.
    Tries,
    /// The deadline has passed.
    Deadline,
    /// There is no room for an allocation that has to move.
    NoRoom(NoFrames),
    /// Fewer frames are free elsewhere than have to move there, so nothing has moved.
    Full {
        /// Frames that would have to move.
        moves: u64,
        /// Frames that are free elsewhere.
        free: u64,
    },
    /// The gate is closed for the whole cause: nobody was asked.
    NotPermitted,
    /// So many ranges are being cleared that no more can be.
    TooManyClaims,
    /// There is no memory to note what was tried.
    NoMemory,
}

/// A claim that failed. What has moved meanwhile stays where it is now; everything else is as it
/// was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimError {
    /// How many frames were asked for.
    pub frames: u64,
    /// Why it failed.
    pub reason: ClaimFailure,
    /// What is in the way: the first eight allocations, as far as there is memory to name them.
    pub blocking: Vec<Blocking>,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} contiguous frames: ", self.frames)?;
        match &self.reason {
            ClaimFailure::Request => f.write_str("no such claim can be made"),
            ClaimFailure::NoWindow => f.write_str("every window is blocked"),
            ClaimFailure::Blocked => f.write_str("the range is blocked"),
            ClaimFailure::Tries => f.write_str("what is in the range did not move in time"),
            ClaimFailure::Deadline => f.write_str("the deadline passed"),
            ClaimFailure::NoRoom(error) => write!(f, "no room to move to: {error}"),
            ClaimFailure::Full { moves, free } => {
                write!(
                    f,
                    "no room to move to: {moves} frames have to leave, {free} are free elsewhere"
                )
            }
            ClaimFailure::NotPermitted => f.write_str("nothing may move for this cause"),
            ClaimFailure::TooManyClaims => f.write_str("too many claims at once"),
            ClaimFailure::NoMemory => f.write_str("no memory to note what was tried"),
        }?;
        let mut blocking = self.blocking.iter();
        blocking.try_for_each(|blocking| write!(f, "; {blocking}"))
    }
}

impl core::error::Error for ClaimError {}
