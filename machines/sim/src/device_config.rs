//! How devices are built.

use dmakit_addr::{BoundaryMask, DmaAddr, DmaMask, DmaRange, NodeId, PhysAddr};

use crate::{BusWindow, SmmuId};

/// What becomes of an address with more bits than the device has wires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BeyondWires {
    /// The upper bits get lost, and the access hits something else: what most hardware does. A
    /// limit that is not `2^n - 1` has no upper bits to lose, and faults.
    Truncate,
    /// The access goes nowhere.
    Fault,
}

/// The description of a device, as it is built: not as software believes it to be.
///
/// Unless told otherwise it has 64 address wires, no limit to its segments, the machine's
/// coherence, and sees each range of RAM [`BUS_OFFSET`](crate::BUS_OFFSET) above where it lies.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    pub(crate) wires: DmaMask,
    pub(crate) beyond: BeyondWires,
    pub(crate) windows: Vec<BusWindow>,
    pub(crate) segment_bytes_max: u64,
    pub(crate) boundary: BoundaryMask,
    pub(crate) coherent: Option<bool>,
    pub(crate) ordered: bool,
    pub(crate) stream: Option<(SmmuId, u32)>,
    pub(crate) node: Option<NodeId>,
    pub(crate) substream: Option<u32>,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceConfig {
    /// The default device.
    pub fn new() -> Self {
        Self {
            wires: DmaMask::ALL,
            beyond: BeyondWires::Truncate,
            windows: Vec::new(),
            segment_bytes_max: u64::MAX,
            boundary: BoundaryMask::NONE,
            coherent: None,
            ordered: false,
            stream: None,
            node: None,
            substream: None,
        }
    }

    /// The highest address that its wires carry, and what becomes of a higher one.
    #[must_use]
    pub fn wires(mut self, wires: DmaMask, beyond: BeyondWires) -> Self {
        self.wires = wires;
        self.beyond = beyond;
        self
    }

    /// One more window of its bus onto memory. The first call replaces the default ones.
    #[must_use]
    pub fn window(mut self, window: BusWindow) -> Self {
        self.windows.push(window);
        self
    }

    /// It sees memory at its physical addresses, as on a PC. Convenient, and blind to code that
    /// takes one kind of address for the other.
    #[must_use]
    pub fn identity(self) -> Self {
        let all = DmaRange::between(DmaAddr::new(0), DmaAddr::new(u64::MAX));
        all.into_iter().fold(self, |config, bus| {
            config.window(BusWindow {
                bus,
                memory: PhysAddr::new(0),
            })
        })
    }

    /// The longest segment that its length counter can do: of a longer one it does this much.
    #[must_use]
    pub fn segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }

    /// The boundary over which its address counter does not carry: it wraps.
    #[must_use]
    pub fn boundary(mut self, boundary: BoundaryMask) -> Self {
        self.boundary = boundary;
        self
    }

    /// Whether its accesses look into the CPU's caches, on a machine where not all devices' do.
    #[must_use]
    pub fn coherent(mut self, coherent: bool) -> Self {
        self.coherent = Some(coherent);
        self
    }

    /// It stands behind an SMMU, as stream `stream`: its addresses are what the tables there
    /// translate. Windows are then of no use.
    #[must_use]
    pub fn stream(mut self, smmu: SmmuId, stream: u32) -> Self {
        self.stream = Some((smmu, stream));
        self
    }

    /// The node that it is closest to; firmware may know of none.
    #[must_use]
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// Its transactions carry a substream ID (a PASID, on PCI).
    #[must_use]
    pub fn substream(mut self, substream: u32) -> Self {
        self.substream = Some(substream);
        self
    }

    /// Its writes land one transfer after the other; within a transfer still in any order.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }
}
