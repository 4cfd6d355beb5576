//! Tables from contiguous ranges that nobody reserved.

// Each test uses a part of it.
#[allow(dead_code)]
mod movers;

use std::time::Duration;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_phys::{
    AttachedRam, ClaimedRam, FrameRequest, MemoryKind, MemoryMap, MigrateType, MigrationCause,
    MoverId, Refusal, Region,
};
use dmakit_platform::host::HostRam;
use dmakit_platform::{SegmentRequest, TableMemory};
use movers::machine::Machine;
use movers::owners::{Memory, Owners, build_map, frames};

const MIB: u64 = 1 << 20;
const MOVER: MoverId = MoverId::new(3);

/// 8 MiB on each of two nodes.
fn map() -> MemoryMap {
    let mut map = MemoryMap::new(2);
    for node in 0..2_u16 {
        map.add(Region {
            range: frames(0x1000 + u64::from(node) * 0x800, 0x800),
            node: NodeId::new(node),
            kind: MemoryKind::Usable,
        })
        .unwrap();
    }
    map
}

/// Every other frame is somebody's, so there is no free block of two.
fn litter(memory: &Memory, owners: &Owners) {
    while let Ok(frames) = memory
        .allocator()
        .allocate(&FrameRequest::movable(1, MOVER))
    {
        match frames.range().start().raw() % 2 {
            0 => owners.keep(frames),
            _ => owners.set_aside(frames),
        }
    }
    owners.free_aside(memory);
    assert_eq!(memory.allocator().free_blocks(1, MigrateType::Movable), 0);
}

fn with_litter(check: impl FnOnce(&Memory, &Owners, &dyn TableMemory, &dyn TableMemory)) {
    let map = map();
    let owners = Owners::new();
    let memory = build_map(&map, &[], owners.clone());
    let all = PhysRange::new(PhysAddr::new(0x100_0000), 16 * MIB).unwrap();
    let (_ram, segments) = HostRam::new(&[all]).unwrap();
    let machine: Machine = owners.machine().clone();
    let pages = AttachedRam::new(machine.clone(), memory.allocator(), segments, 16);
    let patience = (Duration::from_secs(1), 2);
    let claimed = ClaimedRam::new(machine, &memory, &pages, &map, patience);
    litter(&memory, &owners);
    check(&memory, &owners, &pages, &claimed);
    owners.check_all();
    owners.free_all(&memory);
    assert_eq!(
        memory.allocator().free_frames(),
        0x1000,
        "all is free again"
    );
}

fn request(len: u64, node: u16, last: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align: 64 << 10,
        node: Some(NodeId::new(node)),
        limit: DmaMask::up_to(last),
    }
}

#[test]
fn a_table_that_no_free_block_holds_is_claimed_on_its_node_and_comes_home() {
    with_litter(|memory, _, pages, claimed| {
        let wanted = request(4 * MIB, 1, u64::MAX);
        assert!(pages.allocate_table(&wanted).is_err(), "there is no block");
        let table = claimed.allocate_table(&wanted).unwrap();
        assert!(table.range().start().raw() >= 0x180_0000 && table.is_aligned(64 << 10));
        let mut bytes = vec![1; table.len() as usize];
        table.window().read(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(memory.migrations(MigrationCause::Claim).moved >= 512);
        claimed.free_table(table);
    });
}

#[test]
fn where_a_block_is_free_nothing_moves() {
    with_litter(|memory, _, _, claimed| {
        let wanted = SegmentRequest {
            align: 4096,
            ..request(4096, 0, u64::MAX)
        };
        let table = claimed.allocate_table(&wanted).unwrap();
        assert_eq!(memory.migrations(MigrationCause::Claim).moved, 0);
        claimed.free_table(table);
    });
}

#[test]
fn limits_hold() {
    with_litter(|_, _, _, claimed| {
        let low = claimed.allocate_table(&request(MIB, 1, 0x1ff_ffff));
        let low = low.unwrap();
        assert!(low.range().end().raw() <= 0x200_0000);
        // Half a frame of the region is within the limit: no frame is.
        assert!(
            claimed
                .allocate_table(&request(4096 * 2, 1, 0x100_0800))
                .is_err()
        );
        claimed.free_table(low);
    });
}

#[test]
fn where_nothing_moves_on_the_asked_node_another_serves() {
    with_litter(|_, owners, _, claimed| {
        for range in owners.ranges() {
            if range.start().raw() >= 0x1800 {
                owners.refuse(range.start(), Refusal::Pinned, u32::MAX);
            }
        }
        let table = claimed.allocate_table(&request(MIB, 1, u64::MAX)).unwrap();
        assert!(table.range().end().raw() <= 0x180_0000);
        claimed.free_table(table);
    });
}

#[test]
fn where_nothing_moves_the_error_is_that_of_the_page_allocator() {
    with_litter(|memory, owners, pages, claimed| {
        for range in owners.ranges() {
            owners.refuse(range.start(), Refusal::Pinned, u32::MAX);
        }
        let free = memory.allocator().free_frames();
        let wanted = request(MIB, 0, u64::MAX);
        let refused = claimed.allocate_table(&wanted).unwrap_err();
        assert_eq!(refused, pages.allocate_table(&wanted).unwrap_err());
        assert_eq!(memory.allocator().free_frames(), free);
        for wanted in [
            request(0, 0, u64::MAX),
            SegmentRequest { align: 3, ..wanted },
        ] {
            assert_eq!(claimed.allocate_table(&wanted).unwrap_err().request, wanted);
        }
    });
}
