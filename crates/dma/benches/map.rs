//! What the mapping API costs on a coherent device of this process, beside the floor: the counters
//! that every mapping changes.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use dmakit_addr::{
    Attributes, Bidirectional, BoundaryMask, DmaMask, PhysAddr, PhysRange, ToDevice,
};
use dmakit_dma::{
    BlockLayout, BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, DmaPool, DmaSegment,
    Path, PoolChunk,
};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{CpuBuffer, NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_swiotlb::{BounceConfig, BouncePool};

const NONE: Attributes = Attributes::NONE;
const NAME: &str = "bench";

struct OneChunk(std::sync::Mutex<Option<Segment>>);

impl TableMemory for OneChunk {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = NoMemory {
            request: *request,
            largest_free: None,
        };
        self.0
            .lock()
            .ok()
            .and_then(|mut slot| slot.take())
            .ok_or(none)
    }

    fn free_table(&self, _segment: Segment) {}
}

fn ram(start: u64, len: u64) -> Segment {
    let range = PhysRange::new(PhysAddr::new(start), len).expect("a range");
    let (_ram, mut segments) = HostRam::new(&[range]).expect("memory");
    segments.pop().expect("a segment")
}

fn buffer(len: u64) -> CpuBuffer {
    CpuBuffer::from_segment(ram(0x1_0000_0000, len), len).expect("long enough")
}

fn info() -> DeviceInfo<'static> {
    DeviceInfo::new(DeviceId::new(1), NAME, DmaMask::ALL)
}

fn direct_device() -> Device<'static, HostPlatform> {
    Device::new(
        HostPlatform::new(2),
        info(),
        Path::Direct,
        CoherentSource::None,
    )
}

fn floor(criterion: &mut Criterion) {
    let counters = [AtomicU64::new(0), AtomicU64::new(0)];
    criterion.bench_function("floor: two counters", |bench| {
        bench.iter(|| {
            black_box(&counters[0]).fetch_add(1, Ordering::Relaxed);
            black_box(&counters[1]).fetch_add(1, Ordering::Relaxed);
        });
    });
}

fn direct(criterion: &mut Criterion) {
    let device = direct_device();
    let mut slot = Some(buffer(4096));
    criterion.bench_function("direct 4 KiB: map, unmap_and_sync", |bench| {
        bench.iter(|| {
            let mapping = device.map::<ToDevice>(slot.take().expect("a buffer"), NONE);
            slot = device
                .unmap_and_sync(black_box(mapping.expect("mapped")))
                .ok();
        });
    });
    criterion.bench_function("direct 4 KiB: map, unmap, sync, redeem", |bench| {
        bench.iter(|| {
            let mapping = device.map::<ToDevice>(slot.take().expect("a buffer"), NONE);
            let debt = device
                .unmap(black_box(mapping.expect("mapped")))
                .expect("own");
            let proof = device.sync().expect("no wait");
            slot = device.redeem(debt, &proof).ok();
        });
    });
    let mut mapped = device.map::<Bidirectional>(buffer(4096), NONE).ok();
    criterion.bench_function("direct 4 KiB: sync for CPU and back", |bench| {
        bench.iter(|| {
            let cpu = device
                .sync_for_cpu(mapped.take().expect("mapped"))
                .expect("own");
            mapped = device.sync_for_device(black_box(cpu)).ok();
        });
    });
    criterion.bench_function("direct: raw 4 KiB map, unmap", |bench| {
        let run = PhysRange::new(PhysAddr::new(0x1000), 4096).expect("a range");
        let mut bytes = [0_u8; 4096];
        let way = dmakit_addr::Direction::ToDevice;
        bench.iter(|| {
            let handle = device.map_raw(run, &bytes[..], way, NONE).expect("mapped");
            device
                .unmap_raw(black_box(handle), way, run, &mut bytes[..], NONE)
                .expect("own");
        });
    });
}

fn scattered(criterion: &mut Criterion) {
    let device = direct_device();
    let mut list = Some(
        CpuBuffer::from_segments(
            (0..32)
                .map(|i| ram(0x1_0000_0000 + i * 0x2000, 4096))
                .collect(),
            32 << 12,
        )
        .expect("long enough"),
    );
    let mut segments = [DmaSegment::default(); 32];
    criterion.bench_function(
        "direct 32 runs of 4 KiB: map_scatter, unmap_and_sync",
        |bench| {
            bench.iter(|| {
                let memory = list.take().expect("a list");
                let mapping = device.map_scatter::<ToDevice, _>(memory, NONE, &mut segments);
                list = device
                    .unmap_and_sync(black_box(mapping.expect("mapped")))
                    .ok();
            });
        },
    );
}

fn bounced(criterion: &mut Criterion) {
    let platform = HostPlatform::new(2);
    let pool = BouncePool::new(
        platform.clone(),
        ram(0x1000_0000, 64 << 20),
        &BounceConfig::default(),
    );
    let pool = pool.expect("a pool");
    let id = pool.attach(None).expect("room");
    let path = Path::Bounced {
        pool: &pool,
        id,
        when: BounceWhen::Always,
    };
    let bounced = Device::<_>::new(platform, info(), path, CoherentSource::None);
    for len in [512, 4096] {
        let mut slot = Some(buffer(len));
        criterion.bench_function(
            &format!("bounced {len} B both ways: map, unmap_and_sync"),
            |bench| {
                bench.iter(|| {
                    let mapping =
                        bounced.map::<Bidirectional>(slot.take().expect("a buffer"), NONE);
                    slot = bounced
                        .unmap_and_sync(black_box(mapping.expect("mapped")))
                        .ok();
                });
            },
        );
    }
}

fn blocks(criterion: &mut Criterion) {
    let chunk = OneChunk(std::sync::Mutex::new(Some(ram(0x2_0000_0000, 4096))));
    let source = CoherentSource::Cached(&chunk);
    let device = Device::<_>::new(HostPlatform::new(2), info(), Path::Direct, source);
    let layout = BlockLayout::new(64, 64, BoundaryMask::NONE).expect("a layout");
    let blocks = DmaPool::new(&device, layout, [PoolChunk::default()]);
    blocks.refill(&device, 1).expect("one chunk");
    criterion.bench_function("64 B block: alloc, free", |bench| {
        bench.iter(|| {
            let block = blocks.alloc::<u64>().expect("a block");
            blocks.free(black_box(block)).expect("own");
        });
    });
}

criterion_group!(benches, floor, direct, scattered, bounced, blocks);
criterion_main!(benches);
