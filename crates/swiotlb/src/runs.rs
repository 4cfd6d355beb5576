//! The index of an area's free runs: entering, leaving, and neighbours.

use crate::Area;
use crate::lists::LISTED_MAX;

impl Area {
    /// Puts a maximal free run into the index, or makes it the rest where it is the longer.
    #[inline]
    pub(crate) fn attach(&mut self, start: u32, len: u32) {
        if len <= LISTED_MAX {
            return self.attach_listed(start, len);
        }
        let (mut start, mut len) = (start, len);
        if len > self.rest_len {
            core::mem::swap(&mut start, &mut self.rest_start);
            core::mem::swap(&mut len, &mut self.rest_len);
        }
        match len {
            0 => {}
            1..=LISTED_MAX => self.attach_listed(start, len),
            _ => {
                self.tag(start, len);
                self.tree.insert(start, len);
            }
        }
    }

    #[inline]
    fn attach_listed(&mut self, start: u32, len: u32) {
        self.tag(start, len);
        self.lists.push(&mut self.entries, start, len);
    }

    /// Notes the extent of a run at both its ends.
    #[inline]
    fn tag(&mut self, start: u32, len: u32) {
        if len > 1 {
            self.entries[(start + len - 1) as usize].set_first(start);
        }
        self.entries[start as usize].set_len(len);
    }

    #[inline]
    pub(crate) fn detach(&mut self, start: u32, len: u32) {
        if len <= LISTED_MAX {
            self.lists.remove(&mut self.entries, start, len);
        } else {
            self.tree.remove(start);
        }
    }

    /// Takes the free run that starts at `end` out of the index; says where it ends.
    #[inline]
    pub(crate) fn absorb_above(&mut self, end: u32, is_rest: &mut bool) -> u32 {
        if end == self.rest_start && self.rest_len > 0 {
            *is_rest = true;
            return end + self.rest_len;
        }
        let len = self.entries[end as usize].len();
        self.detach(end, len);
        end + len
    }

    /// Takes the free run that ends before `start` out of the index; says where it starts.
    #[inline]
    pub(crate) fn absorb_below(&mut self, start: u32, is_rest: &mut bool) -> u32 {
        if start == self.rest_start + self.rest_len && self.rest_len > 0 {
            *is_rest = true;
            return self.rest_start;
        }
        // A run of one slot has no room for a second note.
        let first = if start > 1 && self.free.contains(start - 2) {
            self.entries[start as usize - 1].first()
        } else {
            start - 1
        };
        self.detach(first, start - first);
        first
    }
}
