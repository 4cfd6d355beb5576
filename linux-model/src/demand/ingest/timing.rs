//! When operations happened, given when events about them were written.

use std::collections::BTreeMap;

use crate::demand::load::{Op, OpKind};

/// From an attempt's event to its slot search, and from a release to its event.
///
/// The true value is a few hundred nanoseconds on hardware and a few microseconds under
/// emulation; it only decides ties between CPUs.
pub(super) const NEAR_NS: u64 = 1_000;

/// A span without any event is taken for a standstill of the machine if work was under way.
pub(super) const STANDSTILL_NS: u64 = 500_000;

const FASTEST: usize = 10;
const USUAL: usize = 50;

/// A thread that takes more than this many times the usual has been doing other things.
const BUSY_MAX: f64 = 32.0;

/// How much longer than a mapping of its size a release takes at most, its events included.
const MAPPING_SLACK: f64 = 1.25;

/// [`BUSY_MAX`] for an interrupt of an idle CPU, after which the CPU is idle again.
const IDLE_BUSY_MAX: f64 = 2.0;

/// While a thread is busy with releases alone, its pace does not change by more than this.
const PACE_CHANGE_MAX: f64 = 2.0;

/// A release of several mappings that began with one event and ended before the next event of
/// its thread.
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
    /// Whether its thread is an interrupt of an idle CPU.
    pub is_on_idle: bool,
}

/// Spans in which the machine stood still, in order.
#[derive(Debug, Default)]
pub(super) struct Standstills(Vec<(u64, u64)>);

impl Standstills {
    pub fn add(&mut self, from_ns: u64, to_ns: u64) {
        self.0.push((from_ns, to_ns));
    }

    /// The moment at which the machine had been running for `run_ns` since `from_ns`.
    fn after(&self, from_ns: u64, run_ns: u64) -> u64 {
        let mut at = from_ns + run_ns;
        let first = self.0.partition_point(|(_, to)| *to <= from_ns);
        for (from, to) in &self.0[first..] {
            if *from >= at {
                break;
            }
            at += to - from;
        }
        at
    }

    /// How long the machine ran between two moments.
    fn running_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.0.partition_point(|(_, to)| *to <= from_ns);
        let still: u64 = self.0[first..]
            .iter()
            .take_while(|(from, _)| *from < to_ns)
            .map(|(from, to)| to.min(&to_ns) - from.max(&from_ns))
            .sum();
        to_ns - from_ns - still
    }
}

/// What an undisturbed mapping of each size takes, from its attempt to its thread's next event.
#[derive(Debug, Default)]
pub(super) struct Durations(BTreeMap<u64, Vec<u64>>);

impl Durations {
    const SAMPLES_MAX: usize = 101;
    const SAMPLES_MIN: usize = 5;

    pub fn note(&mut self, bytes: u64, ns: u64) {
        let samples = self.0.entry(bytes).or_default();
        if samples.len() < Self::SAMPLES_MAX {
            let place = samples.partition_point(|sample| *sample < ns);
            samples.insert(place, ns);
        }
    }

    /// What a mapping costs at the usual pace, as a release's cost: once, and for each KiB copied.
    /// Nothing before a few are known.
    fn as_cost(&self) -> Option<Cost> {
        let usual = |bytes: u64| Some((bytes, self.usual_ns(bytes)? as f64));
        let mut known = self.0.keys().filter_map(|bytes| usual(*bytes));
        let (least_bytes, least_ns) = known.next()?;
        let most = known.next_back();
        let kib_ns = most.map_or(0.0, |(bytes, ns)| {
            (ns - least_ns).max(0.0) * 1024.0 / (bytes - least_bytes) as f64
        });
        let kib_ns = kib_ns.max(least_ns * 1024.0 / least_bytes.max(1) as f64);
        Some(Cost {
            fixed_ns: MAPPING_SLACK * least_ns,
            mapping_ns: MAPPING_SLACK * least_ns,
            kib_ns: MAPPING_SLACK * kib_ns,
        })
    }

    /// The median; `None` before a few are known.
    pub fn usual_ns(&self, bytes: u64) -> Option<u64> {
        let samples = self.0.get(&bytes)?;
        (samples.len() >= Self::SAMPLES_MIN).then(|| samples[samples.len() / 2])
    }
}

/// What releases cost: once per call, per mapping, per KiB copied.
#[derive(Clone, Copy, Debug)]
struct Cost {
    fixed_ns: f64,
    mapping_ns: f64,
    kib_ns: f64,
}

impl Cost {
    fn at_most(self, most: Self) -> Self {
        Self {
            fixed_ns: self.fixed_ns.min(most.fixed_ns),
            mapping_ns: self.mapping_ns.min(most.mapping_ns),
            kib_ns: self.kib_ns.min(most.kib_ns),
        }
    }

    fn work(&self, mappings: usize, bytes: u64) -> f64 {
        self.mapping_ns * mappings as f64 + self.kib_ns * bytes as f64 / 1024.0
    }
}

/// Spreads each window's releases over it.
///
/// All that is certain of a release is its window. A window that is not much longer than usual was
/// spent on the work, so its releases are evenly spread; in a longer one they came first, at the
/// usual pace, or not as much slower as would have made the window a busy one. A release hardly takes
/// less than the recording's fastest tenth took, which bounds the `n`th from both ends of the window,
/// and a steady pace bounds it further. A window may also last because its thread had nothing to do:
/// a release takes no longer than a mapping of its size, which looks for slots where a release only
/// gives them back, and copies as much.
pub(super) fn spread(
    ops: &mut [Op],
    windows: &[Window],
    standstills: &Standstills,
    durations: &Durations,
    copied: impl Fn(u32) -> u64,
) {
    let paces =
        [false, true].map(|is_on_idle| Pace::of(windows, standstills, durations, is_on_idle));
    for window in windows {
        let Pace {
            fastest,
            usual,
            busy_max,
        } = paces[usize::from(window.is_on_idle)];
        let running = standstills.running_ns(window.begin_ns, window.end_ns) as f64;
        let all = usual.work(window.count, window.copied_bytes).max(1.0);
        let least = fastest.work(window.count, window.copied_bytes).min(running);
        let is_busy = running <= busy_max * (usual.fixed_ns + all);
        let whole = if is_busy {
            running
        } else {
            usual.fixed_ns + all
        };
        let fixed = usual.fixed_ns.min(whole / window.count as f64);
        let mut bytes: u64 = 0;
        let releases = &mut ops[window.first_op..window.first_op + window.count];
        for (done, op) in releases.iter_mut().enumerate() {
            if let OpKind::Unmap(mapping) = op.kind {
                bytes = copied(mapping).saturating_add(bytes);
            }
            let share = usual.work(done + 1, bytes) / all;
            let at = |run: f64| standstills.after(window.begin_ns, run.max(1.0) as u64);
            let likely = (fixed + (whole - fixed) * share).min(running - 1.0);
            let earliest = (least * share).min(likely);
            let latest = (running - least * (1.0 - share)).max(likely);
            let change = if is_busy { PACE_CHANGE_MAX } else { busy_max };
            op.earliest_ns = window.begin_ns;
            op.sooner_ns = at(earliest.max(likely / change));
            op.likely_ns = at(likely);
            op.later_ns = at(latest.min(likely * change)).min(window.end_ns);
            op.latest_ns = window.end_ns;
        }
    }
}

/// How fast one kind of thread releases.
#[derive(Clone, Copy, Debug)]
struct Pace {
    fastest: Cost,
    usual: Cost,
    busy_max: f64,
}

impl Pace {
    /// Learned from what windows took, but no more than mappings took: much of a window may have been
    /// idling.
    fn of(
        windows: &[Window],
        standstills: &Standstills,
        durations: &Durations,
        is_on_idle: bool,
    ) -> Self {
        let most = durations.as_cost();
        let at = |percent| {
            let cost = learned(windows, standstills, percent);
            most.map_or(cost, |most| cost.at_most(most))
        };
        Self {
            fastest: at(FASTEST),
            usual: at(USUAL),
            busy_max: if is_on_idle { IDLE_BUSY_MAX } else { BUSY_MAX },
        }
    }
}

/// The given percentile of what windows took.
fn learned(windows: &[Window], standstills: &Standstills, percent: usize) -> Cost {
    let took = |w: &Window| standstills.running_ns(w.begin_ns, w.end_ns) as f64;
    let fixed_ns = percentile(
        windows
            .iter()
            .filter(|w| w.count == 1 && w.copied_bytes == 0)
            .map(took)
            .collect(),
        percent,
    );
    let per = |copies: bool, units: fn(&Window) -> f64| {
        let large = windows
            .iter()
            .filter(|w| w.count >= 8 && (w.copied_bytes > 0) == copies);
        percentile(
            large
                .map(|w| (took(w) - fixed_ns).max(0.0) / units(w))
                .collect(),
            percent,
        )
    };
    let mapping_ns = per(false, |w| w.count as f64);
    let kib_ns = per(true, |w| w.copied_bytes as f64 / 1024.0);
    Cost {
        fixed_ns,
        mapping_ns: mapping_ns.max(1.0),
        kib_ns,
    }
}

fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() * percent / 100)
        .copied()
        .unwrap_or(0.0)
}
