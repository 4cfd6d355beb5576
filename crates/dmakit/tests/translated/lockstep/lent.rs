//! Memory in a device's hands, whichever way its bytes move.

use dmakit::addr::{Attributes, Bidirectional, Direction, DirectionType, FromDevice, ToDevice};
use dmakit::dma::{
    Batch, Debt, DmaMemory, DmaSegment, Mapping, Request, ScatterList, Sealed, Translate,
};
use dmakit::platform::CpuBuffer;

use crate::rig::TestDevice;

const NONE: Attributes = Attributes::NONE;

pub type List = ScatterList<Vec<CpuBuffer>>;

/// One of three, by direction.
pub enum Way<A, B, C> {
    To(A),
    From(B),
    Both(C),
}

pub type Mapped =
    Way<Mapping<ToDevice, List>, Mapping<FromDevice, List>, Mapping<Bidirectional, List>>;
pub type Linked = Way<Sealed<ToDevice>, Sealed<FromDevice>, Sealed<Bidirectional>>;

macro_rules! each {
    ($way:expr, $token:pat => $act:expr) => {
        match $way {
            Way::To($token) => $act,
            Way::From($token) => $act,
            Way::Both($token) => $act,
        }
    };
}

/// Maps a list in one step.
pub fn map<T: Translate>(
    device: &TestDevice<'_, T>,
    way: Direction,
    list: List,
    segments: &mut [DmaSegment],
) -> (Mapped, usize) {
    let mapped = match way {
        Direction::ToDevice => Way::To(device.map_scatter(list, NONE, segments).unwrap()),
        Direction::FromDevice => Way::From(device.map_scatter(list, NONE, segments).unwrap()),
        Direction::Bidirectional => Way::Both(device.map_scatter(list, NONE, segments).unwrap()),
    };
    let count = each!(&mapped, mapping => mapping.segment_count());
    (mapped, count)
}

fn link_as<T: Translate, D: DirectionType>(device: &TestDevice<'_, T>, list: &List) -> Sealed<D> {
    let first = list.runs().next().unwrap().start();
    let len = list.runs().map(|run| run.len()).sum();
    let mut request = device.reserve::<D>(first, len, 1, NONE).unwrap();
    device.link_memory(&mut request, list, |_| ()).unwrap();
    device.seal(request).unwrap()
}

/// Links a list in two steps.
pub fn link<T: Translate>(
    device: &TestDevice<'_, T>,
    way: Direction,
    list: &List,
) -> (Linked, DmaSegment) {
    let linked = match way {
        Direction::ToDevice => Way::To(link_as(device, list)),
        Direction::FromDevice => Way::From(link_as(device, list)),
        Direction::Bidirectional => Way::Both(link_as(device, list)),
    };
    let segment = each!(&linked, sealed => sealed.segment().unwrap());
    (linked, segment)
}

pub fn unmap<T: Translate>(device: &TestDevice<'_, T>, mapped: Mapped) -> Debt<List> {
    each!(mapped, mapping => device.unmap(mapping).unwrap())
}

pub fn destroy<T: Translate>(device: &TestDevice<'_, T>, linked: Linked, list: List) -> Debt<List> {
    let none = core::iter::empty();
    each!(linked, sealed => device.destroy(sealed, list, none).unwrap())
}

pub fn unmap_batched<T: Translate>(
    device: &TestDevice<'_, T>,
    batch: &mut Batch<List>,
    mapped: Mapped,
    give: impl FnMut(List),
) {
    each!(mapped, mapping => device.unmap_batched(batch, mapping, give).unwrap());
}

pub fn destroy_batched<T: Translate>(
    device: &TestDevice<'_, T>,
    batch: &mut Batch<List>,
    linked: Linked,
    list: List,
    give: impl FnMut(List),
) {
    let none = core::iter::empty();
    each!(linked, sealed => {
        let ended = device.destroy_batched(batch, sealed, list, none, give);
        ended.unwrap().unwrap();
    });
}

/// Lets the CPU look at a mapping, and overwrite all of it where it may; back to the device.
pub fn look<T: Translate>(
    device: &TestDevice<'_, T>,
    mapped: Mapped,
    mut seen: impl FnMut(&[u8]),
    news: &[u8],
) -> Mapped {
    let mut bytes = vec![0; news.len()];
    match mapped {
        Way::To(mapping) => {
            let mut mapping = mapping.withdraw();
            assert_eq!(mapping.write(0, news), news.len());
            Way::To(device.sync_for_device(mapping).unwrap())
        }
        Way::From(mapping) => {
            let mapping = device.sync_for_cpu(mapping).unwrap();
            mapping.read(0, &mut bytes);
            seen(&bytes);
            Way::From(mapping.resubmit())
        }
        Way::Both(mapping) => {
            let mut mapping = device.sync_for_cpu(mapping).unwrap();
            mapping.read(0, &mut bytes);
            seen(&bytes);
            assert_eq!(mapping.write(0, news), news.len());
            Way::Both(device.sync_for_device(mapping).unwrap())
        }
    }
}

fn take_tail<T: Translate, D: DirectionType>(
    device: &TestDevice<'_, T>,
    sealed: Sealed<D>,
    from: u64,
    tail: List,
) -> (Request<D>, Debt<List>) {
    let mut request = sealed.reopen();
    let none = core::iter::empty();
    let debt = device.unlink_tail(&mut request, from, tail, none).unwrap();
    (request, debt)
}

/// Takes the tail of what is linked away, lets `change` have it, and links it again.
pub fn relink<T: Translate>(
    device: &TestDevice<'_, T>,
    linked: Linked,
    from: u64,
    tail: List,
    change: impl FnOnce(Debt<List>) -> List,
) -> (Linked, List) {
    macro_rules! again {
        ($sealed:expr) => {{
            let (mut request, debt) = take_tail(device, $sealed, from, tail);
            let tail = change(debt);
            device.link_memory(&mut request, &tail, |_| ()).unwrap();
            (device.seal(request).unwrap(), tail)
        }};
    }
    match linked {
        Way::To(sealed) => {
            let (sealed, tail) = again!(sealed);
            (Way::To(sealed), tail)
        }
        Way::From(sealed) => {
            let (sealed, tail) = again!(sealed);
            (Way::From(sealed), tail)
        }
        Way::Both(sealed) => {
            let (sealed, tail) = again!(sealed);
            (Way::Both(sealed), tail)
        }
    }
}
