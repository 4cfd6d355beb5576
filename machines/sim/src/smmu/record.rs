//! What the SMMU records of transactions that it stops.

use super::Source;

/// Why a transaction went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stopped {
    /// In silence.
    Abort,
    /// With a record of this number.
    Record(u8),
}

pub(super) const BAD_STREAM: Stopped = Stopped::Record(0x02);
pub(super) const ENTRY_FETCH: Stopped = Stopped::Record(0x03);
pub(super) const BAD_ENTRY: Stopped = Stopped::Record(0x04);
pub(super) const BAD_SUBSTREAM: Stopped = Stopped::Record(0x08);
pub(super) const DESCRIPTOR_FETCH: Stopped = Stopped::Record(0x09);
pub(super) const BAD_DESCRIPTOR: Stopped = Stopped::Record(0x0a);
pub(super) const WALK_ABORT: Stopped = Stopped::Record(0x0b);
pub(super) const TRANSLATION: Stopped = Stopped::Record(0x10);
pub(super) const ADDRESS_SIZE: Stopped = Stopped::Record(0x11);
pub(super) const ACCESS_FLAG: Stopped = Stopped::Record(0x12);
pub(super) const PERMISSION: Stopped = Stopped::Record(0x13);

/// A record (7.3): the address and direction only where translation went wrong.
pub(super) fn words(number: u8, source: Source, address: u64, is_read: bool) -> [u64; 4] {
    let substream = source
        .substream
        .map_or(0, |id| 1 << 11 | u64::from(id) << 12);
    let word0 = u64::from(number) | substream | u64::from(source.stream) << 32;
    if number < 0x10 {
        return [word0, 0, 0, 0];
    }
    // CLASS 2: the transaction itself, not a walk of its tables.
    [word0, u64::from(is_read) << 35 | 2 << 40, address, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_that_of_another_model_but_for_its_class() {
        // QEMU 7.2: a read of 0x1245678000 by stream 8, nothing mapped; it leaves the class 0.
        let source = Source {
            stream: 8,
            substream: None,
        };
        let ours = words(0x10, source, 0x12_4567_8000, true);
        let theirs = [0x8_0000_0010, 0x8_0000_0000, 0x12_4567_8000, 0];
        assert_eq!([ours[0], ours[1] & !(3 << 40), ours[2], ours[3]], theirs);
    }
}
