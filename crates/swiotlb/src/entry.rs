//! What an area keeps about a slot: one of three things, in the same twelve bytes.

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// What is known of the slot that begins a mapping or a free run, or ends a free run; of slots
/// between, nothing.
///
/// | slot | word 0 | word 1 | word 2 |
/// |---|---|---|---|
/// | first of a mapping | slots | offset, tail | device, flags |
/// | first of a free run | length | previous | next |
/// | last of a free run of two slots or more | first slot | | |
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Entry([u32; 3]);

/// What was decided when a mapping was made, for whoever ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// How many slots it holds, padding and tail included.
    pub slots: u32,
    /// Where the first mapped byte lies, counted from the first slot's first byte.
    pub offset: u16,
    /// How many bytes of the last slots lie past the last mapped byte.
    pub tail: u16,
    /// The device, by its number in the pool.
    pub device: u16,
    /// What else was decided.
    pub flags: u16,
}

impl Entry {
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.0[0]
    }

    #[inline]
    pub(crate) fn set_len(&mut self, len: u32) {
        self.0[0] = len;
    }

    #[inline]
    pub(crate) fn first(&self) -> u32 {
        self.0[0]
    }

    #[inline]
    pub(crate) fn set_first(&mut self, first: u32) {
        self.0[0] = first;
    }

    #[inline]
    pub(crate) fn previous(&self) -> u32 {
        self.0[1]
    }

    #[inline]
    pub(crate) fn set_previous(&mut self, slot: u32) {
        self.0[1] = slot;
    }

    #[inline]
    pub(crate) fn next(&self) -> u32 {
        self.0[2]
    }

    #[inline]
    pub(crate) fn set_next(&mut self, slot: u32) {
        self.0[2] = slot;
    }

    #[inline]
    pub(crate) fn record(&self) -> Record {
        let [slots, place, owner] = self.0;
        Record {
            slots,
            offset: (place >> 16) as u16,
            tail: place as u16,
            device: (owner >> 16) as u16,
            flags: owner as u16,
        }
    }

    #[inline]
    pub(crate) fn set_record(&mut self, record: Record) {
        self.0 = [
            record.slots,
            u32::from(record.offset) << 16 | u32::from(record.tail),
            u32::from(record.device) << 16 | u32::from(record.flags),
        ];
    }
}
