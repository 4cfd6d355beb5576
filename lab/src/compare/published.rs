//! The constants against a published row that they were not fitted on.

use serde::Serialize;

use super::cost::{Constants, FITTED, Row};
use super::mode::Mode;

/// The widest interval that is still a prediction, to either side.
const WIDEST: f64 = 0.25;

/// Two Grace sockets with four NVMe disks each, 4 KiB random reads.
const CHECKED: Row = Row {
    passthrough: super::cost::Rate {
        millions: 16.5,
        rounding: 0.05,
    },
    lazy: super::cost::Rate {
        millions: 16.4,
        rounding: 0.05,
    },
    strict: super::cost::Rate {
        millions: 2.8,
        rounding: 0.05,
    },
};
const CHECKED_SOURCE: &str =
    "2 Grace sockets, 8 NVMe disks, 4 KiB random reads (github.com/NVIDIA/NV-Kernels, 182)";
/// Of two sockets.
const CORES: f64 = 144.0;
const DISKS: f64 = 8.0;

/// What comes of it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub source: &'static str,
    pub rows: Vec<Checked>,
}

/// One mode of the row, in millions of I/Os a second.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub mode: Mode,
    pub published: f64,
    /// `null` where the constants cannot tell.
    pub predicted: Option<f64>,
    pub low: f64,
    pub high: f64,
    /// Whether the published figure lies in the interval.
    pub is_inside: bool,
    pub reason: String,
}

/// Predicts lazy and strict from the rate without translation.
///
/// That rate is what the disks give: the cores have forty times what an I/O takes them without
/// translation. Lazy adds time on the cores: at
/// worst throughput falls by the share of all cores that it takes, at best not at all. Strict waits
/// for hardware one after the other in each command queue: the rate is that of one queue, times
/// queues, and the row does not say how many.
pub fn check(constants: &Constants) -> Check {
    let base = CHECKED.passthrough.millions;
    let lazy_ns = 1000.0 / FITTED.lazy.millions - 1000.0 / FITTED.passthrough.millions;
    let share = lazy_ns * base / 1000.0 / CORES;
    let low = base / (1.0 + share);
    let lazy = checked(
        Mode::Lazy,
        CHECKED.lazy.millions,
        [low, (low + base) / 2.0, base],
        format!(
            "the disks bound it: lazy takes {:.1} % of the time of {CORES} cores",
            share * 100.0
        ),
    );
    let queue = 1000.0 / constants.sync.ns;
    let (one, all) = (queue, (queue * DISKS).min(base));
    let strict = checked(
        Mode::Strict,
        CHECKED.strict.millions,
        [one, (one + all) / 2.0, all],
        format!(
            "waits of {:.0} ns, one after the other in each command queue: {queue:.2} M a second \
             for each, and the row does not say how many there are (one to one for each disk); \
             nor does a wait fitted on VT-d hold for an SMMU",
            constants.sync.ns
        ),
    );
    Check {
        source: CHECKED_SOURCE,
        rows: vec![lazy, strict],
    }
}

fn checked(mode: Mode, published: f64, [low, middle, high]: [f64; 3], reason: String) -> Checked {
    let is_narrow = high <= middle * (1.0 + WIDEST) && low >= middle * (1.0 - WIDEST);
    let hundredths = |millions: f64| (millions * 100.0).round() / 100.0;
    Checked {
        mode,
        published,
        predicted: is_narrow.then(|| hundredths(middle)),
        low: hundredths(low),
        high: hundredths(high),
        is_inside: (low..=high).contains(&published),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_predicted_holds_and_what_is_not_is_said() {
        let check = check(&Constants::new());
        for row in &check.rows {
            assert!(row.is_inside, "{row:?}");
            let width = (row.high - row.low) / 2.0 / ((row.high + row.low) / 2.0);
            assert_eq!(row.predicted.is_some(), width <= WIDEST, "{row:?}");
        }
        assert!(check.rows[0].predicted.is_some(), "lazy");
        assert!(check.rows[1].predicted.is_none(), "strict");
    }
}
