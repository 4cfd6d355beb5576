//! How entries of a table look.

use dmakit_addr::PhysAddr;

use crate::Geometry;

/// What a device may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only.
    Read,
    /// Write only, where the format can say so; else read and write.
    Write,
    /// Read and write.
    ReadWrite,
}

/// What lies behind a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Normal memory; the device's accesses look into the CPU's caches.
    Cached,
    /// Normal memory; the device's accesses go past the CPU's caches.
    Uncached,
    /// Registers: no gathering, no reordering, no early acknowledgement.
    Device,
}

/// What a mapping allows, and to what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// What the device may do.
    pub access: Access,
    /// What is mapped.
    pub memory: Memory,
    /// Whether only privileged accesses may use it.
    pub privileged: bool,
    /// Whether instructions may be fetched from it.
    pub executable: bool,
}

impl Permissions {
    /// Cached memory, to be read and written by anybody, executable.
    pub const READ_WRITE: Self = Self {
        access: Access::ReadWrite,
        memory: Memory::Cached,
        privileged: false,
        executable: true,
    };

    /// Cached memory, to be read by anybody, executable.
    pub const READ: Self = Self {
        access: Access::Read,
        ..Self::READ_WRITE
    };
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing: hardware faults here.
    Absent,
    /// Another table, at this address.
    Table(PhysAddr),
    /// Memory, from this address on; whether it is one of a contiguous group.
    Leaf(PhysAddr, bool),
}

/// A page-table format: a seam, so that the walker is written once.
///
/// All methods are pure; the walker calls `leaf` once for a run of equal entries and then only adds
/// to the address.
pub trait Format: Send + Sync {
    /// The shape of the tree.
    fn geometry(&self) -> &Geometry;

    /// The bits of a leaf entry at `height`, address excluded.
    fn leaf(&self, height: u32, permissions: Permissions) -> u64;

    /// The bits of an output address, a multiple of what a leaf at the smallest height maps. One below
    /// `2^48` stands in an entry as it is.
    fn address(&self, phys: PhysAddr) -> u64;

    /// An entry that refers to a table.
    fn table(&self, phys: PhysAddr) -> u64;

    /// What an entry of a table at `height` says.
    fn parse(&self, height: u32, entry: u64) -> Entry;

    /// Whether entries at `height` may be leaves.
    fn has_leaves(&self, height: u32) -> bool;

    /// Neighbouring leaves that hardware may cache as one, where the format has a hint for that and
    /// it is wanted: how many, a power of two, and the bit that says so.
    fn contiguous(&self, height: u32) -> Option<(usize, u64)>;

    /// Whether `entry` refers to anything. The same for every height of every format: bit 0, or
    /// whatever else the format says.
    #[inline]
    fn is_present(&self, entry: u64) -> bool {
        entry & 1 != 0
    }
}
