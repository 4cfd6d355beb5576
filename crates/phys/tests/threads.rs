//! Frames allocated and freed by several CPUs at once, also where nobody may sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dmakit_addr::{NodeId, Pfn, PfnRange};
use dmakit_phys::{
    CpuStock, Frame, FrameRequest, FrameStocks, Frames, MemoryKind, MemoryMap, MoverId,
    PageAllocator, Region,
};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuId, CpuSlot, Platform};

const FRAMES: u64 = 4096;
const ROUNDS: u64 = 40_000;

fn mark(taken: &[AtomicBool], frames: &Frames, to: bool) {
    for frame in frames.range().start().raw()..frames.range().end().raw() {
        let was = taken[frame as usize].swap(to, Ordering::Relaxed);
        assert_ne!(was, to, "frame {frame} has two owners or none");
    }
}

fn allocator() -> PageAllocator<HostPlatform, Vec<Frame>> {
    let mut map = MemoryMap::new(1);
    map.add(Region {
        range: PfnRange::new(Pfn::new(0), FRAMES).unwrap(),
        node: NodeId::new(0),
        kind: MemoryKind::Usable,
    })
    .unwrap();
    let entries = PageAllocator::<HostPlatform, Vec<Frame>>::table_entries(&map) as usize;
    let table = vec![Frame::default(); entries];
    PageAllocator::new(&map, &[], table).unwrap()
}

#[test]
fn no_frame_ever_has_two_owners() {
    let allocator = allocator();
    let taken: Vec<AtomicBool> = (0..FRAMES).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for cpu in 0..3_u64 {
            let (allocator, taken) = (&allocator, &taken);
            scope.spawn(move || {
                let mut live: Vec<Frames> = Vec::new();
                let mut state = 0x9E37_79B9_7F4A_7C15 ^ (cpu + 1);
                for _ in 0..ROUNDS {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    let size = 1 + (state >> 40) % 60;
                    if state >> 63 == 0 {
                        if let Ok(frames) = allocator.allocate(&FrameRequest::unmovable(size)) {
                            mark(taken, &frames, true);
                            live.push(frames);
                        }
                    } else if !live.is_empty() {
                        let frames = live.swap_remove((state >> 40) as usize % live.len());
                        mark(taken, &frames, false);
                        allocator.free(frames).unwrap();
                    }
                }
                for frames in live {
                    mark(taken, &frames, false);
                    allocator.free(frames).unwrap();
                }
            });
        }
    });
    assert_eq!(allocator.free_frames(), FRAMES);
}

#[test]
fn stocks_of_several_cpus_share_no_frame_and_drain_to_nothing() {
    let allocator = allocator();
    let slots: Vec<CpuSlot<CpuStock<HostPlatform>>> = (0..3).map(|_| CpuSlot::default()).collect();
    let stocks = FrameStocks::new(&allocator, slots);
    let platform = HostPlatform::new(3);
    let taken: Vec<AtomicBool> = (0..FRAMES).map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        for cpu in 0..3_u32 {
            let (allocator, taken, stocks, platform) = (&allocator, &taken, &stocks, &platform);
            scope.spawn(move || {
                HostPlatform::bind_thread(CpuId::new(cpu));
                let mut live: Vec<Frames> = Vec::new();
                let mut state = 0x9E37_79B9_7F4A_7C15 ^ u64::from(cpu + 1);
                for _ in 0..ROUNDS {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    let mover = MoverId::new((state >> 60) as u16 / 8);
                    let request = match state >> 62 & 1 {
                        0 => FrameRequest::unmovable(1),
                        _ => FrameRequest::movable(1, mover),
                    };
                    if state >> 63 == 0 {
                        let cpu = platform.enter_cpu();
                        if let Ok(frames) = stocks.allocate(&cpu, &request) {
                            mark(taken, &frames, true);
                            live.push(frames);
                        }
                    } else if !live.is_empty() {
                        let frames = live.swap_remove((state >> 40) as usize % live.len());
                        mark(taken, &frames, false);
                        allocator.free(frames).unwrap();
                    }
                    if state >> 50 & 0x3ff == 0 {
                        stocks.drain();
                    }
                }
                for frames in live {
                    mark(taken, &frames, false);
                    allocator.free(frames).unwrap();
                }
            });
        }
    });
    assert_eq!(allocator.free_frames() + stocks.frames(), FRAMES);
    stocks.drain();
    assert_eq!(allocator.free_frames(), FRAMES);
}
