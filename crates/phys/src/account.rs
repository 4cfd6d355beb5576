//! How many frames somebody may hold.

use core::fmt;

use crate::sync::{AtomicU64, Ordering::Relaxed};

/// A charge that would have passed the limit; nothing has been charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverLimit {
    /// Frames that were to be charged.
    pub asked: u64,
    /// Frames charged already.
    pub charged: u64,
    /// How many there may be.
    pub limit: u64,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            asked,
            charged,
            limit,
        } = self;
        write!(
            f,
            "{asked} more frames than {charged} pass the limit of {limit}"
        )
    }
}

impl core::error::Error for OverLimit {}

/// Frames charged against a limit.
///
/// One account may serve one owner of pins, several (all processes of a user), or the whole
/// machine, and others may charge it too (locked memory that is not pinned). So it has no lock:
/// whoever charges does so in one atomic step that never passes the limit, not for a moment. The
/// order against other memory does not matter, since a count guards no data.
#[derive(Debug)]
pub struct Account {
    charged: AtomicU64,
    peak: AtomicU64,
    limit: AtomicU64,
}

impl Account {
    /// An account that nothing is charged to, with a limit in frames.
    pub fn new(limit: u64) -> Self {
        Self {
            charged: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        }
    }

    /// Charges `frames`. Never sleeps.
    ///
    /// # Errors
    /// [`OverLimit`], and nothing has been charged.
    pub fn charge(&self, frames: u64) -> Result<(), OverLimit> {
        let limit = self.limit();
        let sum = |charged: u64| charged.checked_add(frames).filter(|sum| *sum <= limit);
        match self.charged.fetch_update(Relaxed, Relaxed, sum) {
            Ok(before) => {
                self.peak.fetch_max(before + frames, Relaxed);
                Ok(())
            }
            Err(charged) => Err(OverLimit {
                asked: frames,
                charged,
                limit,
            }),
        }
    }

    /// Takes back a charge. Never sleeps.
    pub fn uncharge(&self, frames: u64) {
        let before = self.charged.fetch_sub(frames, Relaxed);
        debug_assert!(before >= frames, "more is taken back than was charged");
    }

    /// Frames charged.
    pub fn charged(&self) -> u64 {
        self.charged.load(Relaxed)
    }

    /// The most frames ever charged: the limit that would have done.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// How many frames may be charged.
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets another limit; what is charged beyond it stays.
    pub fn set_limit(&self, frames: u64) {
        self.limit.store(frames, Relaxed);
    }
}
