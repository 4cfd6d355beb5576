//! What is kept of a request or a window, in two words.

use dmakit_addr::{Granule, Iova, IovaRange};

use crate::DeviceId;

/// Bits of an address: no IOMMU translates more.
const ADDRESS_BITS: u32 = 52;
/// Bits of a domain's number.
const DOMAIN_BITS: u32 = 16;
/// Bits of the number of granules that are reserved.
const GRANULE_BITS: u32 = 22;
/// Bits of the number of bytes that are linked.
const LINKED_BITS: u32 = 34;

/// How many low bits of a domain's number stand above the address.
const DOMAIN_LOW_BITS: u32 = 64 - ADDRESS_BITS;
const LINKED_SHIFT: u32 = GRANULE_BITS;
const DOMAIN_SHIFT: u32 = LINKED_SHIFT + LINKED_BITS;
const FLAGS_SHIFT: u32 = DOMAIN_SHIFT + (DOMAIN_BITS - DOMAIN_LOW_BITS);
const _: () = assert!(FLAGS_SHIFT + 4 == 64);

/// The most domains that states can tell apart.
pub(super) const DOMAINS_MAX: u64 = 1 << DOMAIN_BITS;

/// The most bytes of one state.
pub(super) const BYTES_MAX: u64 = (1 << LINKED_BITS) - (1 << 16);

/// A flag of a state.
#[derive(Clone, Copy)]
pub(super) struct Flag(u64);

impl Flag {
    /// There are addresses of its own; else the first word is the device's number.
    pub(super) const TRANSLATED: Self = Self(1 << FLAGS_SHIFT);
    /// Part of it lies in slots.
    pub(super) const BOUNCED: Self = Self(2 << FLAGS_SHIFT);
    /// The caller does without the syncs that linking and unlinking include.
    pub(super) const SKIPS_SYNC: Self = Self(4 << FLAGS_SHIFT);
    /// Hardware may not have forgotten what was linked before.
    pub(super) const STALE: Self = Self(8 << FLAGS_SHIFT);
}

/// Sixteen bytes: where the first byte is, in which domain, how much is reserved and how much of it
/// is linked. Not `Clone`: it stands for addresses that are freed once.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct State {
    first: u64,
    second: u64,
}

/// Whose a state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A domain, by number.
    Domain(u64),
    /// A device without translation.
    Device(DeviceId),
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl State {
    /// Addresses of domain `number`, below [`DOMAINS_MAX`]; `None` where they do not fit.
    #[inline]
    pub(super) fn translated(range: IovaRange, granule: Granule, number: u64) -> Option<Self> {
        let low = number & mask(DOMAIN_LOW_BITS);
        let high = number >> DOMAIN_LOW_BITS;
        let granules = range.len() >> granule.shift();
        let fits = range.end().raw() >> ADDRESS_BITS == 0 && granules >> GRANULE_BITS == 0;
        fits.then_some(Self {
            first: range.start().raw() | low << ADDRESS_BITS,
            second: granules | high << DOMAIN_SHIFT | Flag::TRANSLATED.0,
        })
    }

    /// Nothing of its own, for a device without translation.
    pub(super) fn untranslated(device: DeviceId) -> Self {
        Self {
            first: device.raw(),
            second: 0,
        }
    }

    #[inline]
    pub(super) fn has(&self, flag: Flag) -> bool {
        self.second & flag.0 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flag: Flag) {
        self.second |= flag.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, flag: Flag) {
        self.second &= !flag.0;
    }

    #[inline]
    pub(super) fn owner(&self) -> Owner {
        if !self.has(Flag::TRANSLATED) {
            return Owner::Device(DeviceId::new(self.first));
        }
        let low = self.first >> ADDRESS_BITS;
        let high = self.second >> DOMAIN_SHIFT & mask(DOMAIN_BITS - DOMAIN_LOW_BITS);
        Owner::Domain(high << DOMAIN_LOW_BITS | low)
    }

    /// All that is reserved.
    #[inline]
    pub(super) fn range(&self, granule: Granule) -> IovaRange {
        let start = self.address() & !granule.mask();
        let len = (self.second & mask(GRANULE_BITS)) << granule.shift();
        IovaRange::new(Iova::new(start), len)
            // It was one when the state was made.
            .unwrap_or_else(|_| unreachable!("a reserved range"))
    }

    /// Where the first linked byte is.
    #[inline]
    pub(super) fn address(&self) -> u64 {
        self.first & mask(ADDRESS_BITS)
    }

    /// Where in its granule the first linked byte is.
    #[inline]
    pub(super) fn offset(&self, granule: Granule) -> u64 {
        self.address() & granule.mask()
    }

    /// Puts the first byte at another place of the first granule.
    #[inline]
    pub(super) fn set_offset(&mut self, offset: u64, granule: Granule) {
        self.first = self.first & !granule.mask() | offset;
    }

    /// Bytes that are linked.
    #[inline]
    pub(super) fn linked(&self) -> u64 {
        self.second >> LINKED_SHIFT & mask(LINKED_BITS)
    }

    /// At most [`BYTES_MAX`] of them.
    #[inline]
    pub(super) fn set_linked(&mut self, bytes: u64) {
        let cleared = self.second & !(mask(LINKED_BITS) << LINKED_SHIFT);
        self.second = cleared | bytes << LINKED_SHIFT;
    }

    /// Whether the last granule is not whole, so that nothing can follow it.
    #[inline]
    pub(super) fn is_ragged(&self, granule: Granule) -> bool {
        (self.address() + self.linked()) & granule.mask() != 0
    }

    /// Counts bytes that were linked behind the others; at most [`BYTES_MAX`] with them.
    #[inline]
    pub(super) fn add_linked(&mut self, bytes: u64) {
        self.second += bytes << LINKED_SHIFT;
    }

    /// Bytes of whole granules that are linked.
    #[inline]
    pub(super) fn span(&self, granule: Granule) -> u64 {
        let end = self.offset(granule) + self.linked() + granule.mask();
        end & !granule.mask()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fits_two_words_and_comes_out_again() {
        for granule in [Granule::K4, Granule::K16, Granule::K64] {
            let bytes = BYTES_MAX & !granule.mask();
            let bytes = bytes.min(mask(GRANULE_BITS) << granule.shift());
            let start = (1 << ADDRESS_BITS) - 2 * bytes;
            let range = IovaRange::new(Iova::new(start & !granule.mask()), bytes).unwrap();
            let mut state = State::translated(range, granule, DOMAINS_MAX - 2).unwrap();
            assert_eq!(state.owner(), Owner::Domain(DOMAINS_MAX - 2));
            assert_eq!((state.range(granule), state.linked()), (range, 0));
            state.set_offset(granule.mask(), granule);
            state.set_linked(BYTES_MAX);
            state.set(Flag::BOUNCED);
            assert_eq!(state.linked(), BYTES_MAX);
            assert_eq!(state.address(), range.start().raw() + granule.mask());
            assert_eq!(state.range(granule), range);
            assert_eq!(state.owner(), Owner::Domain(DOMAINS_MAX - 2));
            assert!(state.has(Flag::BOUNCED) && !state.has(Flag::STALE));
            state.clear(Flag::BOUNCED);
            assert!(!state.has(Flag::BOUNCED) && state.has(Flag::TRANSLATED));
        }
        let device = DeviceId::new(u64::MAX);
        let mut state = State::untranslated(device);
        state.set_linked(BYTES_MAX);
        assert_eq!(
            (state.owner(), state.linked()),
            (Owner::Device(device), BYTES_MAX)
        );
    }
}
