//! Each step of a claim, of an allocation and of upkeep failed in turn: all is as before.

mod support;

use std::time::Duration;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaId, AreaPool, AreaPoolConfig, AreaRequest, CoherentMemory, DeviceArea, Place, Purpose,
    Waiting,
};
use dmakit_phys::{AttachedRam, ClaimLimits, Frame, FrameRequest, MigrationCause, Refusal};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Instant, SegmentRequest, TableMemory};
use support::{
    Memory, PATIENT, TestAreas, activate, claim, fill, frames, free_if, map, memory, reserved,
};

const AREA: u64 = 0x1800;

type Ram<'m> = AttachedRam<'m, HostPlatform, Vec<Frame>>;

/// An area of 4 MiB, all of it lent, and as much room beside it; `out` segments may be out.
fn with(out: usize, run: impl FnOnce(&Memory, &TestAreas<'_>, &Ram<'_>, AreaId)) {
    let mut map = map(&[(0x1000, 0x1000, 0)]);
    let request = AreaRequest {
        place: Place::At(frames(AREA, 0).start()),
        ..AreaRequest::new(Purpose::PerNode(NodeId::new(0)), 4 << 20)
    };
    let set = reserved(&mut map, &[request]);
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let all = PhysRange::new(PhysAddr::new(0x1000 << 12), 0x1000 << 12).unwrap();
    let (_, segments) = HostRam::new(&[all]).unwrap();
    let ram = AttachedRam::new(HostPlatform::new(1), memory.allocator(), segments, out);
    let id = areas.ids().next().unwrap();
    fill(&memory, 1);
    free_if(&memory, |range| areas.area_of(range.start()).is_none());
    run(&memory, &areas, &ram, id);
    memory.movers().check_all();
}

/// What a failure must leave as it is.
fn state(memory: &Memory, areas: &TestAreas<'_>, id: AreaId) -> (u64, u64, usize) {
    let movable = memory.movers().ranges().len();
    (
        areas.usage(id).free,
        memory.allocator().free_frames(),
        movable,
    )
}

#[test]
fn each_migration_that_fails_leaves_the_area_unclaimed() {
    let at_once = ClaimLimits {
        tries: 0,
        ..PATIENT
    };
    with(4, |memory, areas, _, id| {
        let before = state(memory, areas, id);
        for step in 0..64 {
            for reason in [Refusal::Busy, Refusal::Pinned] {
                memory.movers().refuse_after(step, reason);
                // As large as the area: there is no other window.
                let failed = areas.claim(id, &claim(0x400, 9), &at_once);
                assert!(failed.is_err(), "step {step}");
                assert_eq!(state(memory, areas, id), before, "step {step}");
                memory.movers().check_all();
                // What moved away comes back by itself: the area is lent again.
                fill(memory, 1);
                free_if(memory, |range| areas.area_of(range.start()).is_none());
                assert_eq!(state(memory, areas, id), before, "step {step}");
            }
        }
        let claimed = areas.claim(id, &claim(0x400, 9), &at_once).unwrap();
        areas.release(claimed).unwrap();
        assert_eq!(areas.statistics(id).failures, 128);
    });
}

#[test]
fn without_room_or_time_nothing_is_claimed() {
    with(4, |memory, areas, _, id| {
        let over = ClaimLimits {
            deadline: Instant::from_nanos(0),
            tries: 3,
        };
        let before = state(memory, areas, id);
        let late = areas.claim(id, &claim(0x100, 8), &over).unwrap_err();
        assert!(late.to_string().contains("deadline"), "{late}");
        assert_eq!(state(memory, areas, id), before);
        // Room for each number of frames less than what has to move.
        let room = |frames| {
            memory
                .allocator()
                .allocate(&FrameRequest::unmovable(frames))
        };
        let mut taken = Vec::new();
        while let Ok(frames) = room(1) {
            taken.push(frames);
        }
        for _ in 0..0x40 {
            let before = state(memory, areas, id);
            let failed = areas.claim(id, &claim(0x40, 6), &PATIENT).unwrap_err();
            assert!(failed.to_string().contains("no room"), "{failed}");
            let counts = memory.migrations(MigrationCause::Claim);
            assert_eq!(counts.moved, 0, "it is known before anything moves");
            assert_eq!(state(memory, areas, id), before);
            memory.movers().check_all();
            memory.allocator().free(taken.pop().unwrap()).unwrap();
        }
        let claimed = areas.claim(id, &claim(0x40, 6), &PATIENT).unwrap();
        areas.release(claimed).unwrap();
        for frames in taken {
            memory.allocator().free(frames).unwrap();
        }
    });
}

#[test]
fn memory_whose_bytes_cannot_be_attached_goes_back() {
    with(1, |memory, areas, ram, id| {
        let waiting = Waiting::UpTo {
            patience: Duration::from_secs(10),
            tries: 3,
        };
        let platform = HostPlatform::new(1);
        let coherent = CoherentMemory::new(platform, areas, ram, DeviceArea::None, waiting);
        let request = SegmentRequest {
            len: 1 << 16,
            align: 4096,
            node: Some(NodeId::new(0)),
            limit: DmaMask::ALL,
        };
        let one = coherent.allocate_table(&request).unwrap();
        let before = state(memory, areas, id);
        // One segment is out, and no more may be.
        assert!(coherent.allocate_table(&request).is_err());
        assert_eq!(state(memory, areas, id), before);
        let config = AreaPoolConfig {
            piece_bytes: 1 << 16,
            low_bytes: 1 << 16,
            high_bytes: 1 << 18,
            limit: DmaMask::ALL,
        };
        let pool = AreaPool::new(areas, ram, id, config).unwrap();
        assert!(pool.maintain(&PATIENT, 4).is_short);
        assert_eq!(state(memory, areas, id).0, before.0);
        coherent.free_table(one);
        assert_eq!(areas.usage(id).free, areas.usage(id).frames);
        let one = coherent.allocate_table(&request).unwrap();
        coherent.free_table(one);
        assert_eq!(coherent.statistics().leaked_bytes, 0);
    });
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    with(4, |memory, areas, ram, id| {
        let before = state(memory, areas, id);
        for (frames, align_order) in [(0, 0), (0x401, 0), (u64::MAX, 0), (1, 64), (1, u32::MAX)] {
            let wish = claim(frames, align_order);
            assert!(areas.claim(id, &wish, &PATIENT).is_err(), "{wish:?}");
            assert!(areas.claim_free(id, &wish).is_err(), "{wish:?}");
        }
        assert_eq!(state(memory, areas, id), before);
        let pool = |piece_bytes, low_bytes, high_bytes| {
            let config = AreaPoolConfig {
                piece_bytes,
                low_bytes,
                high_bytes,
                limit: DmaMask::ALL,
            };
            AreaPool::new(areas, ram, id, config)
        };
        assert!(pool(0, 0, 0).is_none() && pool(4095, 0, 0).is_none());
        assert!(pool(12_288, 0, 1 << 20).is_none() && pool(4096, 2, 1).is_none());
    });
}
