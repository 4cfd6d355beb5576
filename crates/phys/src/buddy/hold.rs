//! Pins and leases on allocations.

use super::clear::frame_range;
use super::{Buddy, kind_of};
use crate::frame::{Frame, MigrateType, State};

/// What holds an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    LongTerm,
    ShortTerm,
    Lease,
}

/// Why an allocation is not held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotHeld {
    /// No allocation starts there.
    NotTaken,
    /// It is being moved, or the range that it lies in is being cleared.
    Passing,
    /// It lies where such a hold may not stay.
    MustLeave,
    /// There is no count left.
    TooMany,
}

impl<S: AsRef<[Frame]> + AsMut<[Frame]>> Buddy<S> {
    /// Holds the allocation that starts at `start`.
    pub(crate) fn hold(&mut self, start: u64, hold: Hold) -> Result<(), NotHeld> {
        let entry = *self.entry(start).ok_or(NotHeld::NotTaken)?;
        match entry.state {
            State::Taken | State::Movable => {}
            State::Moving | State::Doomed => return Err(NotHeld::Passing),
            _ => return Err(NotHeld::NotTaken),
        }
        let (first, end) = (start, start + u64::from(entry.next));
        let frames = frame_range(first, end);
        if entry.state == State::Movable {
            if self.being_cleared(frames).is_some() {
                return Err(NotHeld::Passing);
            }
            if hold == Hold::LongTerm && self.lies_where_kept_clear(first, end) {
                return Err(NotHeld::MustLeave);
            }
        }
        self.add_hold(start, hold)
    }

    /// Counts one more hold on an allocation, whatever its state.
    pub(crate) fn add_hold(&mut self, start: u64, hold: Hold) -> Result<(), NotHeld> {
        self.change_holds(start, |entry| {
            let more = match hold {
                Hold::Lease => entry
                    .order
                    .checked_add(1)
                    .map(|leases| (entry.pins, leases)),
                _ => entry.pins.checked_add(1).map(|pins| (pins, entry.order)),
            };
            (entry.pins, entry.order) = more.ok_or(NotHeld::TooMany)?;
            Ok(())
        })
    }

    /// Gives up one hold.
    pub(crate) fn unhold(&mut self, start: u64, hold: Hold) {
        let less = self.change_holds(start, |entry| {
            match hold {
                Hold::Lease => entry.order = entry.order.saturating_sub(1),
                _ => entry.pins = entry.pins.saturating_sub(1),
            }
            Ok(())
        });
        debug_assert!(less.is_ok());
    }

    fn change_holds(
        &mut self,
        start: u64,
        change: impl FnOnce(&mut Frame) -> Result<(), NotHeld>,
    ) -> Result<(), NotHeld> {
        let entry = self.entry_mut(start).ok_or(NotHeld::NotTaken)?;
        let before = kind_of(entry);
        change(entry)?;
        let (after, frames) = (kind_of(entry), u64::from(entry.next));
        self.count(start, start + frames, before, after);
        Ok(())
    }

    /// Whether some of the frames lie in blocks that have to stay clear.
    fn lies_where_kept_clear(&self, start: u64, end: u64) -> bool {
        super::page_blocks(frame_range(start, end)).any(|block| {
            let of = self.block(block).map(|block| block.migrate_type);
            of.is_some_and(MigrateType::is_kept_clear)
        })
    }
}
