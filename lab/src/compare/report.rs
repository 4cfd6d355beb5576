//! The answer of `compare`, as JSON shows it.

use dmakit_linux_model as model;
use serde::Serialize;

use super::cost::{Constant, Time, tenths};
use super::counts::Counts;
use super::mode::Mode;
use super::published::Check;
use crate::load::TraceFacts;
use crate::output::Confidence;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct CompareReport {
    pub trace: TraceFacts,
    /// What the calls were read from: `calls`, or `translations` on kernels that record none.
    pub calls: &'static str,
    /// Buffers mapped, each taken for one I/O, and their bytes.
    pub ios: u64,
    pub bytes: u64,
    /// Bytes of the IOMMU's smallest page.
    pub granule: u64,
    /// Engines in the order asked, modes in theirs.
    pub results: Vec<ModeResult>,
    /// The model's table operations against the recorded ones; `null` without an IOMMU.
    pub agreement: Option<Agreement>,
    pub constants: Vec<Constant>,
    /// The constants on a published row that they were not fitted on.
    pub check: Check,
    pub notes: Vec<String>,
}

/// One engine in one mode.
#[derive(Debug, Serialize)]
pub struct ModeResult {
    pub engine: &'static str,
    pub mode: Mode,
    pub totals: Totals,
    pub per_io: Rates,
    pub per_mib: Rates,
    /// Of the addresses taken, in percent; `null` where none were.
    pub cache_hits_percent: Option<f64>,
    /// Frames withheld from drivers until a sync, at most.
    pub withheld_pages_max: u64,
    /// Added to what an I/O takes without translation, in nanoseconds.
    pub time_per_io: Option<Time>,
    /// Of the counts; times go beyond what the trace shows.
    pub confidence: Confidence,
}

/// Counts over the load.
#[derive(Debug, Serialize)]
pub struct Totals {
    pub failed: u64,
    pub iova_operations: u64,
    pub cache_hits: u64,
    pub table_stores: u64,
    pub invalidations: u64,
    pub syncs: u64,
    pub bytes_copied: u64,
    /// Frames of 4 KiB times microseconds; `null` where nothing keeps devices from all memory.
    pub exposed_page_us: Option<u64>,
}

/// The same by I/O or by MiB.
#[derive(Debug, Serialize)]
pub struct Rates {
    pub iova_operations: f64,
    pub table_stores: f64,
    pub invalidations: f64,
    pub syncs: f64,
    pub bytes_copied: f64,
    pub exposed_page_us: Option<f64>,
}

/// How the model agrees with the recorded kernel.
#[derive(Debug, Serialize)]
pub struct Agreement {
    pub engine: &'static str,
    pub recorded: u64,
    pub equal: u64,
    pub percent: Option<f64>,
    /// Equal ones whose own length no call shows; the sum and the place are equal.
    pub lengths_by_sum: u64,
    /// Equal ones that coherent memory explains, of which calls show the sum.
    pub coherent: u64,
    pub reordered: u64,
    pub addresses: Addresses,
    pub reasons: Vec<Reason>,
    /// At most the first hundred.
    pub differences: Vec<Difference>,
}

/// Addresses chosen against addresses recorded.
#[derive(Debug, Serialize)]
pub struct Addresses {
    pub compared: u64,
    pub equal: u64,
    /// An order that the recording leaves open decides about them.
    pub open: u64,
    pub missed: u64,
    pub percent: Option<f64>,
}

/// How many differ for one reason.
#[derive(Debug, Serialize)]
pub struct Reason {
    pub reason: &'static str,
    pub count: u64,
}

/// One operation that differs.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub event: u64,
    pub operation: &'static str,
    pub iova: Option<u64>,
    pub bytes: u64,
    pub reason: &'static str,
}

impl ModeResult {
    pub fn new(
        engine: &'static str,
        mode: Mode,
        counts: &Counts,
        time_per_io: Option<Time>,
        confidence: Confidence,
    ) -> Self {
        let taken = counts.iova_operations.div_ceil(2);
        Self {
            engine,
            mode,
            totals: Totals {
                failed: counts.failed,
                iova_operations: counts.iova_operations,
                cache_hits: counts.cache_hits,
                table_stores: counts.table_stores,
                invalidations: counts.invalidations,
                syncs: counts.syncs,
                bytes_copied: counts.bytes_copied,
                exposed_page_us: exposed(mode, counts),
            },
            per_io: Rates::new(mode, counts, counts.ios as f64),
            per_mib: Rates::new(mode, counts, counts.bytes as f64 / f64::from(1 << 20)),
            cache_hits_percent: (taken > 0)
                .then(|| tenths(100.0 * counts.cache_hits as f64 / taken as f64)),
            withheld_pages_max: counts.withheld_pages_max,
            time_per_io,
            confidence,
        }
    }
}

/// Where nothing translates, devices reach all memory at any time.
fn exposed(mode: Mode, counts: &Counts) -> Option<u64> {
    let is_translated = !matches!(mode, Mode::Passthrough | Mode::Bounce);
    is_translated.then_some((counts.exposed_page_ns / 1000) as u64)
}

impl Rates {
    fn new(mode: Mode, counts: &Counts, per: f64) -> Self {
        // Thousandths, so that the decimal printed is short.
        let rate = |count: u64| match per > 0.0 {
            true => (count as f64 / per * 1000.0).round() / 1000.0,
            false => 0.0,
        };
        Self {
            iova_operations: rate(counts.iova_operations),
            table_stores: rate(counts.table_stores),
            invalidations: rate(counts.invalidations),
            syncs: rate(counts.syncs),
            bytes_copied: rate(counts.bytes_copied),
            exposed_page_us: exposed(mode, counts).map(rate),
        }
    }
}

impl Agreement {
    pub fn new(engine: &'static str, found: &model::TranslationAgreement) -> Self {
        let percent = |percent: Option<f64>| percent.map(|p| (p * 100.0).floor() / 100.0);
        let addresses = &found.addresses;
        Self {
            engine,
            recorded: found.recorded,
            equal: found.equal,
            percent: percent(found.percent()),
            lengths_by_sum: found.lengths_by_sum,
            coherent: found.coherent,
            reordered: found.reordered,
            addresses: Addresses {
                compared: addresses.compared,
                equal: addresses.equal,
                open: addresses.open,
                missed: addresses.missed,
                percent: percent(addresses.percent()),
            },
            reasons: found
                .reasons
                .iter()
                .map(|(reason, count)| Reason {
                    reason: reason.text(),
                    count: *count,
                })
                .collect(),
            differences: found
                .differences
                .iter()
                .map(|difference| Difference {
                    event: difference.event,
                    operation: if difference.is_map { "map" } else { "unmap" },
                    iova: difference.iova,
                    bytes: difference.bytes,
                    reason: difference.reason.text(),
                })
                .collect(),
        }
    }
}
