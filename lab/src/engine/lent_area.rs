//! A contiguous area of the replayed machine whose idle part serves movable memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaId, AreaPool, AreaPoolConfig, AreaRequest, AreaStatistics, Areas, InactiveAreas, Outcome,
    Place, Purpose, reserve,
};
use dmakit_phys::{
    AttachedRam, ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate,
    Migration, MovableMemory, MoverId, PAGEBLOCK_ORDER, PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::Instant;
use dmakit_platform::host::{HostPlatform, HostRam};

use super::bounce::{CPUS_MAX, UPKEEP_BUDGET};

/// Areas are whole page blocks.
pub const AREA_GRAIN: u64 = PAGE_BYTES << PAGEBLOCK_ORDER;
/// The first frame of the area, below 4 GiB, so that devices of 32 bits reach all of it.
const FIRST: u64 = (1 << 28) / PAGE_BYTES;
/// Segments that can be out at once: all pools, and what is kept ready.
const SEGMENTS: usize = 128;
/// Nothing refuses to move here, so nothing is waited for.
const PATIENT: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 1,
};

type Memory = MovableMemory<HostPlatform, Vec<Frame>, Movable>;
/// Pool memory from the area.
pub type Pool<'m> = AreaPool<'m, HostPlatform, Vec<Frame>, Movable>;

/// Movable pages that want all that is lent. What is elsewhere comes back as soon as there is room.
pub struct Movable {
    last_byte: u64,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// By frame.
    live: BTreeMap<u64, Frames>,
    /// Those of them that are in the area.
    lent: u64,
}

impl Movable {
    fn new(last_byte: u64) -> Self {
        Self {
            last_byte,
            pages: Mutex::default(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_lent(&self, frame: u64) -> bool {
        frame * PAGE_BYTES <= self.last_byte
    }

    fn put(&self, pages: &mut Pages, page: Frames) {
        let frame = page.range().start().raw();
        pages.lent += u64::from(self.is_lent(frame));
        pages.live.insert(frame, page);
    }

    /// A page that lies elsewhere.
    fn take_elsewhere(&self) -> Option<Frames> {
        let mut pages = self.pages();
        let last = pages.live.last_entry()?;
        (!self.is_lent(*last.key())).then(|| last.remove())
    }
}

impl Migrate for Movable {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut pages = self.pages();
        let from = migration.from.start().raw();
        let Some(old) = pages.live.remove(&from) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        pages.lent -= u64::from(self.is_lent(from));
        self.put(&mut pages, to);
        Ok(old)
    }
}

/// The area, what pools take from it, and who borrows the rest.
pub struct LentArea<'m> {
    areas: &'m Areas<'m, HostPlatform, Vec<Frame>, Movable>,
    area: AreaId,
    pool: Pool<'m>,
}

/// Runs on a machine with an area of `bytes`, whole page blocks, and as much memory beside it.
/// `pieces` of `piece_bytes` are kept ready at most, and made up as soon as there is none.
///
/// # Errors
/// Where the system has no such memory, and what `run` says.
pub fn with_area<R>(
    bytes: u64,
    piece_bytes: u64,
    run: impl FnOnce(&LentArea<'_>) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let frames = bytes / PAGE_BYTES;
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: PfnRange::new(Pfn::new(FIRST), frames * 2)?,
        node: NodeId::new(0),
        kind: MemoryKind::Usable,
    })?;
    let request = AreaRequest {
        place: Place::At(Pfn::new(FIRST)),
        ..AreaRequest::new(Purpose::Device, bytes)
    };
    let reserved = reserve(&mut map, &[], [request]).into_iter();
    let reserved: Vec<_> = reserved
        .filter_map(|one| match one.outcome {
            Outcome::Reserved(area) => Some(area),
            _ => None,
        })
        .collect();

    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table)?;
    let range = PhysRange::new(PhysAddr::new(FIRST * PAGE_BYTES), bytes)?;
    let movable = Movable::new(range.end().raw() - 1);
    let memory = Memory::new(HostPlatform::new(CPUS_MAX), allocator, movable);
    let (areas, _) = InactiveAreas::new(reserved).activate(&memory);
    let area = areas.find(Purpose::Device).context("the area")?;
    let (_, segments) = HostRam::new(&[range]).context("memory for the area")?;
    let platform = HostPlatform::new(CPUS_MAX);
    let ram = AttachedRam::new(platform, memory.allocator(), segments, SEGMENTS);
    let config = AreaPoolConfig {
        piece_bytes,
        low_bytes: piece_bytes,
        high_bytes: piece_bytes * 2,
        limit: DmaMask::ALL,
    };
    let pool = AreaPool::new(&areas, &ram, area, config).context("pieces of the area")?;
    run(&LentArea {
        areas: &areas,
        area,
        pool,
    })
}

impl<'m> LentArea<'m> {
    /// What pools take.
    pub fn pool(&self) -> &Pool<'m> {
        &self.pool
    }

    /// Bytes kept ready for pools.
    pub fn ready_bytes(&self) -> u64 {
        self.pool.ready_bytes()
    }

    /// Bytes that serve movable memory.
    pub fn lent_bytes(&self) -> u64 {
        self.areas.memory().movers().pages().lent * PAGE_BYTES
    }

    /// What came of its claims.
    pub fn statistics(&self) -> AreaStatistics {
        self.areas.statistics(self.area)
    }

    /// Takes back what pools will need.
    pub fn reclaim(&self) {
        self.pool.maintain(&PATIENT, UPKEEP_BUDGET);
    }

    /// Movable memory takes all that nobody claimed.
    pub fn lend(&self) {
        let memory = self.areas.memory();
        let movable = memory.movers();
        let wanted = FrameRequest {
            limit: DmaMask::up_to(movable.last_byte),
            ..FrameRequest::movable(1, MoverId::new(0))
        };
        while movable.pages().lent < self.areas.usage(self.area).free {
            let Ok(page) = memory.allocator().allocate(&wanted) else {
                return;
            };
            // One that lived elsewhere is here now; the population stays as large as it was.
            if let Some(old) = movable.take_elsewhere() {
                let freed = memory.allocator().free(old);
                debug_assert!(freed.is_ok(), "the page was ours");
            }
            movable.put(&mut movable.pages(), page);
        }
    }
}
