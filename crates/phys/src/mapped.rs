//! Migration of frames that a device reaches while they move.

use dmakit_addr::PfnRange;

use crate::migration::Refusal;

/// The device's side: the mapping layer through which a device reaches frames.
///
/// An IOMMU implements it with its tables and invalidations; a driver that knows that no DMA of
/// its own is outstanding implements it with that knowledge. Identity-mapped, coherent, bounced
/// and device-cached frames cannot be moved this way: [`Refusal::Pinned`].
pub trait DeviceMappings {
    /// A device kept from frames.
    type Quiesced;

    /// Keeps every device from writing to `frames`: no DMA is outstanding and none begins, or each
    /// entry for them is invalid or read-only, and the invalidation is complete. When this returns
    /// no write of a device can reach them any more; one under way has landed.
    ///
    /// # Errors
    /// Why that cannot be; nothing has changed.
    fn quiesce(&self, frames: PfnRange) -> Result<Self::Quiesced, Refusal>;

    /// Makes the entries lead to `to`, while devices are still kept from writing. Entries that were
    /// read-only are first made invalid and that is synced: break before make. When this returns no
    /// translation to the old frames is left in any cache.
    ///
    /// # Errors
    /// Why that cannot be; the entries are as [`quiesce`](Self::quiesce) left them.
    fn redirect(&self, quiesced: &mut Self::Quiesced, to: PfnRange) -> Result<(), Refusal>;

    /// Lets devices in again, to whatever the entries lead to. Cannot fail.
    fn resume(&self, quiesced: Self::Quiesced);
}

/// The processors' side: page tables, the copy, whoever refers to the frames.
pub trait CpuMappings {
    /// Writers kept out.
    type Excluded;

    /// Keeps every writer out of `frames`: after this returns nobody stores to them.
    ///
    /// # Errors
    /// Why that cannot be; nothing has changed.
    fn exclude_writers(&self, frames: PfnRange) -> Result<Self::Excluded, Refusal>;

    /// Copies every byte.
    fn copy(&self, from: PfnRange, to: PfnRange);

    /// Makes every reference point to `to` and lets writers in again. Cannot fail.
    fn redirect(&self, excluded: Self::Excluded, to: PfnRange);

    /// Lets writers in again, to the old frames. Cannot fail.
    fn readmit(&self, excluded: Self::Excluded);
}

/// Moves the contents of `from` to `to` while devices and processors use them, so that no byte is
/// lost whatever either does: devices are kept from writing, then writers are, the bytes are
/// copied, the device's entries lead to the new frames, then the processors' do, and only then
/// does a device write again. What a device writes meanwhile faults or waits, as its mapping layer
/// has it.
///
/// For use inside [`Migrate::migrate`](crate::Migrate::migrate). May sleep.
///
/// # Errors
/// Why the frames did not move; both sides are as they were.
pub fn migrate_mapped<D: DeviceMappings, C: CpuMappings>(
    devices: &D,
    processors: &C,
    from: PfnRange,
    to: PfnRange,
) -> Result<(), Refusal> {
    let mut quiesced = devices.quiesce(from)?;
    let excluded = match processors.exclude_writers(from) {
        Ok(excluded) => excluded,
        Err(reason) => {
            devices.resume(quiesced);
            return Err(reason);
        }
    };
    processors.copy(from, to);
    if let Err(reason) = devices.redirect(&mut quiesced, to) {
        processors.readmit(excluded);
        devices.resume(quiesced);
        return Err(reason);
    }
    // The processors first: a device that wrote to the new frames while they still read the old
    // ones would not be seen.
    processors.redirect(excluded, to);
    devices.resume(quiesced);
    Ok(())
}
