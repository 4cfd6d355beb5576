//! Drivers of a disk and of an `edu` that map their buffers in every way there is.
#![allow(dead_code, reason = "each test uses a part")]

pub mod buffers;
pub mod held;
mod load;
mod peer;
mod rounds;

use dmakit_dma::{Batch, BatchConfig, BounceWhen, DeviceInfo, Path, PoolId, Trust};
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::FunctionId;
use dmakit_qemu::smmu::{Attachment, Mode, QemuDevice};
use dmakit_swiotlb::BouncePool;

use crate::disk::Rig;
use held::Batches;

pub use load::{LANE, LANES, Load};
pub use rounds::Rounds;

/// What stands between a device and memory, and when unmapped memory is out of reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    Strict,
    Batched,
    Lazy,
    /// As it lies, and by way of a pool where it must not be.
    Direct,
    /// By way of a pool, always.
    Bounced,
}

impl Policy {
    pub fn translates(self) -> bool {
        matches!(self, Self::Strict | Self::Batched | Self::Lazy)
    }

    /// Gives a device a domain, or lets it past the SMMU where there is one.
    pub fn attach(self, rig: &Rig, id: FunctionId) -> Option<Attachment> {
        match self {
            Self::Strict | Self::Batched => Some(rig.attach(id, Mode::Strict)),
            Self::Lazy => Some(rig.attach(id, Mode::Lazy)),
            Self::Direct | Self::Bounced => {
                rig.bypass(id);
                None
            }
        }
    }

    /// Two devices that are the same function: one is trusted, the other is not.
    pub fn devices<'a>(
        self,
        rig: &'a Rig,
        attachment: Option<&'a Attachment>,
        info: DeviceInfo<'a>,
        pool: &'a BouncePool<HostPlatform>,
    ) -> [QemuDevice<'a>; 2] {
        [(0, Trust::Trusted), (1, Trust::Untrusted)].map(|(number, trust)| {
            let info = DeviceInfo {
                id: dmakit_dma::DeviceId::new(info.id.raw() + 100 * number),
                trust,
                ..info
            };
            let id = pool.attach(None).unwrap();
            match attachment {
                Some(attachment) => attachment.device(info, Some((pool, id))),
                None => rig.untranslated(info, self.past_the_smmu(pool, id)),
            }
        })
    }

    fn past_the_smmu<'a>(
        self,
        pool: &'a BouncePool<HostPlatform>,
        id: PoolId,
    ) -> Path<'a, HostPlatform, dmakit_swiotlb::NoGrowth, dmakit_qemu::smmu::SmmuDomain> {
        let when = match self {
            Self::Bounced => BounceWhen::Always,
            _ => BounceWhen::Needed,
        };
        Path::Bounced { pool, id, when }
    }

    fn batches(self, devices: &[QemuDevice<'_>; 2]) -> Batches {
        // Of the device that is never lazy.
        let domain = devices[1].domain();
        let config = BatchConfig {
            debts: 128,
            ..BatchConfig::default()
        };
        Batches {
            pieces: Batch::new(domain, config).unwrap(),
            buffers: Batch::new(domain, config).unwrap(),
        }
    }
}
