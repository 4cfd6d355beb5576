//! Bytes that are lent, by their addresses.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use dmakit_addr::{Direction, DmaAddr, DmaMask, PhysAddr, PhysRange};
use dmakit_dma::{BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, NoTranslation, Path};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_swiotlb::{BounceConfig, BouncePool, NoGrowth};
use dmakit_untyped::{LentError, ProgramBytes, UntypedDevice};

type Untyped = UntypedDevice<HostPlatform, NoGrowth>;

/// Where the program's bytes are said to lie: nothing here looks.
const PROGRAM: u64 = 0x1_0000_0000;
const POOL: u64 = 0x4000_0000;
const POOL_BYTES: u64 = 1 << 20;

fn device(path: Path<'static, HostPlatform, NoGrowth, NoTranslation>) -> Untyped {
    let info = DeviceInfo::new(DeviceId::new(1), "lent", DmaMask::ALL);
    let platform = HostPlatform::new(1);
    Untyped::new(Device::new(platform, info, path, CoherentSource::None))
}

/// A device whose every mapping bounces, and its memory as it sees it.
fn bounced() -> (Untyped, HostRam) {
    let range = PhysRange::new(PhysAddr::new(POOL), POOL_BYTES).unwrap();
    let (ram, mut segments) = HostRam::new(&[range]).unwrap();
    let segment = segments.pop().unwrap();
    let pool = BouncePool::new(HostPlatform::new(1), segment, &BounceConfig::default());
    let pool: &'static BouncePool<_, _> = Box::leak(Box::new(pool.unwrap()));
    let when = BounceWhen::Always;
    let id = pool.attach(None).unwrap();
    (device(Path::Bounced { pool, id, when }), ram)
}

fn memory() -> NonNull<[u8]> {
    NonNull::from(Vec::leak(vec![0xee; 512]))
}

fn lend(device: &Untyped, bytes: NonNull<[u8]>) -> DmaAddr {
    let run = PhysRange::new(PhysAddr::new(PROGRAM), bytes.len() as u64).unwrap();
    // SAFETY: leaked bytes that only this thread uses; nothing here follows their address.
    let lent = unsafe { ProgramBytes::new(bytes, run) }.unwrap();
    // SAFETY: as above.
    unsafe { device.map(lent, Direction::FromDevice) }.unwrap()
}

fn take_back(device: &Untyped, addr: DmaAddr, bytes: NonNull<[u8]>) -> Result<(), LentError> {
    // SAFETY: there is no device.
    unsafe { device.unmap(addr, bytes) }
}

fn device_writes(ram: &HostRam, addr: DmaAddr, bytes: NonNull<[u8]>) {
    let slots = PhysRange::new(PhysAddr::new(addr.raw()), bytes.len() as u64).unwrap();
    ram.hardware_window(slots)
        .unwrap()
        .write(&vec![0x55; bytes.len()]);
}

fn first(bytes: NonNull<[u8]>) -> u8 {
    // SAFETY: leaked, and nothing writes meanwhile.
    unsafe { bytes.cast::<u8>().read() }
}

#[test]
fn bytes_lent_twice_at_one_address_come_back_twice() {
    let device = device(Path::Direct);
    let (bytes, others) = (memory(), memory());
    let addr = lend(&device, bytes);
    assert_eq!(lend(&device, bytes), addr);
    let not_lent = Err(LentError::NotLent { addr });
    assert_eq!(take_back(&device, addr, others), not_lent);
    assert_eq!(device.device().stats().live(), 2);
    assert_eq!(take_back(&device, addr, bytes), Ok(()));
    assert_eq!(take_back(&device, addr, bytes), Ok(()));
    assert_eq!(take_back(&device, addr, bytes), not_lent);
    assert_eq!(device.device().stats().live(), 0);
}

#[test]
fn what_the_device_wrote_is_there_after_unmap() {
    let (device, ram) = bounced();
    let bytes = memory();
    let addr = lend(&device, bytes);
    device_writes(&ram, addr, bytes);
    assert_eq!(take_back(&device, addr, bytes), Ok(()));
    assert_eq!(first(bytes), 0x55);
}

#[test]
fn after_a_reset_everything_comes_back_and_nobody_s_bytes_are_touched() {
    let (device, ram) = bounced();
    let lent = [memory(), memory(), memory()];
    let addrs = lent.map(|bytes| lend(&device, bytes));
    device_writes(&ram, addrs[0], lent[0]);
    // SAFETY: there is no device, and nothing is unmapped afterwards.
    assert_eq!(unsafe { device.unmap_all() }, Ok(3));
    assert_eq!(lent.map(first), [0xee; 3]);
    assert_eq!(device.device().stats().live(), 0);
    let Path::Bounced { pool, .. } = device.device().path() else {
        panic!("another path");
    };
    assert_eq!(pool.statistics().used, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { device.unmap_all() }, Ok(0));
}
