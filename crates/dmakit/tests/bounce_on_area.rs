//! A bounce pool that grows on a contiguous area, whose idle part serves movable memory.

use std::error::Error;
use std::sync::Mutex;
use std::time::Duration;

use dmakit::addr::{DmaMask, NodeId, PhysAddr, PhysRange, ToDevice};
use dmakit::cma::{
    AreaPool, AreaPoolConfig, AreaRequest, InactiveAreas, Outcome, Purpose, reserve,
};
use dmakit::phys::{
    AttachedRam, ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate,
    Migration, MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
};
use dmakit::platform::Instant;
use dmakit::platform::host::{HostPlatform, HostRam};
use dmakit::swiotlb::{BounceConfig, BouncePool, DeviceLimits, GrowthConfig, MapRequest};

const MIB: u64 = 1 << 20;

/// Movable memory that only has to be somewhere.
#[derive(Default)]
struct Cache(Mutex<Vec<Frames>>);

impl Migrate for Cache {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut held = self.0.lock().unwrap();
        match held
            .iter_mut()
            .find(|frames| frames.range() == migration.from)
        {
            Some(frames) => Ok(std::mem::replace(frames, to)),
            None => Err(Refused {
                to,
                reason: Refusal::Gone,
            }),
        }
    }
}

#[test]
fn bounce_memory_is_lent_while_idle_and_there_before_a_mapping_needs_it()
-> Result<(), Box<dyn Error>> {
    let range = PhysRange::new(PhysAddr::new(0x1000_0000), 64 * MIB)?;
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: range.frames(),
        node: NodeId::new(0),
        kind: MemoryKind::Usable,
    })?;
    let request = AreaRequest::new(Purpose::Device, 32 * MIB);
    let done = reserve(&mut map, &[], [request]);
    let area = done.into_iter().filter_map(|one| match one.outcome {
        Outcome::Reserved(reserved) => Some(reserved),
        _ => None,
    });

    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let platform = HostPlatform::new(1);
    let table = vec![Frame::default(); usize::try_from(Allocator::table_entries(&map))?];
    let allocator = Allocator::new(&map, &[], table)?;
    let memory = MovableMemory::new(platform.clone(), allocator, Cache::default());
    let (areas, failed) = InactiveAreas::new(area).activate(&memory);
    assert!(failed.is_empty());
    let id = areas.find(Purpose::Device).ok_or("no area")?;
    let (_, mut segments) = HostRam::new(&[range])?;
    let ram = AttachedRam::new(platform.clone(), memory.allocator(), segments.drain(..), 64);

    // A cache takes all memory that it can get, the area's too, and gives half of it back.
    let request = FrameRequest::movable(1, MoverId::new(0));
    while let Ok(frames) = memory.allocator().allocate(&request) {
        memory.movers().0.lock().unwrap().push(frames);
    }
    assert_eq!(memory.allocator().free_frames(), 0);
    let outside = |frames: &Frames| areas.area_of(frames.range().start()).is_none();
    let held = std::mem::take(&mut *memory.movers().0.lock().unwrap());
    let (free, kept): (Vec<Frames>, Vec<Frames>) = held.into_iter().partition(outside);
    for frames in free {
        memory.allocator().free(frames)?;
    }
    *memory.movers().0.lock().unwrap() = kept;

    let config = AreaPoolConfig {
        piece_bytes: 2 * MIB,
        low_bytes: 2 * MIB,
        high_bytes: 4 * MIB,
        limit: DmaMask::ALL,
    };
    let pool = AreaPool::new(&areas, &ram, id, config).ok_or("no pool")?;
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 3,
    };
    pool.maintain(&limits, 8);
    let growth = GrowthConfig {
        step: 2 * MIB,
        granule: 2 * MIB,
        reserve: 2 * MIB,
        headroom: MIB,
        shrink_after: Duration::from_secs(1),
        ..GrowthConfig::default()
    };
    let low = PhysRange::new(PhysAddr::new(0x100_0000), 2 * MIB)?;
    let (_, mut first) = HostRam::new(&[low])?;
    let first = first.pop().ok_or("no RAM")?;
    let bounce = BouncePool::growing(platform, first, &BounceConfig::default(), growth, &pool)?;
    let device = bounce.attach(None)?;

    // A burst: each round of upkeep makes the next pool's memory ready, and the pool uses it.
    let source = vec![0x5a_u8; 256 << 10];
    let mut mapped = Vec::new();
    for second in 0..60_u64 {
        let request = MapRequest::whole(PhysAddr::new(0), source.len() as u64);
        let limits_of_device = DeviceLimits::default();
        let buffer = bounce.map::<ToDevice, _>(device, &limits_of_device, &source[..], &request)?;
        mapped.push(buffer);
        pool.maintain(&limits, 2);
        bounce.maintain(Instant::from_nanos(second), 2);
    }
    let claimed = |id| areas.usage(id).frames - areas.usage(id).free;
    assert!(claimed(id) << 12 >= 14 * MIB, "{} frames", claimed(id));
    let statistics = areas.statistics(id);
    assert_eq!(
        statistics.moved_frames << 12,
        statistics.claimed_frames << 12
    );

    // After it the area is lent again, but for what is kept ready and the reserve.
    let mut nothing = vec![0_u8; source.len()];
    for buffer in mapped {
        bounce
            .unmap(buffer, &mut nothing[..])
            .map_err(|_| "not mapped here")?;
    }
    for second in 1..6 {
        bounce.maintain(Instant::from_nanos(second * 1_100_000_000), 64);
    }
    assert_eq!(claimed(id) << 12, 2 * MIB + pool.ready_bytes());
    assert!(pool.ready_bytes() <= 4 * MIB);
    Ok(())
}
