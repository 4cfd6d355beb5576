//! A kernel in small: frames from a memory map, processes whose pages move, a driver that needs
//! contiguous memory, and a device that pins.
//!
//! `cargo run -p dmakit-phys --example kernel`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dmakit_addr::{NodeId, Pfn, PfnRange};
use dmakit_phys::{
    Account, ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration,
    MigrationCause, MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region, WindowIn,
    WindowRequest,
};
use dmakit_platform::Instant;
use dmakit_platform::host::HostPlatform;

/// The pages of processes, by where they are. A kernel's page tables stand in its place.
#[derive(Default)]
struct Processes {
    pages: Mutex<BTreeMap<Pfn, Frames>>,
}

impl Processes {
    fn hold(&self, page: Frames) {
        let mut pages = self.pages.lock().unwrap();
        pages.insert(page.range().start(), page);
    }
}

impl Migrate for Processes {
    /// No page moves for the sake of balance while this kernel boots.
    fn permits(&self, migration: &Migration) -> bool {
        migration.cause != MigrationCause::NumaBalancing
    }

    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut pages = self.pages.lock().unwrap();
        let Some(old) = pages.remove(&migration.from.start()) else {
            let reason = Refusal::Gone;
            return Err(Refused { to, reason });
        };
        // Here a kernel keeps writers out, copies, and lets the page table entry lead to `to`.
        pages.insert(to.range().start(), to);
        Ok(old)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 64 MiB on each of two nodes, as firmware tells it.
    let mut map = MemoryMap::new(2);
    for (node, start) in [(0, 0x8_0000), (1, 0x10_0000)] {
        map.add(Region {
            range: PfnRange::new(Pfn::new(start), 16 << 10)?,
            node: NodeId::new(node),
            kind: MemoryKind::Usable,
        })?;
    }
    type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
    let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
    let allocator = Allocator::new(&map, &[], table)?;
    let processes = Arc::new(Processes::default());
    let memory = MovableMemory::new(HostPlatform::new(1), allocator, &*processes);

    // A process fills most of node 0 with single pages.
    let process = MoverId::new(1);
    for _ in 0..15_000 {
        let page = FrameRequest {
            node: Some(NodeId::new(0)),
            ..FrameRequest::movable(1, process)
        };
        processes.hold(memory.allocator().allocate(&page)?);
    }

    // A device pins two of them for good: they are charged to whoever asked.
    let account = Arc::new(Account::new(1024));
    let owner = memory.add_pin_owner(account.clone())?;
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 5,
    };
    let first = *processes.pages.lock().unwrap().keys().next().unwrap();
    let pin = memory.pin_long_term(owner, &[PfnRange::new(first, 2)?], &limits)?;
    println!("pinned {:?}, charged {}", pin.ranges(), account.charged());

    // A driver wants 8 MiB in one piece on node 0, where hardly anything is free.
    let node = [map.regions()[0].range];
    let request = WindowRequest {
        within: &node,
        frames: 2048,
        align_order: 9,
        excluded: &[],
        memory: WindowIn::OtherMemory,
    };
    let window = memory.find(&request)?;
    println!(
        "{} is cheapest: {} frames have to move",
        window.range, window.moves
    );
    let queue = memory.claim_window(&request, &limits)?;
    let moved = memory.migrations(MigrationCause::Claim);
    println!("claimed {queue:?}: {} allocations moved", moved.moved);

    // What is pinned stays, and who is in the way is known.
    let blocked = memory
        .claim(PfnRange::new(first, 16)?, &limits)
        .unwrap_err();
    println!("{blocked}");

    memory.unpin(pin)?;
    memory.allocator().free(queue)?;
    for (_, page) in std::mem::take(&mut *processes.pages.lock().unwrap()) {
        memory.allocator().free(page)?;
    }
    assert_eq!(memory.allocator().free_frames(), 32 << 10);
    Ok(())
}
