//! Areas cut out of the memory map, before there is a page allocator.

use alloc::vec::Vec;
use core::fmt;

use dmakit_addr::{Address, DmaMask, NodeId, PAGE_SHIFT, Pfn, PfnRange};
use dmakit_phys::{MemoryKind, MemoryMap};

use crate::plan::{AreaRequest, Place, Purpose};
use crate::{ClaimMap, area::RANGES_MAX};

/// The first frame above 4 GiB.
const HIGH: u64 = 1 << (32 - PAGE_SHIFT);

/// Frames that were set aside for one area.
///
/// It is made by [`reserve`] alone, once for each area, and cannot be cloned: whoever has it makes
/// the area of it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "without it no area can be made of the frames that were set aside"]
pub struct Reserved {
    purpose: Purpose,
    node: NodeId,
    unit_order: u32,
    ranges: Vec<PfnRange>,
}

impl Reserved {
    /// What the area is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The node on which all of it lies.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// log2 of the frames that are claimed together.
    pub fn unit_order(&self) -> u32 {
        self.unit_order
    }

    /// Its frames, ascending.
    pub fn ranges(&self) -> &[PfnRange] {
        &self.ranges
    }

    /// How many frames it has.
    pub fn frames(&self) -> u64 {
        self.ranges.iter().map(PfnRange::len).sum()
    }
}

/// Why an area could not be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReserveReason {
    /// The machine has no such node.
    NoSuchNode {
        /// How many it has.
        nodes: usize,
    },
    /// The place that was named is not all usable memory of one node and one zone below the limit,
    /// or is taken.
    Busy(PfnRange),
    /// There are not so many usable frames in few enough pieces.
    NoRoom {
        /// How many frames were wanted.
        frames: u64,
        /// The longest aligned run that there is.
        longest: u64,
        /// All aligned runs together, as many as an area may have.
        together: u64,
    },
    /// Less than one gigantic page.
    TooSmall {
        /// The least number of bytes.
        at_least: u64,
    },
    /// More frames than an area can count, or an order of 64 and more.
    TooLarge,
}

impl fmt::Display for ReserveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchNode { nodes } => write!(f, "there are only {nodes} nodes"),
            Self::Busy(range) => write!(f, "frames {range} are not all free to take"),
            Self::NoRoom {
                frames,
                longest,
                together,
            } => write!(
                f,
                "no room for {frames} frames; the longest run has {longest}, all that count have \
                 {together}"
            ),
            Self::TooSmall { at_least } => write!(f, "less than {at_least} bytes"),
            Self::TooLarge => f.write_str("too large to count"),
        }
    }
}

/// What became of a request.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The area is there.
    Reserved(Reserved),
    /// The default area lies on this node and serves it.
    DefaultServes,
    /// Earlier nodes already gave what was to be spread.
    NotNeeded,
    /// There is no such area; nothing was set aside.
    Failed(ReserveReason),
}

/// A request and what became of it.
#[derive(PartialEq, Eq, Debug)]
pub struct Reservation {
    /// What was asked.
    pub request: AreaRequest,
    /// What became of it.
    pub outcome: Outcome,
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.request.purpose)?;
        match &self.outcome {
            Outcome::Reserved(reserved) => {
                write!(f, "{} frames on {}", reserved.frames(), reserved.node)?;
                let mut ranges = reserved.ranges.iter();
                ranges.try_for_each(|range| write!(f, " {range}"))
            }
            Outcome::DefaultServes => f.write_str("served by the default area"),
            Outcome::NotNeeded => f.write_str("spread over earlier nodes already"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Reserves areas in the order of `requests`, each whatever became of those before it.
///
/// An area lies on one node, and where the request names one, on that; it never crosses one of
/// `zone_limits`, which are those of the page allocator. What is reserved is
/// [`MemoryKind::Contiguous`] in the map from now on. An area for a device that firmware describes
/// is requested before all others: it often has a place that it must have.
///
/// Takes time in proportion to the number of regions for each request. Allocates.
pub fn reserve(
    map: &mut MemoryMap,
    zone_limits: &[DmaMask],
    requests: impl IntoIterator<Item = AreaRequest>,
) -> Vec<Reservation> {
    let mut done: Vec<Reservation> = Vec::new();
    for request in requests {
        let outcome = outcome(map, zone_limits, &request, &done);
        done.push(Reservation { request, outcome });
    }
    done
}

fn outcome(
    map: &mut MemoryMap,
    zone_limits: &[DmaMask],
    request: &AreaRequest,
    done: &[Reservation],
) -> Outcome {
    let reserved = || {
        done.iter().filter_map(|earlier| match &earlier.outcome {
            Outcome::Reserved(reserved) => Some(reserved),
            _ => None,
        })
    };
    let is_default = |r: &&Reserved| r.purpose == Purpose::Default && Some(r.node) == request.node;
    if request.unless_default && reserved().any(|r| is_default(&r)) {
        return Outcome::DefaultServes;
    }
    let mut request = *request;
    if let Some(total) = request.spread_bytes {
        let gigantic = reserved().filter(|r| matches!(r.purpose, Purpose::Gigantic(_)));
        let have: u64 = gigantic.map(|r| r.frames() << PAGE_SHIFT).sum();
        if have >= total {
            return Outcome::NotNeeded;
        }
        request.bytes = request.bytes.min(total - have);
    }
    match place(map, zone_limits, &request) {
        Ok(reserved) => Outcome::Reserved(reserved),
        Err(reason) => Outcome::Failed(reason),
    }
}

fn place(
    map: &mut MemoryMap,
    zone_limits: &[DmaMask],
    request: &AreaRequest,
) -> Result<Reserved, ReserveReason> {
    let nodes = map.nodes();
    if request.node.is_some_and(|node| node.index() >= nodes) {
        return Err(ReserveReason::NoSuchNode { nodes });
    }
    let frames = request.frames().ok_or(ReserveReason::TooLarge)?;
    let units = frames >> request.unit_order;
    if frames == 0 || units > u64::from(ClaimMap::UNITS_MAX) {
        return Err(ReserveReason::TooLarge);
    }
    let gigantic = matches!(request.purpose, Purpose::Gigantic(_));
    let wanted = request.spread_bytes.unwrap_or(request.bytes);
    let least = 1 << (request.order() + PAGE_SHIFT);
    if gigantic && wanted < least {
        return Err(ReserveReason::TooSmall { at_least: least });
    }
    let runs = Runs::new(map, zone_limits, request);
    let (node, ranges) = match request.place {
        Place::At(base) => runs.at(base, frames)?,
        Place::Anywhere | Place::Within(_) => runs.choose(frames, request.ranges_max)?,
    };
    // The runs are usable memory, whole page blocks, and apart.
    let aside = ranges.iter().try_for_each(|range| map.set_aside(*range));
    debug_assert_eq!(aside, Ok(()));
    Ok(Reserved {
        purpose: request.purpose,
        node,
        unit_order: request.unit_order,
        ranges,
    })
}

/// Runs of usable frames that a request may use, ascending, each of one node and one zone, the ends
/// rounded to the request's alignment.
struct Runs {
    runs: Vec<(NodeId, PfnRange)>,
    align: u64,
}

impl Runs {
    fn new(map: &MemoryMap, zone_limits: &[DmaMask], request: &AreaRequest) -> Self {
        let limit = (request.limit.last() >> PAGE_SHIFT)
            + u64::from(request.limit.last() % (1 << PAGE_SHIFT) == (1 << PAGE_SHIFT) - 1);
        let (low, high) = match request.place {
            Place::Within(range) => (range.start().raw(), range.end().raw().min(limit)),
            Place::Anywhere | Place::At(_) => (0, limit),
        };
        let mut runs = Self {
            runs: Vec::new(),
            align: 1 << request.order(),
        };
        let usable = map.regions().iter().filter(|region| {
            region.kind == MemoryKind::Usable && request.node.is_none_or(|node| node == region.node)
        });
        let mut whole: Vec<(NodeId, u64, u64)> = Vec::new();
        for region in usable {
            let (start, end) = (region.range.start().raw(), region.range.end().raw());
            match whole.last_mut() {
                Some((node, _, last)) if *node == region.node && *last == start => *last = end,
                _ => whole.push((region.node, start, end)),
            }
        }
        let ends = zone_limits
            .iter()
            .map(|limit| (limit.last() >> PAGE_SHIFT) + 1);
        let mut borders: Vec<u64> = ends.collect();
        borders.sort_unstable();
        for (node, start, end) in whole {
            let (mut from, end) = (start.max(low), end.min(high));
            for border in borders.iter().copied().chain([end]) {
                runs.add(node, from, border.min(end));
                from = from.max(border);
            }
        }
        runs
    }

    fn add(&mut self, node: NodeId, from: u64, to: u64) {
        let start = Pfn::new(from).align_up(self.align);
        let end = Pfn::new(to).align_down(self.align);
        let range = start.and_then(|start| PfnRange::between(start, end));
        self.runs.extend(
            range
                .filter(|range| !range.is_empty())
                .map(|range| (node, range)),
        );
    }

    fn at(&self, base: Pfn, frames: u64) -> Result<(NodeId, Vec<PfnRange>), ReserveReason> {
        let start = base.align_up(self.align).ok_or(ReserveReason::TooLarge)?;
        let wanted = PfnRange::new(start, frames).map_err(|_| ReserveReason::TooLarge)?;
        let mut runs = self.runs.iter();
        let found = runs.find(|(_, run)| run.contains_range(&wanted));
        let (node, _) = found.ok_or(ReserveReason::Busy(wanted))?;
        Ok((*node, alloc::vec![wanted]))
    }

    /// The lowest run above 4 GiB that is long enough, else the end of the highest below; else
    /// several.
    fn choose(&self, frames: u64, ranges: usize) -> Result<(NodeId, Vec<PfnRange>), ReserveReason> {
        let long = |run: &&(NodeId, PfnRange)| run.1.len() >= frames;
        let high = self.above(HIGH).find(|run| long(&run));
        let one = match high {
            Some((node, run)) => run.slice(0, frames).map(|range| (node, range)),
            None => self.runs.iter().rev().find(long).and_then(|(node, run)| {
                let range = run.slice(run.len() - frames, frames);
                range.map(|range| (*node, range))
            }),
        };
        if let Some((node, range)) = one {
            return Ok((node, alloc::vec![range]));
        }
        let several = self
            .nodes()
            .find_map(|node| self.collect(node, frames, ranges));
        several.ok_or_else(|| self.no_room(frames, ranges))
    }

    /// What lies at or above frame `floor`.
    fn above(&self, floor: u64) -> impl Iterator<Item = (NodeId, PfnRange)> + '_ {
        let floor = Pfn::new(floor).align_up(self.align);
        self.runs.iter().filter_map(move |(node, run)| {
            let start = run.start().max(floor?);
            let above = PfnRange::between(start, run.end())?;
            (!above.is_empty()).then_some((*node, above))
        })
    }

    /// Each node once, in the order of its runs.
    fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let first = |at: usize| self.runs[..at].iter().all(|run| run.0 != self.runs[at].0);
        (0..self.runs.len())
            .filter(move |at| first(*at))
            .map(|at| self.runs[at].0)
    }

    /// The longest runs of a node, those above 4 GiB if they suffice, cut to `frames` from the
    /// lowest up.
    fn collect(&self, node: NodeId, frames: u64, ranges: usize) -> Option<(NodeId, Vec<PfnRange>)> {
        [HIGH, 0].into_iter().find_map(|floor| {
            let mut longest = self.longest(node, floor, ranges);
            if longest.iter().map(PfnRange::len).sum::<u64>() < frames {
                return None;
            }
            longest.sort_unstable_by_key(PfnRange::start);
            let mut left = frames;
            let mut taken = Vec::with_capacity(longest.len());
            for run in longest {
                let range = run.slice(0, run.len().min(left))?;
                left -= range.len();
                if !range.is_empty() {
                    taken.push(range);
                }
            }
            Some((node, taken))
        })
    }

    /// The `ranges` longest runs of a node from frame `floor` on, longest first.
    fn longest(&self, node: NodeId, floor: u64, ranges: usize) -> Vec<PfnRange> {
        let of_node = self.above(floor).filter(|run| run.0 == node);
        let mut longest: Vec<PfnRange> = of_node.map(|run| run.1).collect();
        longest.sort_by_key(|run| core::cmp::Reverse(run.len()));
        longest.truncate(ranges.clamp(1, RANGES_MAX));
        longest
    }

    fn no_room(&self, frames: u64, ranges: usize) -> ReserveReason {
        let longest = self.runs.iter().map(|run| run.1.len()).max();
        let sums = self.nodes().map(|node| {
            let longest = self.longest(node, 0, ranges);
            longest.iter().map(PfnRange::len).sum()
        });
        ReserveReason::NoRoom {
            frames,
            longest: longest.unwrap_or(0),
            together: sums.max().unwrap_or(0),
        }
    }
}
