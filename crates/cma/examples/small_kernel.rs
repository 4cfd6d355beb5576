//! The memory of a small kernel, from its boot line to a device's queue, through the public
//! interfaces of `phys` and `cma` only.
//!
//! Two nodes of 64 MiB, a page cache that borrows whatever is idle, one driver on each node. What a
//! kernel has as statics is leaked here; its RAM is memory of this process.

use std::error::Error;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaParams, Areas, CoherentMemory, DeviceArea, EarlyAreas, Outcome, Reserved, Step, Waiting,
    reserve,
};
use dmakit_phys::{
    Account, AttachedRam, ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate,
    Migration, MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Instant, Segment, SegmentRequest, TableMemory};

const MIB: u64 = 1 << 20;
const NODE_BYTES: u64 = 64 * MIB;
/// Above 4 GiB, so that only devices with short arms need the default area.
const NODES: [u64; 2] = [0x2_0000_0000, 0x4_0000_0000];

type Ram = AttachedRam<'static, HostPlatform, Vec<Frame>>;
type Memory = MovableMemory<HostPlatform, Vec<Frame>, PageCache>;

/// Movable pages with contents. It is the one user of movable memory here, so it is the one mover.
#[derive(Default)]
struct PageCache {
    ram: OnceLock<&'static Ram>,
    pages: Mutex<Vec<Segment>>,
}

const CACHE: MoverId = MoverId::new(0);

impl PageCache {
    /// Reads pages in until memory is full: each holds its number.
    fn fill(&self, memory: &Memory, ram: &'static Ram) -> usize {
        let ram = self.ram.get_or_init(|| ram);
        let mut pages = self.pages.lock().unwrap_or_else(|e| e.into_inner());
        while let Ok(frames) = memory
            .allocator()
            .allocate(&FrameRequest::movable(1, CACHE))
        {
            match ram.attach(frames) {
                Ok(page) => {
                    page.window().write(&pages.len().to_le_bytes());
                    pages.push(page);
                }
                Err(frames) => {
                    let _ = memory.allocator().free(frames);
                    break;
                }
            }
        }
        pages.len()
    }

    /// Gives the pages back for which `drops` says so.
    fn shrink(&self, memory: &Memory, drops: impl Fn(usize) -> bool) {
        let mut pages = self.pages.lock().unwrap_or_else(|e| e.into_inner());
        let all = std::mem::take(&mut *pages);
        for page in all {
            let (true, Some(ram)) = (drops(number(&page)), self.ram.get()) else {
                pages.push(page);
                continue;
            };
            if let Ok(frames) = ram.detach(page) {
                let _ = memory.allocator().free(frames);
            }
        }
    }

    /// Whether every page still has its number.
    fn is_sound(&self) -> bool {
        let pages = self.pages.lock().unwrap_or_else(|e| e.into_inner());
        let mut numbers: Vec<usize> = pages.iter().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() == pages.len()
    }
}

fn number(page: &Segment) -> usize {
    let mut bytes = [0; size_of::<usize>()];
    page.window().read(&mut bytes);
    usize::from_le_bytes(bytes)
}

impl Migrate for PageCache {
    fn migrate(&self, migration: &Migration, to: Frames) -> std::result::Result<Frames, Refused> {
        // The lock keeps everybody from the page while it moves.
        let mut pages = self.pages.lock().unwrap_or_else(|e| e.into_inner());
        let of = |page: &Segment| page.range().frames() == migration.from;
        let (Some(at), Some(ram)) = (pages.iter().position(of), self.ram.get()) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        let new = ram.attach(to).map_err(|to| Refused {
            to,
            reason: Refusal::Busy,
        })?;
        new.window().copy_from(pages[at].window());
        let old = std::mem::replace(&mut pages[at], new);
        // A page is one whole allocation.
        Ok(ram
            .detach(old)
            .unwrap_or_else(|error| unreachable!("{error}")))
    }
}

type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
type KernelAreas = Areas<'static, HostPlatform, Vec<Frame>, PageCache>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What firmware says of memory, and what the boot line wants to be contiguous: each area on its
/// node, whatever becomes of the others.
fn read_boot_line(ranges: &[PhysRange]) -> Result<(MemoryMap, Vec<Reserved>)> {
    let mut map = MemoryMap::new(2);
    for (node, range) in (0..).zip(ranges) {
        map.add(Region {
            range: range.frames(),
            node: NodeId::new(node),
            kind: MemoryKind::Usable,
        })?;
    }
    let params = AreaParams {
        cma: Some("4M".parse()?),
        numa_cma: Some("0:8M,1:8M".parse()?),
        ..AreaParams::default()
    };
    let requests = params.requests(&map, DmaMask::ALL);
    let mut reserved = Vec::new();
    for done in reserve(&mut map, &[], requests) {
        println!("{done}");
        if let Outcome::Reserved(area) = done.outcome {
            reserved.push(area);
        }
    }
    Ok((map, reserved))
}

/// The page allocator with its frame table, the areas lent to whoever moves, and the bytes of both.
fn bring_up(
    map: &MemoryMap,
    early: EarlyAreas<'_, HostPlatform>,
    mut ram: Vec<Segment>,
) -> Result<(KernelAreas, &'static Ram)> {
    let frames = vec![Frame::default(); usize::try_from(Allocator::table_entries(map))?];
    let allocator = Allocator::new(map, &[], frames)?;
    let platform = HostPlatform::new(1);
    let memory = MovableMemory::new(platform.clone(), allocator, PageCache::default());
    let memory: &'static Memory = Box::leak(Box::new(memory));
    let inactive = early.close(&mut ram);
    let claims = inactive.claims();
    let (areas, failed) = inactive.activate(memory);
    assert!(failed.is_empty());
    // Each page of the cache may be a segment of its own.
    let segments = usize::try_from(2 * NODE_BYTES / 4096)?;
    let ram = AttachedRam::new(platform, memory.allocator(), ram, segments).with_out(claims);
    Ok((areas, Box::leak(Box::new(ram))))
}

/// A driver on each node asks for a queue, by a trait that names neither crate.
fn start_drivers(provider: &dyn TableMemory, ranges: &[PhysRange]) -> Result<Vec<Segment>> {
    let mut queues = Vec::new();
    for (node, range) in (0..).zip(ranges) {
        let queue = provider.allocate_table(&wanted(2 * MIB, node))?;
        assert!(
            range.contains_range(&queue.range()),
            "a queue on another node"
        );
        println!("queue of node {node} at {}", queue.range());
        queues.push(queue);
    }
    Ok(queues)
}

/// Pinned memory leaves the areas first, and is charged to whoever pins it.
fn pin_a_page(areas: &KernelAreas) -> Result<()> {
    let memory = areas.memory();
    let account = Arc::new(Account::new(1024));
    let owner = memory.add_pin_owner(account.clone())?;
    let lent = {
        let pages = memory.movers().pages.lock();
        let pages = pages.unwrap_or_else(|e| e.into_inner());
        let frames = pages.iter().map(|page| page.range().frames());
        frames
            .into_iter()
            .find(|page| areas.area_of(page.start()).is_some())
    };
    let lent = lent.ok_or("nothing is lent")?;
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 3,
    };
    let pin = memory.pin_long_term(owner, &[lent], &limits)?;
    let here = pin.ranges()[0];
    assert_eq!(areas.area_of(here.start()), None);
    println!(
        "page {lent} is pinned at {here}, {} frame charged",
        account.charged()
    );
    memory.unpin(pin)?;
    assert_eq!(account.charged(), 0);
    Ok(())
}

fn wanted(len: u64, node: u16) -> SegmentRequest {
    SegmentRequest {
        len,
        align: 64 << 10,
        node: Some(NodeId::new(node)),
        limit: DmaMask::ALL,
    }
}

fn main() -> Result<()> {
    let [zero, one] = NODES.map(|start| PhysRange::new(PhysAddr::new(start), NODE_BYTES));
    let ranges = [zero?, one?];
    let (map, reserved) = read_boot_line(&ranges)?;

    // Before there is an allocator, the interrupt controller needs a table.
    let platform = HostPlatform::new(1);
    let (_, mut ram) = HostRam::new(&ranges)?;
    let mut bitmap = vec![0; EarlyAreas::<HostPlatform>::bitmap_words(&reserved)];
    let early = EarlyAreas::new(platform.clone(), reserved, &mut ram, &mut bitmap)?;
    let table = early.allocate_table(&wanted(MIB, 1))?;
    println!("early table at {}", table.range());

    // The page cache takes everything, the areas too, and gives a third back.
    let (areas, ram) = bring_up(&map, early, ram)?;
    let memory = areas.memory();
    let cache = memory.movers();
    println!("{} pages cached", cache.fill(memory, ram));
    cache.shrink(memory, |number| number % 3 == 0);

    let waiting = Waiting::UpTo {
        patience: Duration::from_secs(1),
        tries: 3,
    };
    let coherent = CoherentMemory::new(platform, &areas, ram, DeviceArea::None, waiting);
    let queues = start_drivers(&coherent, &ranges)?;
    assert!(cache.is_sound(), "the cache lost a byte");
    assert_eq!(coherent.statistics().of(Step::Listed).served, 2);
    pin_a_page(&areas)?;

    // Everything goes home, the early table too.
    for segment in queues.into_iter().chain([table]) {
        coherent.free_table(segment);
    }
    for area in areas.ids() {
        let usage = areas.usage(area);
        assert_eq!(usage.free, usage.frames);
        println!("area {}: {:?}", area.index(), areas.statistics(area));
    }
    cache.shrink(memory, |_| true);
    assert_eq!(memory.allocator().free_frames(), 2 * NODE_BYTES / 4096);
    println!("all frames are free");
    Ok(())
}

#[test]
fn the_small_kernel_runs_to_its_end() {
    assert!(main().is_ok());
}
