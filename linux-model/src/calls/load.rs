//! The calls themselves.

use dmakit_addr::Direction;

/// A flow of control whose events follow one another: a task wherever it runs, or one interrupt
/// level of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Flow {
    /// A task by its number.
    Task(u32),
    /// What a CPU does below tasks: its idle task, soft and hard interrupts.
    Cpu {
        /// The CPU.
        cpu: u32,
        /// 0 for its idle task, 1 for soft, 2 for hard interrupts.
        level: u8,
    },
}

/// What the calls were read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallSource {
    /// The `dma` events, which are the calls.
    Calls,
    /// The `iommu` events of a kernel without `dma` events: physical runs as they entered the
    /// tables, grouped by the unmap that ends them. Their input addresses are not used.
    Translations,
}

/// How a buffer was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferKind {
    /// Alone.
    Single,
    /// As a scatterlist.
    List,
    /// Allocated for the device.
    Coherent,
}

/// A physically contiguous part of a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its first byte; `None` where no event shows it.
    pub phys: Option<u64>,
    /// Its length; `None` where an IOMMU merged pieces and the event shows only the sum.
    pub bytes: Option<u64>,
}

/// Memory that was handed to a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Index into [`Calls::devices`].
    pub device: u32,
    /// Who writes.
    pub direction: Direction,
    /// How it was mapped.
    pub kind: BufferKind,
    /// Its parts in order, at least one.
    pub pieces: Vec<Piece>,
    /// What pieces of hidden length became together: where each segment begins within 64 KiB of memory,
    /// and its bytes. Empty where each piece shows its own.
    pub merged: Vec<(u64, u64)>,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Whether unmapping copies nothing back.
    pub skips_sync: bool,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallKind {
    /// [`Calls::buffers`]`[n]` is mapped.
    Map(u32),
    /// It is unmapped.
    Unmap(u32),
    /// Bytes of it are copied, if it is bounced.
    Sync {
        /// The buffer.
        buffer: u32,
        /// Bytes.
        bytes: u64,
    },
    /// Hardware was told to forget a whole domain (VT-d's events): when a lazy kernel's timer ran,
    /// no call shows.
    Flush {
        /// The domain's number.
        domain: u32,
    },
}

/// One call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// When its event was written.
    pub at_ns: u64,
    /// On which CPU.
    pub cpu: u32,
    /// By whom.
    pub flow: Flow,
    /// The index of its event.
    pub event: u64,
    /// What.
    pub kind: CallKind,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceCalls {
    /// Its name; a made-up one where the trace names none.
    pub name: String,
    /// Whether an IOMMU translates for it: some address that it got is not the physical one.
    pub is_translated: bool,
}

/// What drivers asked, in the most likely order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Calls {
    /// From which events.
    pub source: CallSource,
    /// The devices.
    pub devices: Vec<DeviceCalls>,
    /// What was mapped, in order of the map events.
    pub buffers: Vec<Buffer>,
    /// The order.
    pub order: Vec<Call>,
    /// Ends of something that was mapped before the recording.
    pub unmaps_unseen: u64,
    /// Buffers whose lengths no event shows in full.
    pub cut_lists: u64,
    /// Mapped ranges that overlapped another live one: domains that the trace cannot tell apart.
    pub mixed_domains: u64,
}

/// What the kernel answered.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RecordedTranslation {
    /// Device address of [`Calls::buffers`]`[n]`.
    pub dma: Vec<Option<u64>>,
    /// Segments that came out of a scatterlist: their lengths; empty for other buffers.
    pub segments: Vec<Vec<u64>>,
    /// The `iommu` events in recorded order.
    pub ops: Vec<RecordedOp>,
}

/// One recorded change of an IOMMU's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordedOp {
    /// The index of its event.
    pub event: u64,
    /// By whom.
    pub flow: Flow,
    /// On which CPU.
    pub cpu: u32,
    /// When.
    pub at_ns: u64,
    /// What.
    pub kind: RecordedOpKind,
}

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordedOpKind {
    /// A contiguous run entered.
    Map {
        /// Its first input address.
        iova: u64,
        /// What it translates to.
        phys: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A range left.
    Unmap {
        /// Its first input address.
        iova: u64,
        /// Bytes.
        bytes: u64,
    },
}

impl Calls {
    /// Whether a buffer's device is behind an IOMMU.
    pub fn is_translated(&self, buffer: u32) -> bool {
        let device = self.buffers[buffer as usize].device;
        self.devices[device as usize].is_translated
    }
}

impl Buffer {
    /// Its pieces with lengths; where only the sum is known, each is one granule and the last has
    /// the rest.
    pub fn runs(&self, granule: u64) -> Vec<(u64, u64)> {
        let is_known = self.pieces.iter().all(|piece| piece.bytes.is_some());
        let mut left = self.bytes;
        let count = self.pieces.len();
        let run = |(index, piece): (usize, &Piece)| {
            let phys = piece.phys.unwrap_or(0);
            let bytes = match piece.bytes {
                Some(bytes) if is_known => bytes,
                _ if index + 1 == count => left,
                _ => (granule - phys % granule).min(left),
            };
            left -= bytes.min(left);
            (phys, bytes)
        };
        self.pieces.iter().enumerate().map(run).collect()
    }
}
