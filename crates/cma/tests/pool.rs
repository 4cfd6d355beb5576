//! Bounce pools that grow on an area whose idle part is lent.

mod support;

use dmakit_addr::{DmaMask, PhysAddr, PhysRange};
use dmakit_cma::{AreaPool, AreaPoolConfig, AreaRequest, Place, Purpose};
use dmakit_phys::{AttachedRam, ClaimLimits, Frame};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Instant, PoolMemory, Segment, SegmentRequest};
use support::{Owners, PATIENT, TestAreas, activate, fill, frames, free_if, map, memory, reserved};

const MIB: u64 = 1 << 20;
const PIECE: u64 = MIB;

type Pool<'m> = AreaPool<'m, HostPlatform, Vec<Frame>, Owners>;

const CONFIG: AreaPoolConfig = AreaPoolConfig {
    piece_bytes: PIECE,
    low_bytes: 2 * PIECE,
    high_bytes: 4 * PIECE,
    limit: DmaMask::ALL,
};

/// An area of 16 MiB, all of it lent, and 16 MiB of room outside.
fn with(run: impl FnOnce(&support::Memory, &TestAreas<'_>, &Pool<'_>)) {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let request = AreaRequest {
        place: Place::At(frames(0x2000, 0).start()),
        ..AreaRequest::new(Purpose::Device, 16 * MIB)
    };
    let set = reserved(&mut map, &[request]);
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let all = PhysRange::new(PhysAddr::new(0x1000 << 12), 0x2000 << 12).unwrap();
    let (_, segments) = HostRam::new(&[all]).unwrap();
    let ram = AttachedRam::new(HostPlatform::new(1), memory.allocator(), segments, 64);
    let id = areas.find(Purpose::Device).unwrap();
    let pool = AreaPool::new(&areas, &ram, id, CONFIG).unwrap();
    fill(&memory, 4);
    free_if(&memory, |range| areas.area_of(range.start()).is_none());
    run(&memory, &areas, &pool);
    pool.release_ready();
    assert_eq!(areas.usage(id).free, 4096);
    memory.movers().check_all();
}

fn wanted(len: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align: PIECE,
        node: None,
        limit: DmaMask::ALL,
    }
}

#[test]
fn what_is_lent_comes_back_ahead_of_need_and_never_while_somebody_waits() {
    with(|memory, areas, pool| {
        let id = areas.find(Purpose::Device).unwrap();
        let provider: &dyn PoolMemory = &pool;
        assert!(provider.allocate_pool(&wanted(PIECE)).is_err());
        assert_eq!(memory.movers().moves(), 0);
        assert!(pool.wants_maintenance());
        let done = pool.maintain(&PATIENT, 3);
        assert_eq!((done.claimed_bytes, done.is_short), (3 * PIECE, false));
        assert_eq!(
            (pool.ready_bytes(), memory.movers().moves()),
            (3 * PIECE, 768)
        );
        // Between the watermarks nothing is done.
        assert_eq!(pool.maintain(&PATIENT, 3).claimed_bytes, 0);
        let pieces: Vec<Segment> = (0..3)
            .map(|_| provider.allocate_pool(&wanted(PIECE)).unwrap())
            .collect();
        assert_eq!((pool.ready_bytes(), memory.movers().moves()), (0, 768));
        assert_eq!(pool.maintain(&PATIENT, 100).claimed_bytes, 4 * PIECE);
        assert_eq!(areas.usage(id).free << 12, 9 * PIECE);
        // What comes back is lent again, except up to the low watermark.
        for piece in pieces {
            provider.free_pool(piece);
        }
        assert_eq!(pool.ready_bytes(), 4 * PIECE);
        assert_eq!(pool.release_ready(), 4 * PIECE);
        // The rest of the area still serves its borrowers; windows that are idle now serve at once.
        let large = provider.allocate_pool(&wanted(2 * PIECE)).unwrap();
        assert_eq!(large.len(), 2 * PIECE);
        provider.free_pool(large);
    });
}

#[test]
fn a_claim_that_finds_no_room_leaves_the_pool_short_and_says_so() {
    with(|memory, _, pool| {
        fill(memory, 1);
        let done = pool.maintain(&PATIENT, 10);
        assert!(done.is_short && done.claimed_bytes == 0);
        let over = ClaimLimits {
            deadline: Instant::from_nanos(0),
            tries: 0,
        };
        assert!(pool.maintain(&over, 10).is_short);
    });
}
