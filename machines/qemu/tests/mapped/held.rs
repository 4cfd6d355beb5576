//! A buffer in a device's hands, in each way that there is.

use dmakit_addr::{Attributes, DirectionType};
use dmakit_dma::{
    Batch, Debt, DmaMemory, DmaSegment, LinkError, MapError, Mapping, PageWindow, ScatterList,
};
use dmakit_platform::CpuBuffer;
use dmakit_qemu::devices::{Lent, Steps};
use dmakit_qemu::pieces::Pieces;
use dmakit_qemu::smmu::QemuDevice;

use super::Policy;
use super::buffers::{PAGE, len};
use crate::disk::Random;

const NONE: Attributes = Attributes::NONE;

/// How a buffer is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A part of one page.
    Page,
    /// Contiguous memory.
    Single,
    /// A list of pages, joined as far as they follow one another for the device.
    Joined,
    /// A list of pages, told one by one.
    Apart,
    /// Addresses first, then each page.
    Request,
    /// Pages in any order.
    Window,
    Coherent,
    /// The memory of another device's controller.
    Peer,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Page,
        Self::Single,
        Self::Joined,
        Self::Apart,
        Self::Request,
        Self::Window,
        Self::Coherent,
        Self::Peer,
    ];

    /// Whether the memory is one piece.
    pub fn is_contiguous(self) -> bool {
        matches!(self, Self::Page | Self::Single)
    }
}

/// A buffer that the device may use.
pub enum Held<D: DirectionType> {
    Buffer(Mapping<D, CpuBuffer>),
    Joined(Mapping<D, Pieces>),
    Lent(Lent<D>),
    Window(PageWindow<D>, Pieces),
}

/// What is owed for buffers that were unmapped, by the device.
#[derive(Default)]
pub struct Owed {
    pub pieces: Vec<(usize, Debt<Pieces>)>,
    pub buffers: Vec<(usize, Debt<CpuBuffer>)>,
}

/// Unmaps that wait for a sync together.
pub struct Batches {
    pub pieces: Batch<Pieces>,
    pub buffers: Batch<CpuBuffer>,
}

/// Lends a buffer; says where the device finds it.
pub fn lend<D: DirectionType>(
    device: &QemuDevice<'_>,
    kind: Kind,
    pieces: Pieces,
    random: &mut Random,
) -> (Held<D>, Vec<DmaSegment>) {
    match kind {
        Kind::Page | Kind::Single => {
            let buffer = pieces.into_buffers().pop().unwrap();
            let mapping = device.map::<D>(buffer, NONE).unwrap();
            let whole = DmaSegment {
                addr: mapping.dma_addr(),
                len: mapping.len(),
            };
            (Held::Buffer(mapping), vec![whole])
        }
        Kind::Joined => {
            let mut segments = vec![DmaSegment::default(); pieces.buffers().len()];
            let mapping = device.map_scatter::<D, _>(pieces, NONE, &mut segments);
            let mapping = mapping.unwrap();
            segments.truncate(mapping.segment_count());
            (Held::Joined(mapping), segments)
        }
        Kind::Apart => {
            let mapping = device.map_request::<D, _>(pieces, NONE).unwrap();
            let segments = device.segments_apart(&mapping).unwrap().collect();
            (Held::Lent(Lent::Mapping(mapping)), segments)
        }
        Kind::Request => {
            let lent = Lent::new(device, Steps::Two, pieces);
            let lent = lent.map_err(|(error, _)| error).unwrap();
            let segments = lent.segments(device);
            (Held::Lent(lent), segments)
        }
        Kind::Window => link_in_any_order(device, pieces, random),
        Kind::Coherent | Kind::Peer => unreachable!("no streaming memory"),
    }
}

/// Opens a window, and links whole pages to it in any order.
fn link_in_any_order<D: DirectionType>(
    device: &QemuDevice<'_>,
    pieces: Pieces,
    random: &mut Random,
) -> (Held<D>, Vec<DmaSegment>) {
    let len = len(&pieces);
    let mut window = device.open_window::<D>(len, 1, NONE).unwrap();
    let mut order: Vec<_> = (0..).map(|at| at * PAGE).zip(pieces.runs()).collect();
    for left in (2..=order.len()).rev() {
        order.swap(left - 1, random.below(left as u64) as usize);
    }
    let mut segments: Vec<_> = order
        .into_iter()
        .map(|(at, page)| (at, device.link_page(&mut window, at, page).unwrap()))
        .collect();
    assert_eq!(window.linked(), len);
    device.announce_pages(&mut window, 0, len).unwrap();
    segments.sort_by_key(|(at, _)| *at);
    let mut segments: Vec<_> = segments.into_iter().map(|(_, segment)| segment).collect();
    if let Some(addr) = window.dma_addr(0) {
        segments = vec![DmaSegment { addr, len }];
    }
    (Held::Window(window, pieces), segments)
}

/// Whether a device has no window, because everything of it is copied; then that was said.
pub fn refuses_windows(device: &QemuDevice<'_>, pieces: &Pieces) -> bool {
    let page = pieces.runs().next().unwrap();
    let mut window = device
        .open_window::<dmakit_addr::ToDevice>(page.len(), 1, NONE)
        .unwrap();
    let linked = device.link_page(&mut window, 0, page);
    let is_refused = match linked {
        Ok(_) => {
            let debt = device.unlink_pages(&mut window, 0, page.len(), ()).unwrap();
            device.redeem(debt, &device.sync().unwrap()).unwrap();
            false
        }
        Err(LinkError::Map(MapError::WouldBounce(_))) => true,
        Err(error) => panic!("{error}"),
    };
    device.close_window(window).unwrap();
    is_refused
}

/// Unmaps a buffer: it is owed, or waits in a batch.
pub fn take<D: DirectionType>(
    (index, device): (usize, &QemuDevice<'_>),
    held: Held<D>,
    policy: Policy,
    batches: &mut Batches,
    owed: &mut Owed,
) {
    let waits = policy == Policy::Batched;
    match held {
        Held::Buffer(mapping) if waits && !mapping.is_bounced() => device
            .unmap_batched(&mut batches.buffers, mapping, |_| panic!("it waits"))
            .unwrap(),
        Held::Buffer(mapping) => {
            let debt = device.unmap(mapping).unwrap();
            owed.buffers.push((index, debt));
        }
        Held::Joined(mapping) => {
            let lent = Held::Lent(Lent::Mapping(mapping));
            take((index, device), lent, policy, batches, owed);
        }
        Held::Lent(lent) if waits && !lent.is_bounced() => lent
            .take_batched(device, &mut batches.pieces, |_| panic!("it waits"))
            .unwrap(),
        Held::Lent(lent) => {
            let Ok(debt) = lent.take(device) else {
                panic!("another device's");
            };
            owed.pieces.push((index, debt));
        }
        Held::Window(mut window, pieces) => {
            let len = window.linked();
            // All but the last page, then that: nobody has to keep an order.
            if len > PAGE {
                let debt = device.unlink_pages(&mut window, 0, len - PAGE, ());
                let proof = device.sync().unwrap();
                device.redeem(debt.unwrap(), &proof).unwrap();
            }
            let debt = device.unlink_pages(&mut window, len - PAGE, PAGE, pieces);
            owed.pieces.push((index, debt.unwrap()));
            device.close_window(window).unwrap();
        }
    }
}

/// A buffer by itself, as all others are.
pub fn alone(buffer: CpuBuffer) -> Pieces {
    ScatterList::new(vec![buffer]).unwrap()
}
