//! How a device's memory is reached, and what forgets it when.

use clap::ValueEnum;
use serde::Serialize;

/// One way to serve the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Physical addresses, no protection (iommu.passthrough=1)
    Passthrough,
    /// Translated; hardware forgets some time after unmap (iommu.strict=0)
    Lazy,
    /// Translated; hardware forgets before unmap returns (iommu.strict=1)
    Strict,
    /// Translated; buffers come back when one sync for many unmaps is complete (dmakit alone)
    Batched,
    /// Copied through a bounce pool (swiotlb=force)
    Bounce,
}

impl Mode {
    /// All, in the order of the answer.
    pub const ALL: [Self; 5] = [
        Self::Passthrough,
        Self::Lazy,
        Self::Strict,
        Self::Batched,
        Self::Bounce,
    ];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Lazy => "lazy",
            Self::Strict => "strict",
            Self::Batched => "batched",
            Self::Bounce => "bounce",
        }
    }

    /// What to write into Linux's boot line.
    pub const fn params(self) -> Option<&'static str> {
        match self {
            Self::Passthrough => Some("iommu.passthrough=1"),
            Self::Lazy => Some("iommu.strict=0"),
            Self::Strict => Some("iommu.strict=1"),
            Self::Bounce => Some("swiotlb=force"),
            Self::Batched => None,
        }
    }

    /// Whether a device reaches memory that its driver has unmapped. Not a matter of counts where
    /// nothing translates.
    pub const fn ends_with_unmap(self) -> bool {
        matches!(self, Self::Strict | Self::Batched)
    }
}
