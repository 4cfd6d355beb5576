//! A device's coherent memory as the table memory of its driver.

mod rig;

use dmakit_addr::{Attributes, DmaMask};
use dmakit_dma::{
    Coherence, CoherentSource, Device, DeviceId, DeviceInfo, DeviceStats, DeviceTables, Path,
};
use dmakit_platform::{SegmentRequest, TableMemory};
use rig::{Forgetful, LOW, PathKind, RAM_BYTES, Rig};

const LAST_LOW: u64 = LOW + RAM_BYTES - 1;

fn request(len: u64, align: u64, last: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align,
        node: None,
        limit: DmaMask::up_to(last),
    }
}

/// A device that sees memory where it is.
fn plain(rig: &Rig, last: u64) -> Device<'_, Forgetful> {
    let info = DeviceInfo::new(DeviceId::new(1), "its", DmaMask::up_to(last));
    let source = CoherentSource::Cached(&rig.memory);
    Device::new(rig.platform.clone(), info, Path::Direct, source)
}

#[test]
fn tables_are_zeroed_aligned_within_mask_and_limit_and_counted() {
    let rig = Rig::coherent(1);
    let device = plain(&rig, u64::MAX);
    let tables = DeviceTables::new(&device);
    let free = rig.memory.outstanding().len();
    for (len, align) in [(1, 1), (4096, 64 << 10), (192 << 10, 4096), (1 << 20, 64)] {
        let table = tables.allocate_table(&request(len, align, LAST_LOW));
        let table = table.unwrap();
        assert!(table.len() >= len && table.is_aligned(align));
        assert!(table.range().end().raw() <= LAST_LOW + 1);
        let mut bytes = vec![1; table.len() as usize];
        table.window().read(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(device.stats().coherent_live(), 1);
        tables.free_table(table);
        assert_eq!(device.stats().coherent_live(), 0);
    }
    // The mask of the device counts, whatever is asked.
    let narrow = Rig::coherent(2);
    let device = plain(&narrow, LAST_LOW);
    let tables = DeviceTables::new(&device);
    let table = tables
        .allocate_table(&request(8192, 4096, u64::MAX))
        .unwrap();
    assert!(table.range().end().raw() <= LAST_LOW + 1);
    tables.free_table(table);
    assert_eq!(rig.memory.outstanding().len(), free);
    assert_eq!(device.remove().unwrap().live(), 0);
}

#[test]
fn what_the_hardware_would_not_find_there_is_refused_and_given_back() {
    let rig = Rig::coherent(3);
    let held = rig.memory.outstanding().len();
    // Its bus shows memory elsewhere.
    let (_, info) = rig.device(1, 64, Coherence::Coherent);
    let shifted = rig.attach(info, PathKind::Direct);
    // It reaches nothing but a pool, and its memory lies in slots.
    let info = DeviceInfo::new(DeviceId::new(2), "its", DmaMask::ALL);
    let path = rig.path(PathKind::Always);
    let pooled = Device::<_>::new(rig.platform.clone(), info, path, CoherentSource::Pool);
    for device in [&shifted, &pooled] {
        // There is memory for it.
        let block = device.alloc_coherent::<u8>(4096, Attributes::NONE).unwrap();
        device.free_coherent(block).unwrap();
        let before = device.stats();
        let tables = DeviceTables::new(device);
        let wanted = request(4096, 4096, u64::MAX);
        assert_eq!(tables.allocate_table(&wanted).unwrap_err().request, wanted);
        let after: DeviceStats = device.stats();
        assert_eq!(after.coherent_live(), before.coherent_live());
    }
    let plain = plain(&rig, u64::MAX);
    let tables = DeviceTables::new(&plain);
    // Above the limit, of no length, aligned to no power of two.
    for wanted in [
        request(4096, 4096, 0xfff),
        request(0, 4096, u64::MAX),
        request(4096, 3000, u64::MAX),
    ] {
        assert!(tables.allocate_table(&wanted).is_err(), "{wanted:?}");
    }
    assert_eq!(plain.stats().coherent_live(), 0);
    assert_eq!(rig.memory.outstanding().len(), held);
    assert_eq!(rig.pool.statistics().used, 0);
}
