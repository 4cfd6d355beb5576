//! Which area a coherent allocation comes from.

use std::fmt;

use super::{ALIGN_ORDER_MAX, Wish};
use crate::Engine;

/// One of the areas that the mapping API knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum AreaKind {
    /// The device's own.
    Device,
    /// The one of `cma_pernuma=` on a node.
    PerNode(u32),
    /// The one of `numa_cma=` on a node.
    Node(u32),
    /// The default one.
    Default,
}

impl fmt::Display for AreaKind {
    /// The area's name in traces. That of a device is its node's in the device tree.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("device"),
            Self::PerNode(node) => write!(f, "pernuma{node}"),
            Self::Node(node) => write!(f, "numa{node}"),
            Self::Default => f.write_str("reserved"),
        }
    }
}

/// Who allocates coherent memory, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requester {
    /// The device's node; `None` where the firmware names none.
    pub node: Option<u32>,
    /// Bits of its coherent mask.
    pub mask_bits: u32,
    /// Whether it has an area of its own.
    pub has_area: bool,
    /// Whether the caller may sleep.
    pub may_sleep: bool,
}

impl Requester {
    /// The areas that are asked for `bytes`, in order; where none serves, or none is asked, whole
    /// pages of the page allocator are next.
    ///
    /// A claim sleeps, so those who may not get none. A device with an area of its own uses only
    /// that. A single page is not worth an area. Devices that cannot reach all memory skip the
    /// areas of their node, which may lie anywhere; so do those without a node. 6.1 has no
    /// `numa_cma=`.
    pub fn areas(&self, engine: Engine, bytes: u64) -> Vec<AreaKind> {
        if !self.may_sleep {
            return Vec::new();
        }
        if self.has_area {
            return vec![AreaKind::Device];
        }
        if bytes <= dmakit_addr::PAGE_BYTES {
            return Vec::new();
        }
        let mut areas = Vec::new();
        if let (Some(node), 33..) = (self.node, self.mask_bits) {
            areas.push(AreaKind::PerNode(node));
            if engine != Engine::Linux6_1 {
                areas.push(AreaKind::Node(node));
            }
        }
        areas.push(AreaKind::Default);
        areas
    }

    /// What each of them is asked.
    pub fn wish(bytes: u64) -> Wish {
        let pages = bytes.div_ceil(dmakit_addr::PAGE_BYTES);
        Wish {
            pages,
            align_order: pages.next_power_of_two().ilog2().min(ALIGN_ORDER_MAX),
        }
    }
}
