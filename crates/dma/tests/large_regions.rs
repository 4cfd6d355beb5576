//! Registered memory: regions of many megabytes behind one address.

mod domain;

use dmakit_addr::{Attributes, Bidirectional, IovaRange, PhysAddr, PhysRange};
use dmakit_dma::{Sealed, SegmentLimits};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CopySource, CopyTarget, Window};
use domain::{Strict, TestDevice};

/// So many bytes that nobody looks at: a region is memory of somebody else, and nothing bounces.
#[derive(Debug)]
struct Bytes(u64);

impl CopySource for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

impl CopyTarget for Bytes {
    fn copy_from(&mut self, _: u64, _: Window<'_>) {}
}

const REGION: u64 = 100_000_000;
const ALIGN: u64 = REGION.next_power_of_two();
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn run(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

/// Links `runs` as one region aligned to `align`, looks at it, and takes it away again: how many
/// leaves it had.
fn leaves(runs: &[PhysRange], align: u64) -> usize {
    let platform = HostPlatform::new(1);
    let domain = domain::strict(&platform);
    let device = domain::device(&platform, &domain, SegmentLimits::NONE);
    let len = runs.iter().map(PhysRange::len).sum();
    let sealed = register(&device, runs, len, align);
    let segment = sealed.segment().unwrap();
    assert_eq!((segment.len, segment.addr.raw() % align), (len, 0));
    // All that is kept for the region, however many pages it has.
    assert_eq!(size_of_val(&sealed), 16);
    let count = mapped(&domain).count();
    let debt = device.destroy(sealed, Bytes(len), core::iter::empty());
    let proof = device.sync().unwrap();
    device.redeem(debt.unwrap(), &proof).unwrap();
    assert_eq!(mapped(&domain).count(), 0);
    assert_eq!(device.remove().unwrap().live(), 0);
    count
}

fn register(
    device: &TestDevice<'_>,
    runs: &[PhysRange],
    len: u64,
    align: u64,
) -> Sealed<Bidirectional> {
    let reserved = device.reserve(runs[0].start(), len, align, Attributes::NONE);
    let mut request = reserved.unwrap();
    let mut linker = device.linker(&mut request).unwrap();
    for run in runs {
        linker.link(*run, &Bytes(run.len())).unwrap();
    }
    device.seal(request).unwrap()
}

fn mapped(domain: &Strict) -> impl Iterator + '_ {
    let whole = IovaRange::new(dmakit_addr::Iova::new(0), 1 << 47).unwrap();
    domain.table().leaves(whole)
}

/// A list of its pages would be 195,320 bytes in the device.
#[test]
fn a_region_of_100_mb_is_one_device_entry_and_sixteen_bytes() {
    let aligned = leaves(&[run(3 * ALIGN, REGION)], ALIGN);
    let blocks = REGION / (2 * MIB);
    let rest = (REGION - blocks * 2 * MIB).div_ceil(4096);
    assert_eq!((blocks, rest), (47, 351));
    assert_eq!(aligned as u64, blocks + rest);
    let pages = REGION.div_ceil(4096);
    assert_eq!(pages * 8, 195_320);
    // Memory a page off is as good for the device, and as many leaves as it has pages.
    let off = leaves(&[run(3 * ALIGN + 4096, REGION)], ALIGN);
    assert_eq!(off as u64, pages);
}

#[test]
fn leaves_are_as_large_as_the_memory_allows() {
    assert_eq!(leaves(&[run(4 * GIB, GIB)], GIB), 1);
    assert_eq!(leaves(&[run(4 * GIB + 2 * MIB, GIB)], GIB), 512);
    // In blocks from all over memory, the last first.
    let blocks: Vec<_> = (0..50)
        .map(|i| run((200 - 3 * i) * 2 * MIB, 2 * MIB))
        .collect();
    assert_eq!(leaves(&blocks, ALIGN), 50);
}
