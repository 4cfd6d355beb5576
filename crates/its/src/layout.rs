//! How large a table must be. Arithmetic only: the driver and whoever plans a machine share it.

use crate::spec::table::{LEVEL_1_BYTES, PAGES_MAX, PageSize};

/// The shape of one table.
///
/// A flat table has an entry for each ID. A two-level one has, for each page of entries, an 8-byte
/// entry that leads to it; the pages come one by one, when an ID in them is first used. Either way
/// at most 256 pages stand at the address in the register, and IDs beyond are not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Whether the register leads to a first level.
    pub is_two_level: bool,
    /// The page size.
    pub page: PageSize,
    /// Pages at the address in the register: 1 to 256.
    pub pages: u64,
    /// Bytes of an entry.
    pub entry_bytes: u64,
    /// IDs that were asked for, or as many as there is room for.
    pub ids: u64,
}

impl Layout {
    /// A flat table for `ids` IDs; `entry_bytes` is 1 to 32.
    pub const fn flat(ids: u64, entry_bytes: u64, page: PageSize) -> Self {
        let layout = Self {
            is_two_level: false,
            page,
            pages: 0,
            entry_bytes,
            ids,
        };
        layout.with_pages(pages_for(ids.saturating_mul(entry_bytes), page))
    }

    /// A two-level table for `ids` IDs.
    pub const fn two_level(ids: u64, entry_bytes: u64, page: PageSize) -> Self {
        let layout = Self {
            is_two_level: true,
            page,
            pages: 0,
            entry_bytes,
            ids,
        };
        let leaves = ids.div_ceil(layout.ids_of_leaf());
        layout.with_pages(pages_for(leaves.saturating_mul(LEVEL_1_BYTES), page))
    }

    /// The same with `pages` pages at the register, as many as that can say; IDs that have no room
    /// are not served.
    pub const fn with_pages(self, pages: u64) -> Self {
        let pages = match pages {
            0 => 1,
            1..PAGES_MAX => pages,
            _ => PAGES_MAX,
        };
        let bytes = pages * self.page.bytes();
        let room = match self.is_two_level {
            true => bytes / LEVEL_1_BYTES * self.ids_of_leaf(),
            false => bytes / self.entry_bytes,
        };
        let ids = if self.ids < room { self.ids } else { room };
        Self { pages, ids, ..self }
    }

    /// Bytes at the address in the register.
    pub const fn bytes(&self) -> u64 {
        self.pages * self.page.bytes()
    }

    /// Bytes once every ID has been used.
    pub const fn bytes_in_full(&self) -> u64 {
        match self.is_two_level {
            true => self.bytes() + self.leaves() * self.page.bytes(),
            false => self.bytes(),
        }
    }

    /// IDs of one page of entries: whole entries only.
    pub const fn ids_of_leaf(&self) -> u64 {
        self.page.bytes() / self.entry_bytes
    }

    /// Pages of entries that a first level leads to; none in a flat table.
    pub const fn leaves(&self) -> u64 {
        match self.is_two_level {
            true => self.ids.div_ceil(self.ids_of_leaf()),
            false => 0,
        }
    }

    /// The entry of the first level that leads to an ID.
    pub const fn leaf_of(&self, id: u64) -> u64 {
        id / self.ids_of_leaf()
    }
}

const fn pages_for(bytes: u64, page: PageSize) -> u64 {
    bytes.div_ceil(page.bytes())
}

/// Bits of an event ID that `events` events take: the table's length is a power of two, at least 2
/// (5.3.11, MAPD Size).
pub(crate) const fn event_bits(events: u32) -> u32 {
    match events {
        0..=2 => 1,
        _ => u32::BITS - (events - 1).leading_zeros(),
    }
}

/// A device's table starts at a multiple of this, and shares no unit of it with other memory.
pub(crate) const EVENT_TABLE_ALIGN: u64 = 256;

/// Bytes of a device's table of `2^bits` events.
pub(crate) const fn event_table_bytes(bits: u32, entry_bytes: u64) -> u64 {
    (entry_bytes << bits).next_multiple_of(EVENT_TABLE_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_device_ids_of_eight_bytes_take_eight_mib() {
        let layout = Layout::flat(1 << 20, 8, PageSize::K64);
        assert_eq!((layout.bytes(), layout.ids), (8 << 20, 1 << 20));
        let layout = Layout::two_level(1 << 20, 8, PageSize::K64);
        assert_eq!((layout.bytes(), layout.leaves()), (1 << 16, 128));
    }

    #[test]
    fn what_256_pages_do_not_hold_is_not_served() {
        let layout = Layout::flat(1 << 24, 8, PageSize::K64);
        assert_eq!((layout.bytes(), layout.ids), (16 << 20, 1 << 21));
        let layout = Layout::two_level(1 << 32, 8, PageSize::K64);
        assert_eq!((layout.bytes(), layout.ids), (4 << 20, 1 << 32));
        let layout = Layout::two_level(1 << 32, 32, PageSize::K4);
        assert_eq!((layout.bytes(), layout.ids), (1 << 20, 1 << 24));
    }

    #[test]
    fn entries_do_not_cross_pages_of_a_second_level() {
        let layout = Layout::two_level(1000, 24, PageSize::K4);
        assert_eq!((layout.ids_of_leaf(), layout.leaves()), (170, 6));
        assert_eq!((layout.leaf_of(169), layout.leaf_of(170)), (0, 1));
    }

    #[test]
    fn events_are_rounded_to_a_power_of_two() {
        let bits = [1, 2, 3, 4, 5, 33, 64, 65, 1 << 31, u32::MAX].map(event_bits);
        assert_eq!(bits, [1, 1, 2, 2, 3, 6, 6, 7, 31, 32]);
        assert_eq!(event_table_bytes(6, 12), 768);
        assert_eq!(event_table_bytes(1, 8), 256);
    }
}
