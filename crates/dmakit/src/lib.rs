//! The DMA memory stack for systems written in Rust.
//!
//! A kernel, hypervisor, firmware or user-space driver links this crate, says where its RAM is, and
//! gets what drivers need to move bytes between the CPU and devices: mappings with the rules of
//! ownership and direction in their types, bounce buffers for devices that cannot or must not reach
//! a buffer itself, cache maintenance for devices that go past the CPU's caches, coherent memory.
//! It is `no_std` and has no globals, no threads and no clock of its own.
//!
//! | module | what it is for |
//! |---|---|
//! | [`addr`] | addresses, ranges, masks, directions, attributes: one type for each address space |
//! | [`platform`] | what an embedder supplies: the machine, RAM, buffers, memory providers |
//! | [`swiotlb`] | bounce pools that grow and shrink |
//! | [`iova`], [`io_pgtable`], [`iommu`] | device addresses, page tables, and the domains made of both |
//! | `smmuv3` | Arm's IOMMU, with the feature of that name |
//! | [`dma`] | the API that drivers call |
//! | `phys` | physical memory: map, page allocator by node, migration, pins |
//! | `cma` | contiguous areas: reserved at boot, lent to movable memory, claimed back |
//! | `its` | interrupt translation: tables from early memory, LPIs, doorbells |
//!
//! Features: `alloc` for buffers of many runs, `host` for RAM and a platform in a process, `phys`,
//! `cma`, `smmuv3` and `its` for the modules of these names.
//!
//! # A driver and its device
//!
//! Everything below runs in a process: `HostRam` is the machine's memory, and what a device would
//! do is done through its hardware side. On a kernel only the first part differs (see
//! `docs/porting.md`).
//!
//! ```
//! use std::error::Error;
//!
//! use dmakit::addr::{Attributes, DmaMask, FromDevice, PhysAddr, PhysRange, ToDevice};
//! use dmakit::dma::{BounceWhen, CoherentSource, Device, DeviceId, DeviceInfo, Path};
//! use dmakit::platform::CpuBuffer;
//! use dmakit::platform::host::{HostPlatform, HostRam};
//! use dmakit::swiotlb::{BounceConfig, BouncePool};
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     // The machine: 16 MiB of RAM below 4 GiB and 16 MiB above.
//!     let low = PhysRange::new(PhysAddr::new(0x8000_0000), 16 << 20)?;
//!     let high = PhysRange::new(PhysAddr::new(0x1_0000_0000), 16 << 20)?;
//!     let (ram, mut segments) = HostRam::new(&[low, high])?;
//!     let platform = HostPlatform::new(1);
//!
//!     // The embedder: a bounce pool in low memory, and a device with 32 address lines.
//!     let high_memory = segments.pop().ok_or("no high memory")?;
//!     let low_memory = segments.pop().ok_or("no low memory")?;
//!     let config = BounceConfig::default();
//!     let pool = BouncePool::new(platform.clone(), low_memory, &config)?;
//!     let mask = DmaMask::bits(32).ok_or("no such mask")?;
//!     let info = DeviceInfo::new(DeviceId::new(1), "0000:00:04.0", mask);
//!     let path = Path::Bounced {
//!         pool: &pool,
//!         id: pool.attach(None)?,
//!         when: BounceWhen::Needed,
//!     };
//!     let device = Device::<_>::new(platform, info, path, CoherentSource::None);
//!
//!     // The driver: a request in high memory, which the device cannot reach. Mapping takes the
//!     // buffer; until it is unmapped there is no way to its bytes.
//!     let (page, rest) = high_memory.split_at(4096).map_err(|_| "too little memory")?;
//!     let mut request = CpuBuffer::from_segment(page, 512).map_err(|_| "too short")?;
//!     request.write(0, b"read block 7");
//!     let request = device.map::<ToDevice>(request, Attributes::NONE)?;
//!     assert!(request.is_bounced());
//!
//!     // The device reads what it is told to. Its DMA addresses are physical ones here.
//!     let at = |addr: u64, len| PhysRange::new(PhysAddr::new(addr), len);
//!     let mut seen = [0; 12];
//!     let window = ram.hardware_window(at(request.dma_addr().raw(), 12)?);
//!     window.ok_or("the device faults")?.read(&mut seen);
//!     assert_eq!(&seen, b"read block 7");
//!
//!     // The answer, written by the device.
//!     let (page, _rest) = rest.split_at(4096).map_err(|_| "too little memory")?;
//!     let answer = CpuBuffer::from_segment(page, 64).map_err(|_| "too short")?;
//!     let answer = device.map::<FromDevice>(answer, Attributes::NONE)?;
//!     let window = ram.hardware_window(at(answer.dma_addr().raw(), 6)?);
//!     window.ok_or("the device faults")?.write(b"block!");
//!
//!     // Both are unmapped and still owed: one sync shows that the device can no longer reach
//!     // them, and pays both debts.
//!     let request = device.unmap(request)?;
//!     let answer = device.unmap_validated(answer, 6)?;
//!     let proof = device.sync()?;
//!     device.redeem(request, &proof)?;
//!     let answer = device.redeem(answer, &proof)?;
//!     let mut text = [0; 6];
//!     answer.read(0, &mut text);
//!     assert_eq!(&text, b"block!");
//!
//!     // Nothing is left behind.
//!     let stats = device.remove()?;
//!     assert_eq!((stats.mapped, stats.bounced, stats.live()), (2, 2, 0));
//!     Ok(())
//! }
//! ```
//!
//! # A ring that both use
//!
//! Descriptors live in coherent memory: zeroed, reachable, and never behind a reference.
//!
//! ```
//! use dmakit::dma::{CoherentError, Device, field};
//! use dmakit::addr::Attributes;
//! use dmakit::platform::{Barrier, Platform};
//! use zerocopy::{FromBytes, Immutable, IntoBytes};
//!
//! #[derive(FromBytes, IntoBytes, Immutable)]
//! #[repr(C)]
//! struct Descriptor {
//!     addr: u64,
//!     len: u32,
//!     flags: u32,
//! }
//!
//! fn post<P: Platform>(device: &Device<'_, P>, addr: u64, len: u32) -> Result<(), CoherentError> {
//!     let ring = device.alloc_coherent::<Descriptor>(256, Attributes::NONE)?;
//!     if let Some(slot) = device.view(&ring).and_then(|ring| ring.at(0)) {
//!         slot.store(field!(Descriptor, addr), addr);
//!         slot.store(field!(Descriptor, len), len);
//!         // The device may look as soon as the flag is set.
//!         device.barrier(Barrier::BeforeDevice);
//!         slot.store(field!(Descriptor, flags), 1);
//!     }
//!     // A real driver keeps the ring for as long as the device runs.
//!     let _ = device.free_coherent(ring);
//!     Ok(())
//! }
//! ```
//!
//! # Behind an IOMMU, written twice
//!
//! The embedder makes a domain of a space of addresses, a page table and the hardware that walks it,
//! here one that forgets at once. The driver's path is then [`Path::Translated`](dma::Path), and its
//! code is what it was. Both functions below send the same memory: the first hands over a list and
//! gets segments, the second links run after run to addresses that it reserved, and keeps 16 bytes.
//!
//! ```
//! use std::error::Error;
//!
//! use dmakit::addr::{
//!     Attributes, DmaMask, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange, ToDevice,
//! };
//! use dmakit::dma::{
//!     CoherentSource, Device, DeviceId, DeviceInfo, DmaSegment, Path, ScatterList, StrictDomain,
//!     Translate, Unchecked,
//! };
//! use dmakit::io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
//! use dmakit::io_pgtable::{PageTable, WalkCoherence};
//! use dmakit::iommu::{Domain, DomainId, Hardware, Invalidation, SyncError};
//! use dmakit::iova::{CpuCache, Policy, Space};
//! use dmakit::platform::host::{HostPlatform, HostRam, SegmentStore};
//! use dmakit::platform::{CpuBuffer, CpuSlot};
//! use dmakit::swiotlb::NoGrowth;
//!
//! type List = ScatterList<Vec<CpuBuffer>>;
//! type Dev<'m, T> = Device<'m, HostPlatform, NoGrowth, Unchecked, T>;
//!
//! /// With a list: as many segments as the device must be told of, written to the front of a slice.
//! fn send_list<T: Translate>(
//!     device: &Dev<'_, T>,
//!     list: List,
//!     start: impl FnOnce(&[DmaSegment]),
//! ) -> Result<List, Box<dyn Error>> {
//!     let mut segments = [DmaSegment::default(); 16];
//!     let mapping = device
//!         .map_scatter::<ToDevice, _>(list, Attributes::NONE, &mut segments)
//!         .map_err(|failure| failure.error)?;
//!     start(&segments[..mapping.segment_count()]);
//!     let debt = device.unmap(mapping).map_err(|refused| refused.error)?;
//!     let proof = device.sync()?;
//!     Ok(device.redeem(debt, &proof).map_err(|failure| failure.error)?)
//! }
//!
//! /// In two steps: reserve, link, seal; and the same debt at the end.
//! fn send_request<T: Translate>(
//!     device: &Dev<'_, T>,
//!     list: List,
//!     start: impl FnOnce(&[DmaSegment]),
//! ) -> Result<List, Box<dyn Error>> {
//!     let runs = || list.buffers().iter().flat_map(|buffer| buffer.runs().map(move |run| (run, buffer)));
//!     let (first, _) = runs().next().ok_or("an empty list")?;
//!     let len = runs().map(|(run, _)| run.len()).sum();
//!     let mut request = device.reserve::<ToDevice>(first.start(), len, 1, Attributes::NONE)?;
//!     let mut segments = Vec::new();
//!     let mut linker = device.linker(&mut request)?;
//!     for (run, buffer) in runs() {
//!         // A real driver cancels the request where this fails.
//!         segments.push(linker.link(run, buffer)?);
//!     }
//!     let sealed = device.seal(request).map_err(|unmoved| unmoved.error)?;
//!     // One segment behind an IOMMU; without one, those that linking gave.
//!     if let Some(one) = sealed.segment() {
//!         segments = vec![one];
//!     }
//!     start(&segments);
//!     let debt = device.destroy(sealed, list, segments.into_iter());
//!     let debt = debt.map_err(|unmoved| unmoved.error)?;
//!     let proof = device.sync()?;
//!     Ok(device.redeem(debt, &proof).map_err(|failure| failure.error)?)
//! }
//!
//! /// An IOMMU that remembers nothing.
//! struct Forgetful;
//!
//! impl Hardware for Forgetful {
//!     fn invalidate(&self, _: &Invalidation) -> Result<(), SyncError> {
//!         Ok(())
//!     }
//!
//!     fn invalidate_all(&self) -> Result<(), SyncError> {
//!         Ok(())
//!     }
//!
//!     fn sync(&self) -> Result<(), SyncError> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn Error>> {
//!     // The machine: RAM that a device with 32 address bits does not reach by itself.
//!     let range = PhysRange::new(PhysAddr::new(0x8_0000_0000), 16 << 20)?;
//!     let (ram, segments) = HostRam::new(&[range])?;
//!     let memory = SegmentStore::new();
//!     let mut segments = segments.into_iter();
//!     let segment = segments.next().ok_or("no memory")?;
//!     let (for_buffers, for_tables) = segment.split_at(8 << 20).map_err(|_| "too little")?;
//!     memory.add(NodeId::new(0), for_tables);
//!     let platform = HostPlatform::new(1);
//!
//!     // The embedder: a domain.
//!     let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never)?;
//!     let table = PageTable::new(format, platform.clone(), memory, None, WalkCoherence::Coherent)?;
//!     let aperture = IovaRange::new(Iova::new(0x1000), 1 << 40)?;
//!     let caches = [CpuSlot::<CpuCache>::default()];
//!     let space = Space::new(Granule::K4, aperture, Policy::TopDown, caches)?;
//!     let domain = Domain::new(DomainId(1), space, table, Forgetful);
//!     let mask = DmaMask::bits(32).ok_or("no such mask")?;
//!     let info = DeviceInfo::new(DeviceId::new(1), "0000:00:05.0", mask);
//!     let path = Path::Translated { domain: &domain, bounce: None };
//!     let device: Dev<'_, _> = Device::new(platform, info, path, CoherentSource::None);
//!
//!     // Two pages that do not follow one another, filled.
//!     let (one, rest) = for_buffers.split_at(4096).map_err(|_| "too little")?;
//!     let (_, rest) = rest.split_at(8192).map_err(|_| "too little")?;
//!     let (other, _) = rest.split_at(4096).map_err(|_| "too little")?;
//!     let buffers = [one, other].map(|page| CpuBuffer::from_segment(page, 4096));
//!     let mut buffers: Vec<_> = buffers.into_iter().flatten().collect();
//!     buffers.iter_mut().for_each(|buffer| drop(buffer.write(0, &[0x5a; 4096])));
//!     let list = ScatterList::new(buffers).map_err(|_| "too long")?;
//!
//!     // What the device does: it reads through the domain.
//!     let reads = |segments: &[DmaSegment]| {
//!         assert_eq!((segments.len(), segments[0].len), (1, 8192), "one range of addresses");
//!         for page in [0, 4096] {
//!             let at = Iova::new(segments[0].addr.raw() + page);
//!             let phys = domain.lookup(at).expect("mapped");
//!             let range = PhysRange::new(phys, 4096).expect("a page");
//!             let mut bytes = [0; 4096];
//!             ram.hardware_window(range).expect("RAM").read(&mut bytes);
//!             assert_eq!(bytes, [0x5a; 4096]);
//!         }
//!     };
//!     let list = send_list(&device, list, reads)?;
//!     let list = send_request(&device, list, reads)?;
//!     assert_eq!(list.buffers().len(), 2);
//!     assert_eq!(device.remove()?.live(), 0);
//!     Ok(())
//! }
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[doc(inline)]
pub use dmakit_addr as addr;
#[cfg(feature = "cma")]
#[doc(inline)]
pub use dmakit_cma as cma;
#[doc(inline)]
pub use dmakit_dma as dma;
#[doc(inline)]
pub use dmakit_io_pgtable as io_pgtable;
#[doc(inline)]
pub use dmakit_iommu as iommu;
#[doc(inline)]
pub use dmakit_iova as iova;
#[cfg(feature = "its")]
#[doc(inline)]
pub use dmakit_its as its;
#[cfg(feature = "phys")]
#[doc(inline)]
pub use dmakit_phys as phys;
#[doc(inline)]
pub use dmakit_platform as platform;
#[cfg(feature = "smmuv3")]
#[doc(inline)]
pub use dmakit_smmuv3 as smmuv3;
#[doc(inline)]
pub use dmakit_swiotlb as swiotlb;

// The page shows what compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/porting.md")]
pub struct Embedding;
