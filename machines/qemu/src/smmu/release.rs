//! What the SMMU of a release of QEMU has, and so can show.

use dmakit_smmuv3::Features;

use crate::Version;

/// A part of an SMMU that not every release has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Stage 2, and VMIDs.
    Stage2,
    /// `GBPA`: transactions are aborted while translation is off.
    AbortWhileOff,
    /// Syncs that are answered in memory.
    Messages,
    /// More than one context behind a stream.
    Substreams,
}

/// The first release in which stage 2 and `GBPA` were seen. One between that and the oldest is asked.
const SEEN: Version = Version {
    major: 10,
    minor: 0,
};

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Stage2,
        Self::AbortWhileOff,
        Self::Messages,
        Self::Substreams,
    ];

    /// What it is, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage2 => "stage 2",
            Self::AbortWhileOff => "an abort while the SMMU is off",
            Self::Messages => "syncs answered in memory",
            Self::Substreams => "substreams",
        }
    }

    /// The release from which on it must be there, where there is one that was seen.
    pub const fn since(self) -> Option<Version> {
        match self {
            Self::Stage2 | Self::AbortWhileOff => Some(SEEN),
            Self::Messages | Self::Substreams => None,
        }
    }

    /// Why an SMMU does not show it, by what its registers say and by its release; `None` where it
    /// does. Of `GBPA` no register says whether it works: there the release decides.
    pub fn missing(self, version: Version, features: &Features) -> Option<String> {
        let has = match self {
            Self::Stage2 => features.stage_2,
            Self::AbortWhileOff => version >= SEEN,
            Self::Messages => features.messages,
            Self::Substreams => features.substream_bits > 0,
        };
        let later = match self.since() {
            Some(since) => format!("{since} has it"),
            None => "no release that was seen has it".to_owned(),
        };
        (!has).then(|| format!("the SMMU of QEMU {version} has it not; {later}"))
    }
}
