//! The causes a diagnosis can name, and how sure it can be.

use serde::Serialize;

/// Why a mapping or allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// One mapping may span at most one segment of 128 slots.
    RequestAboveSegmentCap,
    PoolTooSmall,
    PoolLeak,
    PoolFragmentedOrAreaFull,
    /// The address is out of the device's reach and nothing could bounce it.
    AddressBeyondMaskNoBounce,
    /// Bouncing was switched off on the command line.
    Noforce,
    BadParameter,
    CmaTooSmall,
    CmaFragmented,
    CmaPinnedOrBusy,
    CmaReserveFailed,
    CmaAbsent,
    MemlockLimit,
    VfioEntryLimit,
    IommuFaultUnmapped,
    IommuFaultPermission,
    IovaExhausted,
    AtomicPoolExhausted,
    DriverBugDoubleUnmapOrLeak,
    ItsTableTooLarge,
    /// Looks like a failure and is none.
    Harmless,
    /// None of the above.
    Other,
}

impl Cause {
    /// The name used in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestAboveSegmentCap => "request-above-segment-cap",
            Self::PoolTooSmall => "pool-too-small",
            Self::PoolLeak => "pool-leak",
            Self::PoolFragmentedOrAreaFull => "pool-fragmented-or-area-full",
            Self::AddressBeyondMaskNoBounce => "address-beyond-mask-no-bounce",
            Self::Noforce => "noforce",
            Self::BadParameter => "bad-parameter",
            Self::CmaTooSmall => "cma-too-small",
            Self::CmaFragmented => "cma-fragmented",
            Self::CmaPinnedOrBusy => "cma-pinned-or-busy",
            Self::CmaReserveFailed => "cma-reserve-failed",
            Self::CmaAbsent => "cma-absent",
            Self::MemlockLimit => "memlock-limit",
            Self::VfioEntryLimit => "vfio-entry-limit",
            Self::IommuFaultUnmapped => "iommu-fault-unmapped",
            Self::IommuFaultPermission => "iommu-fault-permission",
            Self::IovaExhausted => "iova-exhausted",
            Self::AtomicPoolExhausted => "atomic-pool-exhausted",
            Self::DriverBugDoubleUnmapOrLeak => "driver-bug-double-unmap-or-leak",
            Self::ItsTableTooLarge => "its-table-too-large",
            Self::Harmless => "harmless",
            Self::Other => "other",
        }
    }
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Proved by the arithmetic printed with it, or stated by the line.
    Certain,
    /// Fits the evidence better than the alternatives.
    Likely,
    /// Not excluded by the evidence.
    Possible,
}

impl Certainty {
    /// The word used in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_name_is_the_serialised_one() {
        for cause in [
            Cause::RequestAboveSegmentCap,
            Cause::AddressBeyondMaskNoBounce,
            Cause::DriverBugDoubleUnmapOrLeak,
            Cause::Noforce,
        ] {
            let json = serde_json::to_string(&cause).unwrap_or_default();
            assert_eq!(json, format!("\"{}\"", cause.name()));
        }
    }
}
