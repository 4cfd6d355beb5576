//! Nothing is allocated for an I/O: a binary of its own, because its allocator counts.

mod domain;

use allocation_counter::measure;
use dmakit_addr::{Attributes, FromDevice, PhysAddr, PhysRange};
use dmakit_dma::{DmaSegment, SegmentLimits};
use dmakit_platform::CpuBuffer;
use dmakit_platform::host::{HostPlatform, HostRam};
use domain::TestDevice;

const NONE: Attributes = Attributes::NONE;
const ROUNDS: u32 = 1000;

/// Pages apart from one another, as one buffer.
fn buffer(pages: u64) -> CpuBuffer {
    let segment = |page: u64| {
        let start = PhysAddr::new((1 << 32) + page * 0x3000);
        let frames = PhysRange::new(start, 4096).unwrap();
        let (_ram, mut segments) = HostRam::new(&[frames]).unwrap();
        segments.pop().unwrap()
    };
    CpuBuffer::from_segments((0..pages).map(segment).collect(), pages * 4096).unwrap()
}

fn one_step(device: &TestDevice<'_>, buffer: CpuBuffer) -> CpuBuffer {
    let mut segments = [DmaSegment::default(); 64];
    let mapped = device.map_scatter::<FromDevice, _>(buffer, NONE, &mut segments);
    let buffer = device.unmap_and_sync(mapped.unwrap()).unwrap();
    let mapping = device.map_request::<FromDevice, _>(buffer, NONE).unwrap();
    assert_eq!(device.segments(&mapping).count(), 1);
    assert_eq!(device.segments_apart(&mapping).unwrap().count(), 64);
    device.unmap_and_sync(mapping).unwrap()
}

fn two_step(device: &TestDevice<'_>, buffer: CpuBuffer) -> CpuBuffer {
    let first = buffer.runs().next().unwrap().start();
    let reserved = device.reserve::<FromDevice>(first, buffer.len(), 1, NONE);
    let mut request = reserved.unwrap();
    let mut linker = device.linker(&mut request).unwrap();
    let page = [0_u8; 4096];
    for run in buffer.runs() {
        linker.link(run, &page[..]).unwrap();
    }
    let sealed = device.seal(request).unwrap();
    let debt = device.destroy(sealed, buffer, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap()
}

/// Allocations of `ROUNDS` I/Os of 64 pages, after some that fill the caches.
fn allocations(io: impl Fn(&TestDevice<'_>, CpuBuffer) -> CpuBuffer) -> u64 {
    let platform = HostPlatform::new(1);
    let domain = domain::strict(&platform);
    let device = domain::device(&platform, &domain, SegmentLimits::NONE);
    let mut buffer = Some(buffer(64));
    let mut run = |rounds| {
        for _ in 0..rounds {
            buffer = buffer.take().map(|buffer| io(&device, buffer));
        }
    };
    run(64);
    let counted = measure(|| run(ROUNDS)).count_total;
    assert_eq!(device.remove().unwrap().live(), 0);
    counted
}

#[test]
fn no_io_allocates_in_one_step_or_two() {
    assert_eq!(allocations(one_step), 0);
    assert_eq!(allocations(two_step), 0);
    // The counter counts.
    let boxed = allocations(|_, buffer| *std::hint::black_box(Box::new(buffer)));
    assert_eq!(boxed, u64::from(ROUNDS));
}
