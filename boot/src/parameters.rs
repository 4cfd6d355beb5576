//! Kernel parameters.

use dmakit_cma::{AreaParams, PerNode};

/// What the kernel was told.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Contiguous areas.
    pub areas: AreaParams,
    /// Everything bounces.
    pub bounce: bool,
    /// `iommu.passthrough=1`: devices reach memory past the SMMU's translation.
    pub passthrough: bool,
    /// `iommu.strict=0`: invalidation is put off.
    pub lazy: bool,
    /// `untrusted`: a device sees no granule that holds anything else.
    pub untrusted: bool,
    /// Which driver reads its disk.
    pub client: Client,
}

/// Who uses the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Client {
    #[default]
    VirtioBlk,
    Nvme,
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
                "iommu.passthrough" => found.passthrough = value == "1",
                "iommu.strict" => found.lazy = value == "0",
                "untrusted" => found.untrusted = true,
                "client" => {
                    found.client = match value {
                        "virtio-blk" => Client::VirtioBlk,
                        "nvme" => Client::Nvme,
                        _ => return Err("client= is virtio-blk or nvme"),
                    };
                }
                _ => {}
            }
        }
        Ok(found)
    }
}
