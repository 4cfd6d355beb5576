//! Kernel parameters.

use dmakit_cma::{AreaParams, PerNode};

use crate::workload::Workload;

/// What the kernel was told.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Contiguous areas.
    pub areas: AreaParams,
    /// Everything bounces.
    pub bounce: bool,
    /// `restricted`: a device reaches nothing but one pool, its descriptors included.
    pub restricted: bool,
    /// `iommu.passthrough=1`: devices reach memory past the SMMU's translation.
    pub passthrough: bool,
    /// `iommu.strict=0`: invalidation is put off.
    pub lazy: bool,
    /// `untrusted`: a device sees no granule that holds anything else.
    pub untrusted: bool,
    /// `doorbell=unmapped`: a device's interrupts lead nowhere.
    pub doorbell_unmapped: bool,
    /// Which driver runs.
    pub client: Client,
    /// What it does: `requests=`, `seed=`, `fail=`.
    pub workload: Workload,
}

/// Who uses the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Client {
    #[default]
    VirtioBlk,
    Nvme,
    Ahci,
    VirtioNet,
}

impl Parameters {
    /// Reads a command line. What is not known here is for somebody else.
    pub fn read(line: &str) -> Result<Self, &'static str> {
        let mut found = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "cma" => found.areas.cma = Some(value.parse().map_err(|_| "cma=?")?),
                "cma_pernuma" => {
                    let size = value.parse().map_err(|_| "cma_pernuma=?")?;
                    found.areas.per_node = PerNode::Sized(size);
                }
                "numa_cma" => {
                    found.areas.numa_cma = Some(value.parse().map_err(|_| "numa_cma=?")?);
                }
                "swiotlb" => found.bounce |= value.split(',').any(|part| part == "force"),
                "restricted" => found.restricted = true,
                "iommu.passthrough" => found.passthrough = value == "1",
                "iommu.strict" => found.lazy = value == "0",
                "untrusted" => found.untrusted = true,
                "client" => {
                    found.client = match value {
                        "virtio-blk" => Client::VirtioBlk,
                        "nvme" => Client::Nvme,
                        "ahci" => Client::Ahci,
                        "virtio-net" => Client::VirtioNet,
                        _ => return Err("client= is virtio-blk, nvme, ahci or virtio-net"),
                    };
                }
                "doorbell" => found.doorbell_unmapped = value == "unmapped",
                "requests" => found.workload.requests = number(value)?,
                "seed" => found.workload.seed = number(value)?,
                "fail" => found.workload.fail = number(value)?,
                _ => {}
            }
        }
        Ok(found)
    }
}

fn number(value: &str) -> Result<u64, &'static str> {
    value.parse().map_err(|_| "a parameter that is no number")
}
