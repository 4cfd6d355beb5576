//! Raw handles, and the book that finds what types cannot.

mod rig;

use dmakit_addr::{
    Attributes, Bidirectional, Direction, DmaAddr, DmaMask, FromDevice, PhysRange, ToDevice,
};
use dmakit_dma::{
    Coherence, CoherentSource, Device, DeviceInfo, DmaSegment, Fault, Kind, Ledger, MapError,
    RawError,
};
use dmakit_platform::{CpuBuffer, Segment};
use dmakit_sim::SimDevice;
use dmakit_swiotlb::NoGrowth;
use rig::{Forgetful, PathKind, Rig, pattern, phys};

type Book<'r> = Ledger<'r, Forgetful, 32, 8>;
type Watched<'b, 'r> = Device<'r, Forgetful, NoGrowth, &'b Book<'r>>;

const NONE: Attributes = Attributes::NONE;

fn watched<'b, 'r>(
    rig: &'r Rig,
    book: &'b Book<'r>,
    name: &'static str,
    id: u64,
    path: PathKind,
    coherence: Coherence,
) -> (SimDevice, Watched<'b, 'r>) {
    let (sim, mut info) = rig.device(id, 64, coherence);
    info.name = name;
    (sim, rig.attach(info, path).watched(book))
}

/// Memory that an adapter knows by address, and its bytes.
fn raw(rig: &Rig, len: u64, offset: u64) -> (Segment, PhysRange, Vec<u8>) {
    let segment = rig.segment((offset + len).next_multiple_of(4096), false);
    let run = segment.range().slice(offset, len).unwrap();
    let bytes = pattern(1, len);
    segment.window().slice(offset, len).unwrap().write(&bytes);
    (segment, run, bytes)
}

#[test]
fn a_raw_mapping_is_known_by_its_handle_alone() {
    for coherence in [Coherence::Coherent, Coherence::NonCoherent] {
        for path in [PathKind::Needed, PathKind::Always] {
            let case = format!("{coherence:?}, {path:?}");
            let rig = Rig::non_coherent(1);
            let book: Book<'_> = Ledger::new(&rig.platform);
            let (sim, device) = watched(&rig, &book, "net", 1, path, coherence);
            let (segment, run, mut bytes) = raw(&rig, 1024, 128);
            let mut body = CpuBuffer::from_segment(segment.split_at(128).unwrap().1, 1024).unwrap();
            let way = Direction::Bidirectional;
            let handle = device.map_raw(run, &body, way, NONE).unwrap();
            let mut seen = vec![0; 1024];
            sim.read(handle.addr, &mut seen).unwrap();
            assert_eq!(seen, bytes, "{case}");
            sim.write(handle.addr, &pattern(2, 100)).unwrap();
            device
                .sync_raw_for_cpu(handle, way, run, &mut body, 0..100)
                .unwrap();
            bytes[..100].copy_from_slice(&pattern(2, 100));
            body.read(0, &mut seen);
            assert_eq!(seen, bytes, "{case}");
            body.write(200, &pattern(3, 64));
            bytes[200..264].copy_from_slice(&pattern(3, 64));
            device
                .sync_raw_for_device(handle, way, run, &body, 200..264)
                .unwrap();
            sim.read(handle.addr, &mut seen).unwrap();
            assert_eq!(seen, bytes, "{case}");
            sim.write(handle.addr, &pattern(4, 1024)).unwrap();
            device.unmap_raw(handle, way, run, &mut body, NONE).unwrap();
            body.read(0, &mut seen);
            assert_eq!(seen, pattern(4, 1024), "{case}");
            assert_eq!(
                (book.live(), book.counts().total(), rig.pool.used()),
                (0, 0, 0),
                "{case}"
            );
            device.remove().unwrap();
        }
    }
}

#[test]
fn a_raw_handle_used_wrongly_is_refused_and_named() {
    let rig = Rig::coherent(2);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, device) = watched(
        &rig,
        &book,
        "disk",
        1,
        PathKind::Always,
        Coherence::Coherent,
    );
    let (_segment, run, mut bytes) = raw(&rig, 100, 0);
    let way = Direction::FromDevice;
    let handle = device.map_raw(run, &bytes[..], way, NONE).unwrap();
    let used = rig.pool.used();

    let short = DmaSegment { len: 99, ..handle };
    let wrong = device
        .unmap_raw(short, way, run, &mut bytes[..], NONE)
        .unwrap_err();
    assert_eq!(
        wrong,
        RawError::WrongLength {
            handle: short,
            mapped: 100
        }
    );
    let direction = Direction::ToDevice;
    let wrong = device
        .unmap_raw(handle, direction, run, &mut bytes[..], NONE)
        .unwrap_err();
    assert_eq!(wrong, RawError::NotMapped { handle, direction });
    let nowhere = DmaSegment {
        addr: DmaAddr::new(64),
        ..handle
    };
    let wrong = device
        .unmap_raw(nowhere, way, run, &mut bytes[..], NONE)
        .unwrap_err();
    assert_eq!(wrong, RawError::Unknown { handle: nowhere });
    let elsewhere = device
        .info()
        .bus
        .dma(phys(run.start().raw() + 8, 100))
        .unwrap()
        .into();
    let wrong = device
        .unmap_raw(elsewhere, way, run, &mut bytes[..], NONE)
        .unwrap_err();
    assert!(matches!(wrong, RawError::OtherMemory { .. }), "{wrong}");
    let wrong = device
        .sync_raw_for_cpu(handle, way, run, &mut bytes[..], 90..101)
        .unwrap_err();
    assert_eq!(wrong, RawError::OutOfRange { handle, end: 101 });
    assert_eq!(
        (rig.pool.used(), device.stats().live()),
        (used, 1),
        "the mapping stands"
    );

    assert_eq!(book.counts().misuses, 5);
    let first = book.finding(0).unwrap();
    assert_eq!((first.party.name, first.party.kind), ("disk", Kind::Raw));
    let text = first.to_string();
    assert!(
        text.starts_with("disk: 99 bytes at DMA address 0x"),
        "{text}"
    );
    assert!(text.contains("tests/ledger.rs:"), "{text}");
}

#[test]
fn a_bounced_raw_mapping_ends_once() {
    let rig = Rig::coherent(2);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, device) = watched(
        &rig,
        &book,
        "disk",
        1,
        PathKind::Always,
        Coherence::Coherent,
    );
    let (_segment, run, mut bytes) = raw(&rig, 100, 0);
    let way = Direction::FromDevice;
    let handle = device.map_raw(run, &bytes[..], way, NONE).unwrap();
    device
        .unmap_raw(handle, way, run, &mut bytes[..], NONE)
        .unwrap();
    let twice = device
        .unmap_raw(handle, way, run, &mut bytes[..], NONE)
        .unwrap_err();
    assert!(
        matches!(
            twice,
            RawError::NotMapped { .. } | RawError::OtherMemory { .. }
        ),
        "{twice}"
    );
    assert_eq!((book.counts().misuses, device.stats().unmapped), (1, 1));
}

#[test]
fn mappings_that_share_a_line_are_found_where_a_device_writes_one() {
    let rig = Rig::coherent(3);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, one) = watched(&rig, &book, "one", 1, PathKind::Direct, Coherence::Coherent);
    let (_, other) = watched(
        &rig,
        &book,
        "other",
        2,
        PathKind::Direct,
        Coherence::Coherent,
    );
    let whole = rig.segment(4096, false);
    let (low, rest) = whole.split_at(96).unwrap();
    let (middle, high) = rest.split_at(32).unwrap();
    let buffer = |segment: Segment| {
        let len = segment.len();
        CpuBuffer::from_segment(segment, len).unwrap()
    };
    let reads = one.map::<ToDevice>(buffer(low), NONE).unwrap();
    let reads_too = other.map::<ToDevice>(buffer(middle), NONE).unwrap();
    assert_eq!(book.counts().overlaps, 0, "two readers do no harm");
    let apart = one.map::<FromDevice>(buffer(high), NONE).unwrap();
    assert_eq!(book.counts().overlaps, 0, "the line ends between them");
    let low = one.unmap_and_sync(reads).unwrap();
    let writes = one.map::<Bidirectional>(low, NONE).unwrap();
    let finding = book.finding(0).unwrap();
    let Fault::Overlap(with) = finding.fault else {
        panic!("{finding}");
    };
    assert_eq!(
        (finding.party.name, with.name, with.len),
        ("one", "other", 32)
    );
    one.unmap_and_sync(writes).unwrap();
    one.unmap_and_sync(apart).unwrap();
    other.unmap_and_sync(reads_too).unwrap();
    assert_eq!((book.live(), book.counts().total()), (0, 1));
}

#[test]
fn what_a_removed_device_leaves_is_named() {
    let rig = Rig::coherent(4);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, device) = watched(&rig, &book, "gpu", 1, PathKind::Always, Coherence::Coherent);
    let (_, other) = watched(&rig, &book, "nic", 2, PathKind::Direct, Coherence::Coherent);
    let buffer = rig.buffer(5000, 8, false).take();
    let mapping = device.map::<FromDevice>(buffer, NONE).unwrap();
    let (dma, line) = (mapping.dma_addr(), line!() - 1);
    core::mem::forget(mapping);
    let ring = device.alloc_coherent::<u64>(9, NONE).unwrap();
    let kept = other
        .map::<ToDevice>(rig.buffer(8, 0, false).take(), NONE)
        .unwrap();
    let left = device.remove().unwrap_err();
    assert_eq!(
        (left.mappings, left.coherent, book.counts().leaks),
        (1, 1, 2)
    );
    let leak = book.finding(0).unwrap();
    assert_eq!(
        (leak.fault, leak.party.name, leak.party.dma, leak.party.len),
        (Fault::Leak, "gpu", dma, 5000)
    );
    let caller = leak.party.caller.unwrap();
    assert_eq!(
        (caller.file().ends_with("tests/ledger.rs"), caller.line()),
        (true, line)
    );
    assert_eq!(book.finding(1).unwrap().party.kind, Kind::Coherent);
    assert_eq!(book.live(), 1, "the other device's");
    drop(ring);
    other.unmap_and_sync(kept).unwrap();
    other.remove().unwrap();
}

#[test]
fn a_full_book_says_what_it_does_not_know() {
    let rig = Rig::coherent(5);
    let book: Ledger<'_, Forgetful, 2, 1> = Ledger::new(&rig.platform);
    let (_, info) = rig.device(1, 64, Coherence::Coherent);
    let device = rig.attach(info, PathKind::Direct).watched(&book);
    let held: Vec<_> = (0..3)
        .map(|_| {
            device
                .map::<ToDevice>(rig.buffer(8, 0, false).take(), NONE)
                .unwrap()
        })
        .collect();
    assert_eq!((book.live(), book.counts().unwatched), (2, 1));
    for mapping in held {
        device.unmap_and_sync(mapping).unwrap();
    }
    assert_eq!(
        (book.live(), book.counts().total()),
        (0, 0),
        "no false alarm"
    );
}

#[test]
fn windows_that_are_not_ram_are_never_bounced_nor_maintained() {
    let rig = Rig::non_coherent(6);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let registers = phys(0x1000_0000, 0x1000);
    let ranges = [dmakit_dma::BusRange {
        phys: registers,
        dma: DmaAddr::new(0x9000),
    }];
    let mut info = DeviceInfo::new(
        dmakit_dma::DeviceId::new(1),
        "dma engine",
        DmaMask::bits(32).unwrap(),
    );
    info.bus = dmakit_dma::BusMap::new(&ranges).unwrap();
    info.coherence = Coherence::NonCoherent;
    let path = rig.path(PathKind::Always);
    let device = Device::new(rig.platform.clone(), info, path, CoherentSource::None).watched(&book);
    let way = Direction::Bidirectional;
    let handle = device
        .map_resource(registers, way, Attributes::MMIO)
        .unwrap();
    assert_eq!(
        handle,
        DmaSegment {
            addr: DmaAddr::new(0x9000),
            len: 0x1000
        }
    );
    assert_eq!(
        (rig.pool.used(), rig.machine.counts().lines_maintained),
        (0, 0)
    );
    let outside = phys(0x1000_0001, 0x1000);
    let refused = device
        .map_resource(outside, way, Attributes::MMIO)
        .unwrap_err();
    assert!(matches!(refused, MapError::Unreachable { window, .. } if window == outside));
    let refused = device
        .map_resource(registers, way, Attributes::REQUIRE_COHERENT)
        .unwrap_err();
    assert_eq!(refused, MapError::Attributes(Attributes::REQUIRE_COHERENT));
    assert_eq!(book.live(), 1);
    device.unmap_resource(handle, way).unwrap();
    assert_eq!((book.live(), book.counts().total()), (0, 0));
    device.unmap_resource(handle, way).unwrap();
    assert_eq!(book.counts().unknown, 1, "ended twice");
}

#[test]
fn an_unwatched_device_carries_nothing_for_it() {
    let watched = size_of::<Watched<'static, 'static>>();
    let unwatched = size_of::<Device<'static, Forgetful>>();
    assert_eq!(watched - unwatched, size_of::<&Book<'_>>());
}

#[test]
fn a_direct_raw_mapping_that_ends_twice_or_short_is_found() {
    let rig = Rig::coherent(7);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, device) = watched(
        &rig,
        &book,
        "nvme",
        1,
        PathKind::Direct,
        Coherence::Coherent,
    );
    let (_segment, run, mut bytes) = raw(&rig, 100, 0);
    let way = Direction::ToDevice;
    let mut end = |handle: DmaSegment, run: PhysRange| {
        device
            .unmap_raw(handle, way, run, &mut bytes[..], NONE)
            .unwrap();
    };
    let handle = device
        .map_raw(run, &pattern(1, 100)[..], way, NONE)
        .unwrap();
    end(handle, run);
    assert_eq!(book.counts().total(), 0);
    end(handle, run);
    let finding = book.finding(0).unwrap();
    assert_eq!(
        (finding.fault, finding.party.name, finding.party.dma),
        (Fault::Unknown, "nvme", handle.addr)
    );
    device
        .map_raw(run, &pattern(1, 100)[..], way, NONE)
        .unwrap();
    end(DmaSegment { len: 60, ..handle }, run.slice(0, 60).unwrap());
    assert_eq!(
        (book.counts().unknown, book.live()),
        (2, 1),
        "the whole is still mapped"
    );
}

#[test]
fn borrowed_transfers_leave_no_false_alarm() {
    let rig = Rig::coherent(8);
    let book: Book<'_> = Ledger::new(&rig.platform);
    let (_, device) = watched(&rig, &book, "usb", 1, PathKind::Needed, Coherence::Coherent);
    let live = device
        .bounce_to_device(&[1, 2, 3], NONE, |_| book.live())
        .unwrap();
    assert_eq!((live, book.live(), book.counts().total()), (1, 0, 0));
}
