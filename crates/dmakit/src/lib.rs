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
//! `cma` and `its` for the modules of these names.
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
//!     let mut request = CpuBuffer::from_segment(page, 512).ok_or("too short")?;
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
//!     let answer = CpuBuffer::from_segment(page, 64).ok_or("too short")?;
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
