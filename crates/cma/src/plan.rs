//! Which areas a machine wants, in which order.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES, PAGE_SHIFT, Pfn, PfnRange};
use dmakit_phys::{MemoryKind, MemoryMap, PAGEBLOCK_ORDER};

use crate::area::RANGES_MAX;
use crate::{CmaParam, CmaPernumaParam, DefaultSize, HugetlbCmaParam, NumaCmaParam};

/// What an area is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// For whoever finds nothing closer.
    Default,
    /// For devices of this node: one of the areas of the same size on every node.
    PerNode(NodeId),
    /// For devices of this node: listed by itself.
    Listed(NodeId),
    /// For gigantic pages of this node, not for devices.
    Gigantic(NodeId),
    /// For one device, or for those that firmware names.
    Device,
}

impl fmt::Display for Purpose {
    /// The name of the area, as Linux gives it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("reserved"),
            Self::PerNode(node) => write!(f, "pernuma{}", node.index()),
            Self::Listed(node) => write!(f, "numa{}", node.index()),
            Self::Gigantic(node) => write!(f, "hugetlb{}", node.index()),
            Self::Device => f.write_str("device"),
        }
    }
}

/// Where an area may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Wherever there is room: the lowest above 4 GiB, which leaves low memory to narrow devices;
    /// where that has none, the highest below.
    Anywhere,
    /// Exactly here; rounded up to the area's alignment. Nothing else will do.
    At(Pfn),
    /// Inside these frames, chosen as for [`Anywhere`](Self::Anywhere).
    Within(PfnRange),
}

/// One area that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaRequest {
    /// What for.
    pub purpose: Purpose,
    /// How many bytes; rounded up to whole page blocks, units and alignments.
    pub bytes: u64,
    /// The node on which it lies, exactly; `None` where any will do.
    pub node: Option<NodeId>,
    /// Where.
    pub place: Place,
    /// The highest byte that it may reach.
    pub limit: DmaMask,
    /// log2 of the frames that are claimed together.
    pub unit_order: u32,
    /// log2 of the alignment of its ranges, in frames.
    pub align_order: u32,
    /// Of how many ranges it may be made, at most
    /// [`Area::RANGES_MAX`](crate::Area::RANGES_MAX).
    pub ranges_max: usize,
    /// Not at all, once areas for gigantic pages have so many bytes together.
    pub spread_bytes: Option<u64>,
    /// Not at all, where the default area turned out to lie on the node.
    pub unless_default: bool,
}

impl AreaRequest {
    /// An area of `bytes` in one piece, anywhere.
    pub fn new(purpose: Purpose, bytes: u64) -> Self {
        let node = match purpose {
            Purpose::PerNode(node) | Purpose::Listed(node) | Purpose::Gigantic(node) => Some(node),
            Purpose::Default | Purpose::Device => None,
        };
        Self {
            purpose,
            bytes,
            node,
            place: Place::Anywhere,
            limit: DmaMask::ALL,
            unit_order: 0,
            align_order: 0,
            ranges_max: 1,
            spread_bytes: None,
            unless_default: false,
        }
    }

    /// log2 of the frames to whose multiples its ranges are rounded.
    pub(crate) fn order(&self) -> u32 {
        self.align_order.max(self.unit_order).max(PAGEBLOCK_ORDER)
    }

    /// The frames that it takes, or `None` where they are too many to count.
    pub(crate) fn frames(&self) -> Option<u64> {
        let step = 1_u64.checked_shl(self.order())?;
        self.bytes
            .div_ceil(PAGE_BYTES)
            .checked_next_multiple_of(step)
    }
}

/// Whether gigantic pages or devices choose their memory first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum GiganticTurn {
    /// Before the areas of nodes and the default area, as in Linux: they are the hardest to place.
    #[default]
    First,
    /// After them.
    Last,
}

/// Areas of the same kind on every node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PerNode {
    /// None.
    #[default]
    Off,
    /// As `cma_pernuma=` says, on every node.
    Sized(CmaPernumaParam),
    /// As large as [`DefaultSize`] says of the memory of each node, but none where the default area
    /// lies: that one serves its node.
    AsDefault,
}

/// What boot parameters and build options ask for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AreaParams {
    /// `cma=`.
    pub cma: Option<CmaParam>,
    /// `cma_pernuma=`, or the size that follows from the default.
    pub per_node: PerNode,
    /// `numa_cma=`.
    pub numa_cma: Option<NumaCmaParam>,
    /// `hugetlb_cma=`.
    pub hugetlb_cma: Option<HugetlbCmaParam>,
    /// The default area where there is no `cma=`.
    pub default_size: DefaultSize,
    /// Who chooses first.
    pub gigantic: GiganticTurn,
}

/// log2 of the frames of a gigantic page, 1 GiB, and of the huge pages into which it may be cut.
const GIGANTIC_ORDER: u32 = 18;
const HUGE_ORDER: u32 = 9;

impl AreaParams {
    /// The areas that these parameters ask for on a machine, in the order in which they are to be
    /// reserved; the default area stays at or below `limit`. Areas of devices are not among them:
    /// they go first, see [`reserve`](crate::reserve).
    pub fn requests(&self, map: &MemoryMap, limit: DmaMask) -> Vec<AreaRequest> {
        let mut requests = Vec::new();
        if self.gigantic == GiganticTurn::First {
            self.gigantic(map, &mut requests);
        }
        if self.per_node != PerNode::AsDefault {
            self.nodes(map, &mut requests);
        }
        requests.extend(self.default_area(map, limit));
        if self.per_node == PerNode::AsDefault {
            self.nodes(map, &mut requests);
        }
        if self.gigantic == GiganticTurn::Last {
            self.gigantic(map, &mut requests);
        }
        requests.retain(|request| request.bytes > 0);
        requests
    }

    fn default_area(&self, map: &MemoryMap, limit: DmaMask) -> Option<AreaRequest> {
        let Some(CmaParam { size, base, end }) = self.cma else {
            let bytes = self.default_size.of(memory_bytes(map, None));
            return Some(AreaRequest {
                limit,
                ..AreaRequest::new(Purpose::Default, bytes)
            });
        };
        let base = Pfn::new(base.unwrap_or(0).div_ceil(PAGE_BYTES));
        let place = match end {
            Some(end) => {
                let end = Pfn::new(end >> PAGE_SHIFT).max(base);
                PfnRange::between(base, end).map_or(Place::Anywhere, Place::Within)
            }
            None if base == Pfn::new(0) => Place::Anywhere,
            None => Place::At(base),
        };
        Some(AreaRequest {
            place,
            limit,
            ..AreaRequest::new(Purpose::Default, size)
        })
    }

    fn nodes(&self, map: &MemoryMap, requests: &mut Vec<AreaRequest>) {
        for node in (0..map.nodes() as u16).map(NodeId::new) {
            let (bytes, unless_default) = match self.per_node {
                PerNode::Off => break,
                PerNode::Sized(param) => (param.size, false),
                PerNode::AsDefault => (self.default_size.of(memory_bytes(map, Some(node))), true),
            };
            requests.push(AreaRequest {
                unless_default,
                ..AreaRequest::new(Purpose::PerNode(node), bytes)
            });
        }
        let listed = self.numa_cma.iter().flat_map(|param| &param.sizes);
        requests
            .extend(listed.map(|&(node, bytes)| AreaRequest::new(Purpose::Listed(node), bytes)));
    }

    fn gigantic(&self, map: &MemoryMap, requests: &mut Vec<AreaRequest>) {
        let request = |node, bytes, spread_bytes| AreaRequest {
            unit_order: HUGE_ORDER,
            align_order: GIGANTIC_ORDER,
            ranges_max: RANGES_MAX,
            spread_bytes,
            ..AreaRequest::new(Purpose::Gigantic(node), bytes)
        };
        match &self.hugetlb_cma {
            None => {}
            Some(HugetlbCmaParam::Spread(total)) => {
                let nodes = (0..map.nodes() as u16).map(NodeId::new);
                let share = total.div_ceil(map.nodes().max(1) as u64);
                requests.extend(nodes.map(|node| request(node, share, Some(*total))));
            }
            Some(HugetlbCmaParam::Listed(sizes)) => {
                requests.extend(
                    sizes
                        .iter()
                        .map(|&(node, bytes)| request(node, bytes, None)),
                );
            }
        }
    }
}

/// Usable memory of a node, or of all.
fn memory_bytes(map: &MemoryMap, node: Option<NodeId>) -> u64 {
    let regions = map.regions().iter();
    let counted = regions.filter(|region| {
        region.kind == MemoryKind::Usable && node.is_none_or(|node| region.node == node)
    });
    counted.map(|region| region.range.len() << PAGE_SHIFT).sum()
}
