//! In which order areas serve coherent memory.

use core::fmt;
use core::time::Duration;

use dmakit_addr::{DmaMask, PAGE_BYTES};
use dmakit_phys::{AttachedRam, ClaimLimits, Frame, Migrate};
use dmakit_platform::{NoMemory, Platform, Segment, SegmentRequest, TableMemory};

use crate::Purpose;
use crate::areas::{AreaClaim, AreaId, Areas};
use crate::statistics::{CoherentCounters, CoherentStatistics, Skip, Step};

/// The area that a device has for itself.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DeviceArea {
    /// None.
    #[default]
    None,
    /// This one, before all others.
    First(AreaId),
    /// This one, and no other area: where it has no room, pages serve. So does Linux with the area
    /// that firmware names for a device.
    Only(AreaId),
}

/// How long an allocation may wait for lent memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Not at all: it never sleeps, and takes free windows only.
    Never,
    /// What is in the way is moved, for so long in each area. It may sleep, so it is not for page
    /// tables, which are allocated in interrupts.
    UpTo {
        /// For how long.
        patience: Duration,
        /// How often busy frames are asked again.
        tries: u32,
    },
}

/// Coherent memory from contiguous areas, near the device: what drivers, and the mapping API for
/// them, are given as their [`TableMemory`].
///
/// In this order:
///
/// 1. the device's own area;
/// 2. the areas of the asked node, first that of the same size everywhere, then the listed one. Not
///    for whoever reaches no more than 4 GiB, and not where no node is asked for;
/// 3. the default area;
/// 4. pages of the page allocator, nearest node first.
///
/// Requests of a single page use pages, unless the device has an area of its own. Every step that
/// was passed over, and why, is counted.
///
/// Freed memory goes back to the area that its frames lie in, whatever the device is set to by then.
pub struct CoherentMemory<'m, P: Platform, S, M> {
    platform: P,
    areas: &'m Areas<'m, P, S, M>,
    ram: &'m AttachedRam<'m, P, S>,
    device: DeviceArea,
    waiting: Waiting,
    counters: CoherentCounters,
}

/// The highest byte of a narrow device.
const NARROW: DmaMask = DmaMask::up_to(u32::MAX as u64);

impl<'m, P, S, M> CoherentMemory<'m, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// Coherent memory from `areas`, its bytes through `ram`.
    pub fn new(
        platform: P,
        areas: &'m Areas<'m, P, S, M>,
        ram: &'m AttachedRam<'m, P, S>,
        device: DeviceArea,
        waiting: Waiting,
    ) -> Self {
        Self {
            platform,
            areas,
            ram,
            device,
            waiting,
            counters: CoherentCounters::default(),
        }
    }

    /// Where memory came from, and what was passed over.
    pub fn statistics(&self) -> CoherentStatistics {
        self.counters.read()
    }

    /// The area of a step, or why the step is passed over.
    fn area(&self, step: Step, request: &SegmentRequest) -> Result<AreaId, Skip> {
        let single = request.len <= PAGE_BYTES;
        let of_node = |purpose: fn(_) -> Purpose| {
            let node = request.node.ok_or(Skip::NoNode)?;
            self.areas.find(purpose(node)).ok_or(Skip::NoArea)
        };
        match (step, self.device) {
            (Step::Device, DeviceArea::First(area) | DeviceArea::Only(area)) => Ok(area),
            (Step::Device, DeviceArea::None) => Err(Skip::NoArea),
            (_, DeviceArea::Only(_)) => Err(Skip::DeviceOnly),
            _ if single => Err(Skip::SinglePage),
            (Step::PerNode | Step::Listed, _) if request.limit <= NARROW => Err(Skip::Narrow),
            (Step::PerNode, _) => of_node(Purpose::PerNode),
            (Step::Listed, _) => of_node(Purpose::Listed),
            (Step::Default | Step::Pages, _) => {
                self.areas.find(Purpose::Default).ok_or(Skip::NoArea)
            }
        }
    }

    fn claim(&self, area: AreaId, request: &SegmentRequest) -> Option<Segment> {
        let claim = AreaClaim {
            frames: request.len.div_ceil(PAGE_BYTES),
            align_order: (request.align / PAGE_BYTES).max(1).ilog2(),
            limit: request.limit,
        };
        let claimed = match self.waiting {
            Waiting::Never => self.areas.claim_free(area, &claim),
            Waiting::UpTo { patience, tries } => {
                let deadline = self.platform.now().saturating_add(patience);
                self.areas
                    .claim(area, &claim, &ClaimLimits { deadline, tries })
            }
        };
        self.ram.attach(claimed.ok()?).map_or_else(
            |frames| {
                let released = self.areas.release(frames);
                debug_assert!(released.is_ok(), "claimed a moment ago");
                None
            },
            Some,
        )
    }
}

impl<P, S, M> TableMemory for CoherentMemory<'_, P, S, M>
where
    P: Platform,
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    M: Migrate,
{
    /// It sleeps only if it [may wait](Waiting).
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        if request.len == 0 || !request.align.is_power_of_two() {
            return self.ram.allocate_table(request);
        }
        for step in [Step::Device, Step::PerNode, Step::Listed, Step::Default] {
            let area = match self.area(step, request) {
                Ok(area) => area,
                Err(skip) => {
                    self.counters.skipped(step, skip);
                    continue;
                }
            };
            let Some(segment) = self.claim(area, request) else {
                self.counters.failed(step);
                continue;
            };
            segment.window().fill(0);
            self.platform.clean(segment.range());
            self.counters.served(step, segment.len());
            return Ok(segment);
        }
        let pages = self.ram.allocate_table(request);
        match &pages {
            Ok(segment) => self.counters.served(Step::Pages, segment.len()),
            Err(_) => self.counters.failed(Step::Pages),
        }
        pages
    }

    /// A segment that is not from here leaks and is counted: the trait has no way to return it.
    fn free_table(&self, segment: Segment) {
        let start = segment.range().frames().start();
        if self.areas.area_of(start).is_none() {
            return self.ram.free_table(segment);
        }
        let len = segment.len();
        let frames = self.ram.detach(segment).ok();
        let released = frames.map(|frames| self.areas.release(frames));
        if !matches!(released, Some(Ok(()))) {
            self.counters.leaked(len);
        }
    }
}

impl<P: Platform, S, M> fmt::Debug for CoherentMemory<'_, P, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoherentMemory")
            .field("device", &self.device)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
