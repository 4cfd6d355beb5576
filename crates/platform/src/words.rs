//! Segments that hold tables or queues.

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::AtomicU64;

use crate::Segment;

/// A segment as 64-bit words that hardware and several CPUs reach.
///
/// Holding one proves that both ends of the segment are aligned to 8 bytes, for the CPU: so each look
/// at a word is spared the question that [`Window::words64`](crate::Window::words64) asks.
pub struct Words(Segment);

impl Words {
    /// The words of a segment.
    ///
    /// # Errors
    /// The segment, where one of its ends is not aligned to 8 bytes.
    pub fn new(segment: Segment) -> Result<Self, Segment> {
        match segment.window().words64() {
            Some(_) => Ok(Self(segment)),
            None => Err(segment),
        }
    }

    /// The segment.
    #[inline]
    pub fn segment(&self) -> &Segment {
        &self.0
    }

    /// The segment, back.
    pub fn into_segment(self) -> Segment {
        self.0
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        let start = self.0.window().as_ptr().as_ptr().cast();
        // SAFETY: `new` saw that `words64` finds both ends aligned, and its other conditions hold for
        // every window; the words are borrowed from their owner.
        unsafe { core::slice::from_raw_parts(start, self.0.len() as usize / 8) }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words{}", self.0.range())
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::host::HostRam;
    use core::sync::atomic::Ordering::Relaxed;
    use dmakit_addr::{PhysAddr, PhysRange};

    #[test]
    fn words_are_those_of_the_segment_and_ends_between_words_are_refused() {
        let range = PhysRange::new(PhysAddr::new(1 << 32), 4096).unwrap();
        let (_ram, mut segments) = HostRam::new(&[range]).unwrap();
        let (low, rest) = segments.remove(0).split_at(24).unwrap();
        let words = Words::new(low).unwrap();
        words[2].store(7, Relaxed);
        assert_eq!(words.len(), 3);
        let mut bytes = [0; 24];
        words.segment().window().read(&mut bytes);
        assert_eq!(bytes[16..], 7_u64.to_ne_bytes());
        assert_eq!(words.into_segment().len(), 24);
        let (low, high) = rest.split_at(12).unwrap();
        assert_eq!(Words::new(low).unwrap_err().len(), 12);
        assert!(Words::new(high).is_err());
    }
}
