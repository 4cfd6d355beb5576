//! What is kept of a request or a window, in two words.

use dmakit_addr::{Attributes, Granule, Iova, IovaRange};

use crate::DeviceId;

/// Bits of an address: no IOMMU translates more.
const ADDRESS_BITS: u32 = 52;
/// Bits of a domain's number.
const DOMAIN_BITS: u32 = 15;
/// Bits of the number of granules that are reserved.
const GRANULE_BITS: u32 = 22;
/// Bits of the number of bytes that are linked.
const LINKED_BITS: u32 = 34;

/// How many low bits of a domain's number stand above the address.
const DOMAIN_LOW_BITS: u32 = 64 - ADDRESS_BITS;
const LINKED_SHIFT: u32 = GRANULE_BITS;
const DOMAIN_SHIFT: u32 = LINKED_SHIFT + LINKED_BITS;
const FLAGS_SHIFT: u32 = DOMAIN_SHIFT + (DOMAIN_BITS - DOMAIN_LOW_BITS);
const _: () = assert!(FLAGS_SHIFT + 5 == 64);

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
    /// Hardware did not take it that a part is gone: the addresses are nobody's any more.
    pub(super) const LOST: Self = Self(16 << FLAGS_SHIFT);
}

/// Sixteen bytes: where the first byte is, in which domain, how much is reserved and how much of it
/// is linked. Not `Clone`: it stands for addresses that are freed once.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct State {
    first: u64,
    second: u64,
}

/// Bits of the second word that say whose a state is.
const OWNER_BITS: u64 = mask(DOMAIN_BITS - DOMAIN_LOW_BITS) << DOMAIN_SHIFT | Flag::TRANSLATED.0;

/// What the states of one device have in common, so that one of another shows at a glance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    first: u64,
    /// Which bits of a first word count.
    first_bits: u64,
    second: u64,
}

impl Owner {
    /// A domain, by number; one of [`DOMAINS_MAX`] or more has no states.
    pub(crate) fn domain(number: u64) -> Self {
        let high = number >> DOMAIN_LOW_BITS << DOMAIN_SHIFT;
        Self {
            first: number << ADDRESS_BITS,
            first_bits: !mask(ADDRESS_BITS),
            second: match number < DOMAINS_MAX {
                true => high | Flag::TRANSLATED.0,
                false => u64::MAX,
            },
        }
    }

    /// A device without translation.
    pub(crate) fn device(device: DeviceId) -> Self {
        Self {
            first: device.raw(),
            first_bits: u64::MAX,
            second: 0,
        }
    }

    /// Whether a state is one of its own.
    #[inline]
    pub(super) fn owns(&self, state: &State) -> bool {
        let first = (state.first ^ self.first) & self.first_bits;
        first | (state.second & OWNER_BITS ^ self.second) == 0
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl State {
    /// Addresses of a domain that has states; `None` where they do not fit.
    #[inline]
    pub(super) fn translated(range: IovaRange, granule: Granule, owner: &Owner) -> Option<Self> {
        let granules = range.len() >> granule.shift();
        let fits = range.end().raw() >> ADDRESS_BITS == 0 && granules >> GRANULE_BITS == 0;
        fits.then_some(Self {
            first: range.start().raw() | owner.first,
            second: granules | owner.second,
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

    /// All that is reserved.
    #[inline(always)]
    pub(super) fn range(&self, granule: Granule) -> IovaRange {
        let start = self.address() & !granule.mask();
        // No granule is that large: so it is seen that nothing overflows, and where only a part of this
        // is used the rest costs nothing.
        let len = (self.second & mask(GRANULE_BITS)) << (granule.shift() & 31);
        IovaRange::new(Iova::new(start), len)
            // It was one when the state was made.
            .unwrap_or_else(|_| unreachable!("a reserved range"))
    }

    /// Whether it lies in a domain, all of it as it is, and nothing of it is lost.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        let flags = Flag::TRANSLATED.0 | Flag::BOUNCED.0 | Flag::LOST.0;
        self.second & flags == Flag::TRANSLATED.0
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

/// What a state was asked for, as far as links go by it.
pub(super) fn attributes_of(state: &State) -> Attributes {
    match state.has(Flag::SKIPS_SYNC) {
        true => Attributes::SKIP_CPU_SYNC,
        false => Attributes::NONE,
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
            let owner = Owner::domain(DOMAINS_MAX - 2);
            let mut state = State::translated(range, granule, &owner).unwrap();
            assert_eq!((state.range(granule), state.linked()), (range, 0));
            state.set_offset(granule.mask(), granule);
            state.set_linked(BYTES_MAX);
            state.set(Flag::BOUNCED);
            assert_eq!(state.linked(), BYTES_MAX);
            assert_eq!(state.address(), range.start().raw() + granule.mask());
            assert_eq!(state.range(granule), range);
            assert!(owner.owns(&state));
            assert!(state.has(Flag::BOUNCED) && !state.has(Flag::STALE));
            state.clear(Flag::BOUNCED);
            assert!(!state.has(Flag::BOUNCED) && state.has(Flag::TRANSLATED));
        }
        let device = DeviceId::new(u64::MAX);
        let mut state = State::untranslated(device);
        state.set_linked(BYTES_MAX);
        assert!(Owner::device(device).owns(&state));
        assert_eq!(state.linked(), BYTES_MAX);
    }

    #[test]
    fn states_of_one_owner_are_nobody_elses() {
        let range = IovaRange::new(Iova::new(0x1000), 0x1000).unwrap();
        let numbers = [0, 1, 0xfff, 0x1000, 0x1001, DOMAINS_MAX - 1];
        for number in numbers {
            let owner = Owner::domain(number);
            let state = State::translated(range, Granule::K4, &owner).unwrap();
            for other in numbers {
                assert_eq!(Owner::domain(other).owns(&state), other == number);
            }
            for above in [DOMAINS_MAX | number, DOMAINS_MAX * 2 + number] {
                assert!(!Owner::domain(above).owns(&state), "{above:#x} is too high");
            }
            assert!(!Owner::device(DeviceId::new(state.first)).owns(&state));
            let device = State::untranslated(DeviceId::new(state.first));
            assert!(!owner.owns(&device));
        }
        let [one, two] = [1, 2].map(|number| Owner::device(DeviceId::new(number)));
        let state = State::untranslated(DeviceId::new(1));
        assert!(one.owns(&state) && !two.owns(&state));
    }
}
