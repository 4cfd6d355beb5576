//! Lists of pieces, joined and apart, by whatever way the device reaches them.

use dmakit::addr::{Attributes, DmaMask, ToDevice};
use dmakit::dma::{
    BounceWhen, CoherentSource, Device, DmaSegment, MapError, Path, ScatterList, Translate,
};
use dmakit::platform::CpuBuffer;

use crate::rig::{Rig, TestDevice, at};

const NONE: Attributes = Attributes::NONE;
const PIECES: [u64; 4] = [0x1000, 0x1000, 0x5000, 0x800];
/// At most 0x4000 bytes in a segment.
const APART: [u64; 5] = [0x1000, 0x1000, 0x4000, 0x1000, 0x800];

type List = ScatterList<[CpuBuffer; 4]>;

fn list(rig: &Rig) -> List {
    let buffers = PIECES.map(|len| rig.buffer(len, 0, 1).take());
    ScatterList::new(buffers).unwrap()
}

fn lens(segments: impl IntoIterator<Item = DmaSegment>) -> Vec<u64> {
    segments.into_iter().map(|segment| segment.len).collect()
}

/// What was refused, and that nothing is left of it.
fn refused<T: Translate>(rig: &Rig, device: &TestDevice<'_, T>, error: MapError) -> (usize, usize) {
    assert_eq!((device.stats().live(), rig.pool.used()), (0, 0));
    match error {
        MapError::TooManySegments { needed, room } => (needed, room),
        error => panic!("{error}"),
    }
}

/// Lends the list both ways, with room and without.
fn lend<T: Translate>(rig: &Rig, device: &mut TestDevice<'_, T>, joined: &[u64]) {
    let mut limits = device.info().limits;
    let mut segments = [DmaSegment::default(); 8];
    let need = joined.len();

    // A driver that asks for the segments later.
    let mapping = device.map_request::<ToDevice, _>(list(rig), NONE).unwrap();
    assert_eq!(lens(device.segments(&mapping)), joined);
    assert_eq!(mapping.segment_count(), need);
    let apart: Vec<_> = device.segments_apart(&mapping).unwrap().collect();
    assert_eq!(lens(apart.iter().copied()), APART);
    device.unmap_and_sync(mapping).unwrap();

    // One that has room for them.
    let mapped = device.map_scatter::<ToDevice, _>(list(rig), NONE, &mut segments[..need]);
    let mapping = mapped.unwrap();
    assert_eq!(lens(segments[..need].iter().copied()), joined);
    device.unmap_and_sync(mapping).unwrap();
    let short = device.map_scatter::<ToDevice, _>(list(rig), NONE, &mut segments[..need - 1]);
    let short = refused(rig, device, short.unwrap_err().error);
    assert_eq!(short, (need, need - 1));
    let mapped = device.map_scatter_apart::<ToDevice, _>(list(rig), NONE, &mut segments[..5]);
    let mapping = mapped.unwrap();
    assert_eq!(mapping.segment_count(), 5);
    assert!(
        device
            .segments_apart(&mapping)
            .unwrap()
            .eq(segments[..5].iter().copied())
    );
    device.unmap_and_sync(mapping).unwrap();
    let short = device.map_scatter_apart::<ToDevice, _>(list(rig), NONE, &mut segments[..4]);
    assert_eq!(refused(rig, device, short.unwrap_err().error), (5, 4));

    // A device that takes no more.
    limits.max_count = 4;
    device.set_limits(limits);
    let mapped = device.map_scatter_apart::<ToDevice, _>(list(rig), NONE, &mut segments);
    assert_eq!(refused(rig, device, mapped.unwrap_err().error), (5, 4));
    let mapping = device.map_request::<ToDevice, _>(list(rig), NONE).unwrap();
    let many = device.segments_apart(&mapping).map(drop).unwrap_err();
    assert_eq!(many, MapError::TooManySegments { needed: 5, room: 4 });
    device.unmap_and_sync(mapping).unwrap();
    limits.max_count = need - 1;
    device.set_limits(limits);
    let mapped = device.map_request::<ToDevice, _>(list(rig), NONE);
    let many = refused(rig, device, mapped.unwrap_err().error);
    assert_eq!(many, (need, need - 1));
}

#[test]
fn whoever_lends_a_list_chooses_whether_its_pieces_are_joined() {
    let rig = Rig::coherent(18);
    let domain = rig.strict();
    let mut info = rig.info();
    info.limits.max_bytes = 0x4000;
    let mut device = rig.device(info, &domain);
    lend(&rig, &mut device, &[0x4000, 0x3800]);
    device.remove().unwrap();
    rig.close(domain);
    info.streaming_mask = DmaMask::ALL;
    let bounced = Path::Bounced {
        pool: &rig.pool,
        id: rig.pool.attach(None).unwrap(),
        when: BounceWhen::Always,
    };
    let source = CoherentSource::None;
    let mut device = Device::<_>::new(rig.machine.clone(), info, bounced, source);
    lend(&rig, &mut device, &[0x4000, 0x3800]);
    device.remove().unwrap();
}

#[test]
fn pieces_apart_are_one_stretch_of_addresses_all_the_same() {
    let rig = Rig::coherent(19);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let mapping = device.map_request::<ToDevice, _>(list(&rig), NONE).unwrap();
    let apart: Vec<_> = device.segments_apart(&mapping).unwrap().collect();
    let meet = |pair: &[DmaSegment]| at(pair[0].addr, pair[0].len as i64) == pair[1].addr;
    assert!(apart.windows(2).all(meet));
    device.unmap_and_sync(mapping).unwrap();
    rig.close(domain);
}
