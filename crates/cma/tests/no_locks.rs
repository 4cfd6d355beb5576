//! While a claim waits for memory to move it holds no lock: others claim in the same area and in
//! another one meanwhile.

use std::sync::{Mutex, OnceLock};

use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange, PhysRange};
use dmakit_cma::{AreaClaim, AreaId, AreaRequest, Areas, InactiveAreas, Outcome, Purpose, reserve};
use dmakit_phys::{
    ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration,
    MovableMemory, MoverId, PageAllocator, Refused, Region,
};
use dmakit_platform::host::{
    CheckedIrqLock, CheckedSleepLock, HostPlatform, ThreadContext, ThreadCpu,
};
use dmakit_platform::{ConversionError, Instant, Platform};

/// The host with locks that know who holds them: taking one twice panics.
#[derive(Clone)]
struct Checked(HostPlatform);

impl Platform for Checked {
    type IrqLock = CheckedIrqLock;
    type SleepLock = CheckedSleepLock;
    type CpuGuard<'a> = ThreadCpu;

    fn now(&self) -> Instant {
        self.0.now()
    }
    fn cpu_count(&self) -> usize {
        1
    }
    fn enter_cpu(&self) -> ThreadCpu {
        self.0.enter_cpu()
    }
    fn cache_line_bytes(&self) -> u64 {
        64
    }
    fn clean(&self, _range: PhysRange) {}
    fn invalidate(&self, _range: PhysRange) {}
    fn clean_invalidate(&self, _range: PhysRange) {}
    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}

type Memory = MovableMemory<Checked, Vec<Frame>, Owners>;
type LockedAreas = Areas<'static, Checked, Vec<Frame>, Owners>;

const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 3,
};

/// Owners that claim frames themselves while they are asked to move.
#[derive(Default)]
struct Owners {
    live: Mutex<Vec<Frames>>,
    areas: OnceLock<LockedAreas>,
    /// What is to be claimed at the next migrations.
    wishes: Mutex<Vec<(AreaId, u64)>>,
    claimed: Mutex<Vec<Frames>>,
}

impl Migrate for Owners {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        assert!(
            ThreadContext::current().may_sleep(),
            "asked with a lock held"
        );
        let wish = self.wishes.lock().unwrap().pop();
        if let (Some((area, frames)), Some(areas)) = (wish, self.areas.get()) {
            let claimed = areas.claim(area, &claim(frames), &LIMITS).unwrap();
            self.claimed.lock().unwrap().push(claimed);
        }
        let mut live = self.live.lock().unwrap();
        let at = live
            .iter()
            .position(|frames| frames.range() == migration.from)
            .unwrap();
        Ok(std::mem::replace(&mut live[at], to))
    }
}

fn claim(frames: u64) -> AreaClaim {
    AreaClaim {
        frames,
        align_order: 0,
        limit: DmaMask::ALL,
    }
}

#[test]
fn claims_go_on_beside_one_that_waits_in_their_area_and_elsewhere() {
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: PfnRange::new(Pfn::new(0x1000), 0x2000).unwrap(),
        node: NodeId::new(0),
        kind: MemoryKind::Usable,
    })
    .unwrap();
    let request = AreaRequest::new(Purpose::Device, 4 << 20);
    let set = reserve(&mut map, &[], [request, request]);
    let set = set.into_iter().map(|one| match one.outcome {
        Outcome::Reserved(reserved) => reserved,
        other => panic!("{other:?}"),
    });
    type Allocator = PageAllocator<Checked, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table).unwrap();
    let platform = Checked(HostPlatform::new(1));
    let memory = MovableMemory::new(platform, allocator, Owners::default());
    let memory: &'static Memory = Box::leak(Box::new(memory));
    let (areas, failed) = InactiveAreas::new(set).activate(memory);
    assert!(failed.is_empty());
    let owners = memory.movers();
    let areas = owners.areas.get_or_init(|| areas);
    let ids: Vec<AreaId> = areas.ids().collect();

    let movable = FrameRequest::movable(1, MoverId::new(0));
    while let Ok(frames) = memory.allocator().allocate(&movable) {
        owners.live.lock().unwrap().push(frames);
    }
    let all = std::mem::take(&mut *owners.live.lock().unwrap());
    let lent = |frames: &Frames| areas.area_of(frames.range().start()).is_some();
    let (kept, freed): (Vec<Frames>, Vec<Frames>) = all.into_iter().partition(lent);
    for frames in freed {
        memory.allocator().free(frames).unwrap();
    }
    *owners.live.lock().unwrap() = kept;

    // The first migration claims in the other area, the second in the same, the third does too,
    // nested in the second.
    *owners.wishes.lock().unwrap() = vec![(ids[0], 64), (ids[0], 128), (ids[1], 256)];
    let outer = areas.claim(ids[0], &claim(256), &LIMITS).unwrap();
    let mut claimed = std::mem::take(&mut *owners.claimed.lock().unwrap());
    claimed.push(outer);
    assert_eq!(claimed.len(), 4);
    for (at, one) in claimed.iter().enumerate() {
        let others = claimed[at + 1..].iter();
        assert!(
            others
                .into_iter()
                .all(|other| !other.range().overlaps(&one.range()))
        );
    }
    for frames in claimed {
        areas.release(frames).unwrap();
    }
    assert!(
        ids.iter()
            .all(|id| areas.usage(*id).free == areas.usage(*id).frames)
    );
}
