//! What several devices have in common, found before a buffer is allocated.

use core::fmt;

use dmakit_addr::{Address, AlignMask, DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_platform::SegmentRequest;

use crate::{Coherence, DeviceId, DeviceInfo, MaskKind, SegmentLimits};

/// What all of some devices can use as it lies: memory for a buffer that they share.
///
/// A renderer that reaches all memory and a display behind a bus with a limit can share a frame
/// without copying it, if it is allocated once where the display reaches it (the 2023 swiotlb mail
/// thread). Keeps no list: windows are found as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct SharedConstraints<'a, 'm> {
    devices: &'a [&'a DeviceInfo<'m>],
    kind: MaskKind,
}

/// Memory that all of the devices reach, as a request to an allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// What to ask for. Its limit is the window's last byte.
    pub request: SegmentRequest,
    /// Where it must lie: an allocator takes an upper limit only, so what it gives is checked
    /// against this.
    pub window: PhysRange,
}

impl Placement {
    /// Whether all of the devices reach this memory.
    pub fn accepts(&self, range: PhysRange) -> bool {
        self.window.contains_range(&range)
    }
}

/// No memory that all of the devices reach is large enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoCommonMemory {
    /// How many bytes were asked for.
    pub len: u64,
    /// The largest stretch that all reach, in bytes; 0 where there is none.
    pub largest: u64,
    /// The device that reaches least, with its highest DMA address; `None` of no devices.
    pub narrowest: Option<(DeviceId, DmaMask)>,
}

impl fmt::Display for NoCommonMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no {} bytes that all devices reach; the largest stretch has {}",
            self.len, self.largest
        )?;
        match self.narrowest {
            Some((device, reach)) => write!(f, "; {device} reaches least, up to {reach}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for NoCommonMemory {}

impl<'a, 'm> SharedConstraints<'a, 'm> {
    /// What `devices` have in common for memory of this kind.
    pub fn new(devices: &'a [&'a DeviceInfo<'m>], kind: MaskKind) -> Self {
        Self { devices, kind }
    }

    /// The stretches of physical addresses that all reach, ascending. Stretches that touch are not
    /// joined where a device's bus shows them apart. O(devices × bus ranges) each.
    pub fn windows(&self) -> impl Iterator<Item = PhysRange> + use<'a, 'm> {
        let this = *self;
        let mut from = Some(PhysAddr::new(0));
        core::iter::from_fn(move || {
            let window = this.window_from(from?)?;
            from = Some(window.end()).filter(|end| *end > window.start());
            Some(window)
        })
    }

    /// The lowest window at or above `from`.
    fn window_from(&self, mut from: PhysAddr) -> Option<PhysRange> {
        if self.devices.is_empty() {
            return PhysRange::between(from, PhysAddr::new(u64::MAX)).filter(|all| !all.is_empty());
        }
        // Each device names its next run; while one starts later than another ends, the others
        // have to come up to it. Every round passes at least one end of one bus range.
        loop {
            let mut start = from;
            let mut end = PhysAddr::new(u64::MAX);
            for device in self.devices {
                let run = device.bus.next_reachable(from, device.reach(self.kind))?;
                start = start.max(run.start());
                end = end.min(run.end());
            }
            if start < end {
                return PhysRange::between(start, end);
            }
            from = start;
        }
    }

    /// What all take as one segment.
    pub fn limits(&self) -> SegmentLimits {
        let limits = self.devices.iter().map(|device| device.limits);
        limits.fold(SegmentLimits::NONE, SegmentLimits::intersect)
    }

    /// The alignment that satisfies every device's low address bits.
    pub fn min_align(&self) -> AlignMask {
        let masks = self.devices.iter().map(|device| device.min_align);
        masks.max().unwrap_or(AlignMask::NONE)
    }

    /// Whether all see the CPU's caches.
    pub fn coherence(&self) -> Coherence {
        if self.devices.iter().all(|device| device.is_coherent()) {
            Coherence::Coherent
        } else {
            Coherence::NonCoherent
        }
    }

    /// The node on which all hang, where there is one.
    pub fn node(&self) -> Option<NodeId> {
        let (first, rest) = self.devices.split_first()?;
        rest.iter()
            .all(|device| device.node == first.node)
            .then_some(first.node)?
    }

    /// Requests for `len` bytes aligned to `align`, a power of two, one for each window that is
    /// large enough, highest first: high memory is what others need least.
    pub fn placements(
        &self,
        len: u64,
        align: u64,
    ) -> impl Iterator<Item = Placement> + use<'a, 'm> {
        let this = *self;
        let align = align.max(self.min_align().align_bytes());
        let node = self.node();
        let mut below = PhysAddr::new(u64::MAX);
        core::iter::from_fn(move || {
            let fits = |window: &PhysRange| {
                let start = window.start().align_up(align);
                let end = start.and_then(|start| start.checked_add(len));
                window.end() <= below && end.is_some_and(|end| end <= window.end())
            };
            let window = this.windows().filter(fits).last()?;
            below = window.start();
            Some(Placement {
                request: SegmentRequest {
                    len,
                    align,
                    node,
                    limit: DmaMask::up_to(window.last()?.raw()),
                },
                window,
            })
        })
    }

    /// The first of the [`placements`](Self::placements).
    ///
    /// # Errors
    /// [`NoCommonMemory`], with what there is.
    pub fn placement(&self, len: u64, align: u64) -> Result<Placement, NoCommonMemory> {
        self.placements(len, align).next().ok_or_else(|| {
            let reach = |device: &&DeviceInfo<'m>| (device.id, device.reach(self.kind));
            NoCommonMemory {
                len,
                largest: self.windows().map(|window| window.len()).max().unwrap_or(0),
                narrowest: self
                    .devices
                    .iter()
                    .map(reach)
                    .min_by_key(|(_, reach)| *reach),
            }
        })
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
