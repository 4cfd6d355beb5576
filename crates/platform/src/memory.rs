//! How lower crates are given memory, without learning who gives it.

use core::fmt;

use dmakit_addr::{DmaMask, NodeId};

use crate::Segment;

/// What memory is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRequest {
    /// Bytes, contiguous; more than zero.
    pub len: u64,
    /// Alignment of the first byte, a power of two in bytes.
    pub align: u64,
    /// Where it should lie; another node will do unless the provider says otherwise.
    pub node: Option<NodeId>,
    /// The highest physical byte it may reach.
    pub limit: DmaMask,
}

/// No memory of the wanted kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory {
    /// What was asked.
    pub request: SegmentRequest,
    /// The largest aligned run under the limit that is free, in bytes, where the provider knows.
    pub largest_free: Option<u64>,
}

impl fmt::Display for NoMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentRequest {
            len, align, limit, ..
        } = self.request;
        write!(
            f,
            "no {len} contiguous bytes aligned to {align} at or below {limit}"
        )?;
        match self.largest_free {
            Some(largest) => write!(f, "; the largest free run has {largest}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for NoMemory {}

/// Memory for what hardware reads by itself: page tables, queues, device tables, coherent blocks.
///
/// Early memory, the page allocator, contiguous areas and the DMA API all stand behind it. It never
/// sleeps, unless the provider says that it may: such a one is for coherent blocks and queues, not
/// for page tables, which are allocated in interrupts.
pub trait TableMemory {
    /// An owned, zeroed segment as asked, its zeroes cleaned to memory.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing has changed then.
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory>;

    /// As [`allocate_table`](Self::allocate_table), with undefined contents, for whoever writes all
    /// of it before a device can reach it. Unless the provider can do better it is zeroed.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing has changed then.
    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        self.allocate_table(request)
    }

    /// Takes a whole segment back that this provider gave. No device may still reach it.
    fn free_table(&self, segment: Segment);
}

/// Memory by which bounce pools grow. It may sleep, move other memory away and take its time.
pub trait PoolMemory {
    /// An owned segment as asked; its contents are undefined.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing has changed then.
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory>;

    /// Takes a whole segment back that this provider gave. It is private again, and zeroed.
    fn free_pool(&self, segment: Segment);
}

/// No memory for tables: what a driver is left with between two providers, so that the first can end
/// before the second begins.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoTables;

impl TableMemory for NoTables {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        Err(NoMemory {
            request: *request,
            largest_free: None,
        })
    }

    /// Nothing came from here: the segment leaks.
    fn free_table(&self, segment: Segment) {
        debug_assert!(false, "{segment:?} from elsewhere");
    }
}

impl<M: TableMemory + ?Sized> TableMemory for &M {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        (**self).allocate_table(request)
    }

    fn allocate_unwritten(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        (**self).allocate_unwritten(request)
    }

    fn free_table(&self, segment: Segment) {
        (**self).free_table(segment);
    }
}

impl<M: PoolMemory + ?Sized> PoolMemory for &M {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        (**self).allocate_pool(request)
    }

    fn free_pool(&self, segment: Segment) {
        (**self).free_pool(segment);
    }
}
