//! Device registers.

/// One device's register region, little-endian, offsets in bytes.
///
/// Real registers, a socket to a device model and a model in the process all stand behind it, so
/// drivers never hold a pointer to registers. Offsets must be naturally aligned and inside the
/// region: a driver knows its region's size before it makes one.
pub trait Mmio {
    /// Reads 32 bits.
    fn read32(&self, offset: u64) -> u32;

    /// Reads 64 bits, in one access.
    fn read64(&self, offset: u64) -> u64;

    /// Writes 32 bits. The write may be posted: a read from the same region completes it.
    fn write32(&self, offset: u64, value: u32);

    /// Writes 64 bits, in one access. The write may be posted.
    fn write64(&self, offset: u64, value: u64);
}
