//! Memory that a device and the CPU use at the same time.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use dmakit_addr::{Address, DmaAddr, DmaRange, PhysAddr};
use dmakit_platform::{Segment, TableMemory, Window};
use dmakit_swiotlb::CoherentSlots;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::DeviceId;

/// Where a device's coherent memory comes from.
#[derive(Clone, Copy, Default)]
pub enum CoherentSource<'m> {
    /// Nowhere: allocation is refused.
    #[default]
    None,
    /// Memory that the CPU uses through its caches: for coherent devices only.
    Cached(&'m (dyn TableMemory + Sync)),
    /// Memory that the CPU uses past its caches: for any device. The embedder mapped it so.
    Uncached(&'m (dyn TableMemory + Sync)),
    /// The bounce pool of the device's path: a restricted pool, outside which the device reaches
    /// nothing. The CPU uses it through its caches: for coherent devices only.
    Pool,
}

impl fmt::Debug for CoherentSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Cached(_) => "Cached",
            Self::Uncached(_) => "Uncached",
            Self::Pool => "Pool",
        })
    }
}

/// A type of which every byte pattern is a value, without padding or hidden mutability: what may
/// stand in memory that a device writes. For repr(C) structs, derive the three from `zerocopy`.
pub trait DeviceShared: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> DeviceShared for T {}

/// Where a block goes when it is freed, recorded when it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// The device's provider of coherent memory.
    Source,
    /// A pool of small blocks: which chunk.
    Blocks { chunk: u32 },
    /// A pool of pages: which chunk.
    Pages { chunk: u32 },
}

/// The memory of a block.
pub(crate) enum Memory {
    /// The block owns it.
    Owned(Segment),
    /// It lies in the bounce pool of the device's path.
    Slots(CoherentSlots),
}

/// A block of coherent memory that holds `count` values of `T`, one after the other.
///
/// The device may write any of it at any moment. So there is no reference to what it holds: values
/// are copied out once, whole or field by field, and then checked. The token owns the memory and
/// holds no reference to where it came from; dropping it leaks the block.
#[must_use = "a dropped block leaks; free it where it came from"]
pub struct Coherent<T> {
    pub(crate) memory: Memory,
    pub(crate) dma: DmaRange,
    pub(crate) count: usize,
    pub(crate) home: Home,
    pub(crate) device: DeviceId,
    pub(crate) values: PhantomData<fn() -> T>,
}

impl<T> Coherent<T> {
    /// The address to tell the device.
    #[inline]
    pub fn dma_addr(&self) -> DmaAddr {
        self.dma.start()
    }

    /// How many values it holds.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The DMA addresses of its bytes.
    pub fn dma_range(&self) -> DmaRange {
        self.dma
    }

    /// The memory and everything else, where the block owns its memory.
    pub(crate) fn into_parts(self) -> Result<(Segment, Rest<T>), Self> {
        let rest = Rest {
            dma: self.dma,
            count: self.count,
            home: self.home,
            device: self.device,
            values: PhantomData,
        };
        match self.memory {
            Memory::Owned(segment) => Ok((segment, rest)),
            Memory::Slots(_) => Err(self),
        }
    }
}

/// A coherent block without its memory.
pub(crate) struct Rest<T> {
    dma: DmaRange,
    count: usize,
    home: Home,
    device: DeviceId,
    values: PhantomData<fn() -> T>,
}

impl<T> Rest<T> {
    pub(crate) fn with(self, segment: Segment) -> Coherent<T> {
        Coherent {
            memory: Memory::Owned(segment),
            dma: self.dma,
            count: self.count,
            home: self.home,
            device: self.device,
            values: PhantomData,
        }
    }

    /// What must be known of `segment`, the block's memory, to cut it up.
    pub(crate) fn origin(&self, segment: &Segment) -> Origin {
        Origin {
            phys: segment.range().start(),
            dma: self.dma,
            device: self.device,
        }
    }
}

/// What must be known of a block from a device's source to cut it up and to put it together again.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    phys: PhysAddr,
    dma: DmaRange,
    device: DeviceId,
}

impl Origin {
    /// A block made of `segment`, a part of the whole.
    pub(crate) fn block<T>(&self, segment: Segment, count: usize, home: Home) -> Coherent<T> {
        let range = segment.range();
        let offset = range.start().offset_from(self.phys);
        let dma = offset.and_then(|offset| self.dma.slice(offset, range.len()));
        Coherent {
            memory: Memory::Owned(segment),
            // A part of the whole lies inside it.
            dma: dma.unwrap_or(self.dma),
            count,
            home,
            device: self.device,
            values: PhantomData,
        }
    }

    /// The block that was cut up.
    pub(crate) fn whole(&self, segment: Segment) -> Coherent<u8> {
        let count = self.dma.len() as usize;
        self.block(segment, count, Home::Source)
    }
}

impl<T: DeviceShared> Coherent<T> {
    /// The DMA address of the value at `index`, or `None` past the last.
    pub fn dma_addr_of(&self, index: usize) -> Option<DmaAddr> {
        if index >= self.count {
            return None;
        }
        let len = size_of::<T>() as u64;
        self.dma
            .slice(index as u64 * len, len)
            .map(|one| one.start())
    }
}

impl<T> fmt::Debug for Coherent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Coherent({} of {}, {} values)",
            self.dma, self.device, self.count
        )
    }
}

/// The values of a coherent block, seen by way of its device: see
/// [`Device::view`](crate::Device::view).
pub struct CoherentView<'a, T> {
    pub(crate) window: Window<'a>,
    pub(crate) count: usize,
    pub(crate) values: PhantomData<fn() -> T>,
}

impl<'a, T: DeviceShared> CoherentView<'a, T> {
    /// How many values there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first byte, for interfaces that want a pointer; see [`Window::as_ptr`].
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.window.as_ptr()
    }

    /// The value at `index`, or `None` past the last.
    #[inline]
    pub fn at(&self, index: usize) -> Option<Shared<'a, T>> {
        if index >= self.count {
            return None;
        }
        let len = size_of::<T>() as u64;
        let window = self.window.slice(index as u64 * len, len)?;
        Some(Shared {
            window,
            value: PhantomData,
        })
    }
}

impl<T> fmt::Debug for CoherentView<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoherentView({:?}, {} values)", self.window, self.count)
    }
}

/// The place of a field of type `F` in a `T`. Made by [`field!`](crate::field), which finds out
/// both.
pub struct Field<T, F> {
    offset: usize,
    types: PhantomData<fn(T) -> F>,
}

impl<T, F> Clone for Field<T, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, F> Copy for Field<T, F> {}

impl<T, F> Field<T, F> {
    /// The field at `offset`; the second argument only says its type.
    ///
    /// # Panics
    /// Where the field would not lie inside `T`; in a constant, when it is compiled.
    pub const fn new(offset: usize, _: fn(&T) -> &F) -> Self {
        assert!(offset <= size_of::<T>() && size_of::<F>() <= size_of::<T>() - offset);
        Self {
            offset,
            types: PhantomData,
        }
    }
}

/// The [`Field`] of a struct by its name: `field!(Descriptor, status)`.
#[macro_export]
macro_rules! field {
    ($struct:ty, $field:ident) => {
        $crate::Field::new(
            ::core::mem::offset_of!($struct, $field),
            |value: &$struct| &value.$field,
        )
    };
}

/// One value in coherent memory, shared with the device.
///
/// Fields of 1, 2, 4 and 8 bytes that are aligned to their size are read and written in one access,
/// never torn and never twice. Others, and whole values, are copied once, bytewise: the device may
/// write in between. Nothing here orders accesses; [`Device::barrier`](crate::Device::barrier) does.
pub struct Shared<'a, T> {
    window: Window<'a>,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<T: DeviceShared> Shared<'_, T> {
    /// A copy of the whole value.
    pub fn read(&self) -> T {
        let mut value = T::new_zeroed();
        read_once(self.window, value.as_mut_bytes());
        value
    }

    /// Overwrites the whole value.
    pub fn write(&self, value: &T) {
        write_once(self.window, value.as_bytes());
    }

    /// A copy of one field.
    #[inline]
    pub fn load<F: DeviceShared>(&self, field: Field<T, F>) -> F {
        let mut value = F::new_zeroed();
        if let Some(window) = self.place(field) {
            read_once(window, value.as_mut_bytes());
        }
        value
    }

    /// Overwrites one field.
    #[inline]
    pub fn store<F: DeviceShared>(&self, field: Field<T, F>, value: F) {
        if let Some(window) = self.place(field) {
            write_once(window, value.as_bytes());
        }
    }

    /// Always inside: `Field::new` checked.
    #[inline]
    fn place<F>(&self, field: Field<T, F>) -> Option<Window<'_>> {
        self.window
            .slice(field.offset as u64, size_of::<F>() as u64)
    }
}

#[inline]
fn read_once(window: Window<'_>, bytes: &mut [u8]) {
    let order = Ordering::Relaxed;
    match bytes.len() {
        1 => bytes[0] = window.bytes()[0].load(order),
        2 => match window.words16() {
            Some(words) => bytes.copy_from_slice(&words[0].load(order).to_ne_bytes()),
            None => window.read(bytes),
        },
        4 => match window.words32() {
            Some(words) => bytes.copy_from_slice(&words[0].load(order).to_ne_bytes()),
            None => window.read(bytes),
        },
        8 => match window.words64() {
            Some(words) => bytes.copy_from_slice(&words[0].load(order).to_ne_bytes()),
            None => window.read(bytes),
        },
        _ => window.read(bytes),
    }
}

#[inline]
fn write_once(window: Window<'_>, bytes: &[u8]) {
    let order = Ordering::Relaxed;
    match *bytes {
        [a] => window.bytes()[0].store(a, order),
        [a, b] => match window.words16() {
            Some(words) => words[0].store(u16::from_ne_bytes([a, b]), order),
            None => window.write(bytes),
        },
        [a, b, c, d] => match window.words32() {
            Some(words) => words[0].store(u32::from_ne_bytes([a, b, c, d]), order),
            None => window.write(bytes),
        },
        [a, b, c, d, e, f, g, h] => match window.words64() {
            Some(words) => words[0].store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), order),
            None => window.write(bytes),
        },
        _ => window.write(bytes),
    }
}
