//! Contiguous areas: memory that is there when a device asks for much of it in one piece, and serves
//! others until then.
//!
//! An area is a reserved run of frames, or several, of one node. What is idle in it is lent to
//! movable memory; a claim takes a window of it back, and has whatever is in the way moved.
//!
//! # The stages of an area
//!
//! Each stage is a type that is made of the one before, so that nothing happens out of turn:
//!
//! 1. [`AreaParams`] holds what the boot line says: `cma=`, `cma_pernuma=`, `numa_cma=` and
//!    `hugetlb_cma=`, read whole or refused where they are wrong, and the size where none is given.
//! 2. [`reserve`] cuts [`Reserved`] frames out of a [`MemoryMap`](dmakit_phys::MemoryMap), each area
//!    on exactly its node, in the order that is asked; one that finds no room leaves the others
//!    alone.
//! 3. [`EarlyAreas`] give tables away before there is a page allocator. What they gave stays given.
//! 4. [`InactiveAreas::activate`] lends the idle frames to movable memory: [`Areas`].
//!
//! # Claims
//!
//! [`Areas::claim_free`] never sleeps and takes idle windows only. [`Areas::claim`] may sleep: it
//! clears the window from which the fewest frames have to move, knows beforehand what is pinned or
//! cannot move, keeps to a deadline, and names what was in the way where it fails. While it waits it
//! holds no lock. Frames go home by themselves: their area is found from their number.
//!
//! [`CoherentMemory`] serves devices from areas in a fixed order (the device's own, its node's, the
//! default one, pages) behind [`TableMemory`](dmakit_platform::TableMemory), and [`AreaPool`] lets
//! bounce pools grow on an area that is lent while they are small, behind
//! [`PoolMemory`](dmakit_platform::PoolMemory). Neither the mapping API nor a driver learns this
//! crate's name.
//!
//! ```
//! use dmakit_addr::{DmaMask, NodeId, Pfn, PfnRange};
//! use dmakit_cma::{AreaClaim, AreaParams, InactiveAreas, Outcome, Purpose, reserve};
//! use dmakit_phys::{
//!     ClaimLimits, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate, Migration,
//!     MovableMemory, MoverId, PageAllocator, Refusal, Refused, Region,
//! };
//! use dmakit_platform::Instant;
//! use dmakit_platform::host::HostPlatform;
//! use std::sync::Mutex;
//!
//! /// A page cache: a real one also copies the page and switches its references.
//! #[derive(Default)]
//! struct Cache(Mutex<Vec<Frames>>);
//!
//! impl Migrate for Cache {
//!     fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
//!         let mut pages = self.0.lock().unwrap();
//!         match pages.iter_mut().find(|page| page.range() == migration.from) {
//!             Some(page) => Ok(std::mem::replace(page, to)),
//!             None => Err(Refused { to, reason: Refusal::Gone }),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut map = MemoryMap::new(1);
//! let range = PfnRange::new(Pfn::new(0x10_0000), 0x4000)?;
//! map.add(Region { range, node: NodeId::new(0), kind: MemoryKind::Usable })?;
//!
//! let params = AreaParams { cma: Some("16M".parse()?), ..AreaParams::default() };
//! let requests = params.requests(&map, DmaMask::ALL);
//! let reserved = reserve(&mut map, &[], requests);
//! let reserved = reserved.into_iter().filter_map(|one| match one.outcome {
//!     Outcome::Reserved(area) => Some(area),
//!     _ => None,
//! });
//!
//! type Allocator = PageAllocator<HostPlatform, Vec<Frame>>;
//! let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
//! let allocator = Allocator::new(&map, &[], table)?;
//! let memory = MovableMemory::new(HostPlatform::new(1), allocator, Cache::default());
//! let (areas, failed) = InactiveAreas::new(reserved).activate(&memory);
//! assert!(failed.is_empty());
//!
//! // The cache borrows the area as soon as the rest is full.
//! while memory.allocator().free_frames() > 0x2000 {
//!     let page = memory.allocator().allocate(&FrameRequest::movable(1, MoverId::new(0)))?;
//!     memory.movers().0.lock().unwrap().push(page);
//! }
//!
//! // A device wants 4 MiB, aligned to 1 MiB, and waits for it if it must.
//! let area = areas.find(Purpose::Default).ok_or("no area")?;
//! let claim = AreaClaim { frames: 1024, align_order: 8, limit: DmaMask::ALL };
//! let limits = ClaimLimits { deadline: Instant::from_nanos(u64::MAX), tries: 3 };
//! let frames = areas.claim(area, &claim, &limits)?;
//! assert_eq!(areas.area_of(frames.range().start()), Some(area));
//! areas.release(frames)?;
//! # Ok(())
//! # }
//! ```
//!
//! The example `small_kernel` goes through all of it with real bytes, as a kernel would: boot line,
//! memory map, an early table, activation, a page cache that borrows, queues for a driver on each
//! node, a pin that leaves the areas, and everything back again. It uses `phys` and this crate by
//! their public interfaces only: `cargo run -p dmakit-cma --example small_kernel`.
//!
//! # The books
//!
//! [`Area`] knows which frames are claimed, and where the next claim fits: in a bounded number of
//! steps whatever the size and the fill, and just as fast where it fits nowhere. [`ClaimMap`] is that
//! search as a plain value. Alignment counts from frame 0, not from the base of the area, so that
//! what is aligned here is aligned for hardware.
//!
//! # Locks
//!
//! An area's lock and the page allocator's are leaves: neither is taken while the other is held, nor
//! held while anybody is asked to move. A search takes the lock of one area.
//!
//! Layer L1.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod areas;
mod bit_tree;
mod block;
mod claim_map;
mod coherent;
mod early;
mod filing;
mod param;
mod plan;
mod pool;
mod reserve;
mod run_tree;
mod sizing;
mod statistics;

pub use area::{Area, AreaError, AreaUse, ReleaseError};
pub use areas::{
    ActivateError, ActivateReason, AreaClaim, AreaClaimError, AreaId, AreaReleaseError, Areas,
    NoClaim,
};
pub use claim_map::{ClaimMap, NoWindow, NotClaimed, Scans};
pub use coherent::{CoherentMemory, DeviceArea, Waiting};
pub use early::{EarlyAreas, EarlyError, EarlyReason, InactiveAreas};
pub use param::{
    CmaParam, CmaPernumaParam, HugetlbCmaParam, NumaCmaParam, ParamError, ParamErrorKind, Parameter,
};
pub use plan::{AreaParams, AreaRequest, GiganticTurn, PerNode, Place, Purpose};
pub use pool::{AreaPool, AreaPoolConfig, PoolUpkeep};
pub use reserve::{Outcome, Reservation, ReserveReason, Reserved, reserve};
pub use sizing::{DefaultSize, SizeChoice};
pub use statistics::{AreaStatistics, CoherentStatistics, Skip, Step, StepStatistics};
