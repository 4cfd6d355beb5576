//! When operations happened, given when events about them were written.

use crate::demand::load::{Op, OpKind};

/// From an attempt's event to its slot search, and from a release to its event.
///
/// The true value is a few hundred nanoseconds on hardware and a few microseconds under
/// emulation; it only decides ties between CPUs.
pub(super) const NEAR_NS: u64 = 1_000;

/// A release of several mappings that began with one event and ended before the next event of
/// its context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// First of the operations, in `ops`.
    pub first_op: usize,
    /// How many.
    pub count: usize,
    /// Bytes to copy back, all together.
    pub copied_bytes: u64,
    pub begin_ns: u64,
    pub end_ns: u64,
}

/// What one release costs, learned from the recording's tightest windows.
#[derive(Clone, Copy, Debug)]
struct Cost {
    per_mapping_ns: f64,
    per_kib_ns: f64,
}

impl Cost {
    fn of(&self, mappings: usize, bytes: u64) -> f64 {
        self.per_mapping_ns * mappings as f64 + self.per_kib_ns * bytes as f64 / 1024.0
    }
}

/// Spreads each window's releases from its beginning, at the recording's own pace.
pub(super) fn spread(ops: &mut [Op], windows: &[Window], copied: impl Fn(u32) -> u64) {
    let cost = learned(windows);
    for window in windows {
        let mut bytes = 0;
        let room = window.end_ns.saturating_sub(window.begin_ns + NEAR_NS);
        for (done, op) in ops[window.first_op..window.first_op + window.count].iter_mut().enumerate()
        {
            if let OpKind::Unmap(mapping) = op.kind {
                bytes += copied(mapping);
            }
            let cost_ns = cost.of(done + 1, bytes) as u64;
            op.earliest_ns = window.begin_ns;
            op.likely_ns = window.begin_ns + cost_ns.min(room);
            op.latest_ns = window.end_ns;
        }
    }
}

/// The tightest tenth of the windows says what the work itself takes; the rest was waiting.
fn learned(windows: &[Window]) -> Cost {
    let pace = |copies: bool| {
        let mut paces: Vec<f64> = windows
            .iter()
            .filter(|w| (w.copied_bytes > 0) == copies && w.end_ns != u64::MAX)
            .map(|w| {
                let units =
                    if copies { w.copied_bytes as f64 / 1024.0 } else { w.count as f64 };
                (w.end_ns - w.begin_ns) as f64 / units
            })
            .collect();
        paces.sort_by(f64::total_cmp);
        paces.get(paces.len() / 10).copied()
    };
    Cost {
        per_mapping_ns: pace(false).unwrap_or(NEAR_NS as f64),
        per_kib_ns: pace(true).unwrap_or(0.0),
    }
}
