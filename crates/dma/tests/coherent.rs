//! Coherent memory.

mod rig;

use dmakit_addr::{Attributes, BoundaryMask, DmaMask};
use dmakit_dma::{
    BlockLayout, Coherence, CoherentError, CoherentSource, Device, DeviceInfo, DmaPool, PoolChunk,
    field,
};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_sim::SimDevice;
use rig::{Forgetful, LOW, PathKind, RAM_BYTES, Rig, pattern};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A descriptor as a network card might have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    addr: u64,
    len: u32,
    index: u16,
    flags: u8,
    status: u8,
    tag: [u8; 3],
    odd: zerocopy::little_endian::U32,
    last: u8,
}

const NONE: Attributes = Attributes::NONE;

fn device(rig: &Rig) -> (SimDevice, Device<'_, Forgetful>) {
    let (sim, info) = rig.device(1, 64, Coherence::Coherent);
    (sim, rig.attach(info, PathKind::Direct))
}

fn device_with<'r>(
    rig: &'r Rig,
    coherent: CoherentSource<'r>,
    change: impl FnOnce(&mut DeviceInfo<'_>),
) -> Device<'r, Forgetful> {
    let (_, mut info) = rig.device(1, 64, Coherence::Coherent);
    change(&mut info);
    Device::new(
        rig.platform.clone(),
        info,
        rig.path(PathKind::Always),
        coherent,
    )
}

#[test]
fn device_and_cpu_see_the_same_fields() {
    let rig = Rig::coherent(1);
    let (sim, device) = device(&rig);
    let ring = device.alloc_coherent::<Descriptor>(200, NONE).unwrap();
    let view = device.view(&ring).unwrap();
    let one = view.at(3).unwrap();
    assert_eq!(one.read().as_bytes(), [0; 24], "it begins zeroed");
    one.store(field!(Descriptor, addr), 0x1122_3344_5566_7788);
    one.store(field!(Descriptor, len), 0xaabb_ccdd);
    one.store(field!(Descriptor, index), 0x0102);
    one.store(field!(Descriptor, status), 0x7e);
    one.store(field!(Descriptor, tag), [1, 2, 3]);
    one.store(field!(Descriptor, odd), 0x0a0b_0c0d.into());
    let mut seen = [0; 24];
    let addr = ring.dma_addr_of(3).unwrap();
    assert_eq!(addr.raw(), ring.dma_addr().raw() + 72);
    sim.read(addr, &mut seen).unwrap();
    let expected = [
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xdd, 0xcc, 0xbb, 0xaa, 2, 1, 0, 0x7e, 1,
        2, 3, 0xd, 0xc, 0xb, 0xa, 0,
    ];
    assert_eq!(seen, expected);
    sim.write(addr, &pattern(1, 24)).unwrap();
    let whole = one.read();
    assert_eq!(whole.as_bytes(), pattern(1, 24));
    assert_eq!(one.load(field!(Descriptor, addr)), whole.addr);
    assert_eq!(one.load(field!(Descriptor, len)), whole.len);
    assert_eq!(one.load(field!(Descriptor, index)), whole.index);
    assert_eq!(one.load(field!(Descriptor, flags)), whole.flags);
    assert_eq!(one.load(field!(Descriptor, tag)), whole.tag);
    assert_eq!(one.load(field!(Descriptor, odd)), whole.odd);
    assert!(view.at(200).is_none() && ring.dma_addr_of(200).is_none());
    view.at(199).unwrap().write(&whole);
    device.free_coherent(ring).unwrap();
    assert_eq!(rig.memory.outstanding_bytes(), 2 << 20, "the bounce pool's");
}

#[test]
fn coherent_memory_obeys_its_own_mask_and_its_alignment() {
    let rig = Rig::coherent(2);
    let low = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    let device = device_with(&rig, CoherentSource::Cached(&rig.memory), |info| {
        info.coherent_mask = low;
    });
    for len in [1_usize, 4097, 70_000] {
        let block = device.alloc_coherent::<u8>(len, NONE).unwrap();
        let align = (len as u64).next_multiple_of(4096).next_power_of_two();
        assert_eq!(block.dma_addr().raw() % align, 0);
        assert!(low.reaches(&block.dma_range()));
        device.free_coherent(block).unwrap();
    }
    let narrow = device_with(&rig, CoherentSource::Cached(&rig.memory), |info| {
        info.coherent_mask = DmaMask::up_to(LOW);
    });
    let refused = narrow.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert_eq!(
        refused,
        CoherentError::NoReach {
            reach: DmaMask::up_to(LOW)
        }
    );
}

#[test]
fn what_cannot_be_coherent_is_refused() {
    let rig = Rig::non_coherent(3);
    let (_, info) = rig.device(1, 64, Coherence::NonCoherent);
    let make = |source| {
        Device::new(
            rig.platform.clone(),
            info,
            rig.path(PathKind::Direct),
            source,
        )
    };
    let cached = make(CoherentSource::Cached(&rig.memory));
    assert_eq!(
        cached.alloc_coherent::<u8>(1, NONE).unwrap_err(),
        CoherentError::NotCoherent
    );
    // The memory is what the embedder says it is.
    let uncached = make(CoherentSource::Uncached(&rig.memory));
    let block = uncached.alloc_coherent::<u8>(1, NONE).unwrap();
    assert!(
        cached.free_coherent(block).is_ok(),
        "one device, two handles"
    );
    let bare = make(CoherentSource::None);
    assert_eq!(
        bare.alloc_coherent::<u8>(1, NONE).unwrap_err(),
        CoherentError::NoSource
    );
    let refused = uncached
        .alloc_coherent::<u64>(usize::MAX, NONE)
        .unwrap_err();
    assert_eq!(
        refused,
        CoherentError::TooLarge {
            count: usize::MAX,
            size: 8
        }
    );
    assert_eq!(
        uncached.alloc_coherent::<u8>(0, NONE).unwrap_err(),
        CoherentError::Empty
    );
    for attributes in [
        Attributes::MMIO,
        Attributes::SKIP_CPU_SYNC,
        Attributes::from_bits(1 << 13),
    ] {
        let refused = uncached.alloc_coherent::<u8>(1, attributes).unwrap_err();
        assert_eq!(refused, CoherentError::Attributes(attributes));
    }
    let licences =
        Attributes::WRITE_COMBINE | Attributes::ALLOC_SINGLE_PAGES | Attributes::PRIVILEGED;
    let block = uncached.alloc_coherent::<u8>(1, licences).unwrap();
    uncached.free_coherent(block).unwrap();
}

#[test]
fn a_block_goes_home_and_nowhere_else() {
    let rig = Rig::coherent(4);
    let (_, one) = device(&rig);
    let (_, info) = rig.device(2, 64, Coherence::Coherent);
    let other = rig.attach(info, PathKind::Direct);
    let block = one.alloc_coherent::<u32>(4, NONE).unwrap();
    assert!(other.view(&block).is_none());
    let refused = other.free_coherent(block).unwrap_err();
    assert_eq!(refused.owner, one.info().id);
    let layout = BlockLayout::new(64, 64, BoundaryMask::NONE).unwrap();
    let pool = DmaPool::new(&one, layout, vec![PoolChunk::default()]);
    assert_eq!(pool.refill(&one, 1), Ok(1));
    let refused = pool.free(refused.block).unwrap_err();
    one.free_coherent(refused.block).unwrap();
    let small = pool.alloc::<u64>().unwrap();
    let refused = one.free_coherent(small).unwrap_err();
    pool.free(refused.block).unwrap();
    pool.destroy(&one).unwrap();
    assert_eq!(one.remove().unwrap().coherent_live(), 0);
}

#[test]
fn a_restricted_device_gets_coherent_memory_from_its_pool() {
    let rig = Rig::coherent(5);
    let (sim, info) = rig.device(1, 64, Coherence::Coherent);
    let device = Device::new(
        rig.platform.clone(),
        info,
        rig.path(PathKind::Always),
        CoherentSource::Pool,
    );
    let ring = device.alloc_coherent::<Descriptor>(300, NONE).unwrap();
    assert_eq!(ring.dma_addr().raw() % 8192, 0, "naturally aligned");
    assert!(rig.pool.used() > 0);
    device
        .view(&ring)
        .unwrap()
        .at(299)
        .unwrap()
        .store(field!(Descriptor, last), 9);
    let mut seen = [0];
    sim.read(
        dmakit_addr::DmaAddr::new(ring.dma_addr().raw() + 24 * 300 - 1),
        &mut seen,
    )
    .unwrap();
    assert_eq!(seen, [9]);
    device.free_coherent(ring).unwrap();
    assert_eq!(rig.pool.used(), 0);
    let pool = DmaPool::new(
        &device,
        BlockLayout::new(64, 64, BoundaryMask::NONE).unwrap(),
        vec![PoolChunk::default()],
    );
    assert_eq!(pool.refill(&device, 1), Err(CoherentError::Indivisible));
}

/// A provider that does not look at what it is asked.
struct Careless(std::sync::Mutex<Vec<Segment>>);

impl TableMemory for Careless {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let none = NoMemory {
            request: *request,
            largest_free: None,
        };
        self.0.lock().unwrap().pop().ok_or(none)
    }

    fn free_table(&self, segment: Segment) {
        self.0.lock().unwrap().push(segment);
    }
}

#[test]
fn what_a_careless_provider_gives_is_checked_and_goes_back() {
    let rig = Rig::coherent(14);
    let careless = Careless(std::sync::Mutex::new(vec![rig.segment(8192, true)]));
    let low = DmaMask::up_to(LOW + 0x4000_0000 + RAM_BYTES - 1);
    let device = device_with(&rig, CoherentSource::Cached(&careless), |info| {
        info.coherent_mask = low;
    });
    let refused = device.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert!(matches!(refused, CoherentError::OutOfReach { reach, .. } if reach == low));
    assert_eq!(careless.0.lock().unwrap().len(), 1);

    // A bus that shifts by less than a page: aligned for the CPU is not aligned for the device.
    let whole = careless.0.lock().unwrap()[0].range();
    let ranges = [dmakit_dma::BusRange {
        phys: whole,
        dma: dmakit_addr::DmaAddr::new(0x1_0200),
    }];
    let device = device_with(&rig, CoherentSource::Cached(&careless), |info| {
        info.bus = dmakit_dma::BusMap::new(Vec::leak(ranges.into())).unwrap();
    });
    let refused = device.alloc_coherent::<u8>(1, NONE).unwrap_err();
    assert!(
        matches!(refused, CoherentError::Misaligned { align: 4096, .. }),
        "{refused}"
    );
    assert_eq!(careless.0.lock().unwrap().len(), 1);
    assert_eq!(device.stats().coherent_allocated, 0);
}
