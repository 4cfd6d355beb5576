//! Why a contiguous area did not serve.

use super::{BLOCK_BYTES, BLOCK_PAGES, allocation_failed_near, human, per_cent};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{CmaGeneration, CmaSum, Event};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// Default cap on the alignment of a claim: 2^8 pages (`CONFIG_CMA_ALIGNMENT`).
const ALIGN_ORDER: u32 = 8;
/// The most that option can be.
const ALIGN_ORDER_MAX: u32 = 12;
/// A run list follows its failure within so many lines.
pub(super) const LIST_LINES: u64 = 12;

const ENOMEM: u32 = 12;
const EBUSY: u32 = 16;
const EINTR: u32 = 4;

/// A failed claim with what was printed about the area.
pub struct Claim<'a> {
    pub seen: &'a Seen,
    pub pages: u64,
    pub errno: u32,
    pub generation: CmaGeneration,
    pub sum: Option<CmaSum>,
    /// (pages, first bit); complete only if they add up to the free pages.
    pub runs: Vec<(u64, u64)>,
    pub was_busy: bool,
}

impl Claim<'_> {
    pub fn longest(&self) -> u64 {
        self.runs.iter().map(|(pages, _)| *pages).max().unwrap_or(0)
    }

    fn has_all_runs(&self) -> bool {
        let listed = self
            .runs
            .iter()
            .try_fold(0u64, |sum, (pages, _)| sum.checked_add(*pages));
        self.sum.is_some_and(|sum| listed == Some(sum.free)) && !self.runs.is_empty()
    }

    /// Pages to which the claim is aligned, if the cap is 2^`cap`.
    fn alignment(&self, cap: u32) -> u64 {
        let whole = self.pages.max(1).checked_next_power_of_two();
        1 << whole.map_or(cap, u64::trailing_zeros).min(cap)
    }

    /// Whether a run is so long that an aligned one lies in it wherever it
    /// begins.
    fn fits_anywhere(&self, cap: u32) -> bool {
        let slack = self.alignment(cap) - 1;
        self.longest() >= self.pages.saturating_add(slack)
    }

    /// Whether no run holds the claim at the default alignment. Areas begin on
    /// a pageblock, so a bit is aligned as its page is.
    fn has_no_aligned_run(&self) -> bool {
        let align = self.alignment(ALIGN_ORDER);
        let has_places = self.runs.iter().filter(|(_, at)| *at == 0).count() <= 1;
        has_places
            && !self.runs.iter().any(|(pages, at)| {
                let skipped = (align - at % align) % align;
                pages.saturating_sub(skipped) >= self.pages
            })
    }

    /// -EBUSY of an old kernel is set only by a candidate that was free.
    fn errno_proves_busy(&self) -> bool {
        self.was_busy || (self.errno == EBUSY && self.generation == CmaGeneration::Old)
    }

    /// The numbers, as every answer about it begins.
    fn numbers(&self) -> String {
        let asked = format!("{} pages asked", self.pages);
        let Some(sum) = self.sum else {
            return format!(
                "{asked}, ret -{}; the area's free runs are not in the log",
                self.errno
            );
        };
        let mut text = format!(
            "{asked}, {} of {} free ({} used)",
            sum.free,
            sum.total,
            per_cent(sum.total.saturating_sub(sum.free), sum.total)
        );
        if !self.runs.is_empty() {
            text.push_str(&format!(", longest free run {}", self.longest()));
        }
        format!("{text}, ret -{}", self.errno)
    }
}

/// Explains each failed claim.
pub fn failed(evidence: &Evidence) -> Vec<Finding> {
    claims(evidence)
        .iter()
        .flat_map(|claim| judge(evidence, claim))
        .collect()
}

/// The failed claims with the lists that follow them.
pub(super) fn claims(evidence: &Evidence) -> Vec<Claim<'_>> {
    let failures = evidence.all(|event| match event {
        Event::CmaFailed {
            generation,
            pages,
            errno,
            ..
        } => Some((*generation, *pages, *errno)),
        _ => None,
    });
    failures
        .into_iter()
        .map(|(seen, (generation, pages, errno))| {
            let mut claim = Claim {
                seen,
                pages,
                errno,
                generation,
                sum: None,
                runs: Vec::new(),
                was_busy: was_busy(evidence, seen, pages),
            };
            add_list(evidence, &mut claim);
            claim
        })
        .collect()
}

fn add_list(evidence: &Evidence, claim: &mut Claim<'_>) {
    let mut by_range = false;
    for seen in evidence.after(claim.seen, LIST_LINES) {
        match &seen.event {
            Event::CmaFailed { .. } => break,
            Event::CmaRuns {
                runs,
                by_range: is_by_range,
                sum,
            } => {
                claim.runs.extend(runs);
                by_range |= is_by_range;
                if sum.is_some() {
                    claim.sum = *sum;
                    break;
                }
            }
            _ => {}
        }
    }
    // Newer kernels list by range, or print the end of the list by itself.
    let free = claim.sum.map_or(0, |sum| sum.free);
    let is_new = by_range || (claim.runs.is_empty() && free > 0);
    claim.generation = match claim.generation {
        _ if is_new => CmaGeneration::New,
        CmaGeneration::Between if claim.sum.is_some() => CmaGeneration::Old,
        same => same,
    };
}

/// Whether lines just before say that a candidate of this size was busy.
fn was_busy(evidence: &Evidence, seen: &Seen, pages: u64) -> bool {
    evidence.around(seen, 6, 0).iter().any(|s| match s.event {
        Event::CmaRetry => true,
        Event::PfnsBusy { start, end } => end - start == pages,
        _ => false,
    })
}

fn judge(evidence: &Evidence, claim: &Claim<'_>) -> Vec<Finding> {
    let mut findings = match claim.sum {
        _ if claim.errno == EINTR => vec![interrupted(claim)],
        _ if ![ENOMEM, EBUSY].contains(&claim.errno) => vec![unknown_errno(claim)],
        Some(sum) if claim.pages > sum.free => short(claim, sum),
        Some(_) if claim.has_all_runs() => by_runs(claim),
        None if is_above_all_areas(evidence, claim.pages) => vec![too_small(
            claim,
            format!(
                "{}; all areas together are smaller than that",
                claim.numbers()
            ),
            Certainty::Certain,
        )],
        _ => by_errno(claim),
    };
    let may_fall_back = claim.pages <= BLOCK_PAGES && claim.errno != EINTR;
    if may_fall_back && !allocation_failed_near(evidence, claim.seen, 8) {
        let note = fallback(claim.seen, claim.pages);
        match findings.first_mut() {
            // The cause stands; that nothing may have come of it is a remark.
            Some(first) if first.certainty == Certainty::Certain => {
                first.arithmetic.push_str("; ");
                first.arithmetic.push_str(&note.arithmetic);
            }
            _ => findings.push(note),
        }
    }
    findings
}

/// Whether the log says how much is reserved, and it is less.
fn is_above_all_areas(evidence: &Evidence, pages: u64) -> bool {
    all_areas(evidence).is_some_and(|bytes| pages.saturating_mul(4096) > bytes)
}

/// Bytes of all contiguous areas, where the log has them.
pub(super) fn all_areas(evidence: &Evidence) -> Option<u64> {
    let total = evidence.first(|event| match event {
        Event::CmaTotal { bytes } => Some(*bytes),
        _ => None,
    });
    let reserved = evidence.all(|event| match event {
        Event::CmaReserved { bytes } => Some(*bytes),
        _ => None,
    });
    let sum = reserved
        .iter()
        .fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    total
        .map(|(_, bytes)| bytes)
        .or((!reserved.is_empty()).then_some(sum))
}

fn short(claim: &Claim<'_>, sum: CmaSum) -> Vec<Finding> {
    let text = format!("{}: {} > {}", claim.numbers(), claim.pages, sum.free);
    // An old kernel's -EBUSY contradicts the count, which is taken later.
    if claim.pages <= sum.total && claim.errno_proves_busy() {
        return vec![
            too_small(claim, text.clone(), Certainty::Likely),
            busy_claim(claim, text, Certainty::Likely),
        ];
    }
    vec![too_small(claim, text, Certainty::Certain)]
}

fn by_runs(claim: &Claim<'_>) -> Vec<Finding> {
    let numbers = claim.numbers();
    let longest = claim.longest();
    if longest < claim.pages {
        let text = format!(
            "{numbers}: enough pages in all, but {longest} < {} in one piece",
            claim.pages
        );
        if claim.errno_proves_busy() {
            return vec![
                fragmented(claim, text.clone(), Certainty::Likely),
                busy_claim(claim, text, Certainty::Likely),
            ];
        }
        return vec![fragmented(claim, text, Certainty::Certain)];
    }
    if claim.errno_proves_busy() {
        let proof = if claim.fits_anywhere(ALIGN_ORDER) {
            format!(
                "{longest} >= {} + {} of alignment: an aligned run was free, and was refused as busy",
                claim.pages,
                claim.alignment(ALIGN_ORDER) - 1
            )
        } else {
            "this kernel returns -16 only after a free aligned run was refused as busy".to_owned()
        };
        return vec![busy_claim(
            claim,
            format!("{numbers}: {proof}"),
            Certainty::Certain,
        )];
    }
    if claim.errno == ENOMEM && claim.generation == CmaGeneration::Old && claim.has_no_aligned_run()
    {
        let text = format!(
            "{numbers}: {longest} >= {}, but no run holds that from a multiple of {} pages on (the alignment of such a claim), \
             and -12 says the same",
            claim.pages,
            claim.alignment(ALIGN_ORDER)
        );
        return vec![fragmented(claim, text, Certainty::Certain)];
    }
    if claim.errno == EBUSY && claim.fits_anywhere(ALIGN_ORDER_MAX) {
        let text = format!(
            "{numbers}: {longest} >= {} + {} of the largest alignment: an aligned run was free, so it was refused as busy",
            claim.pages,
            claim.alignment(ALIGN_ORDER_MAX) - 1
        );
        return vec![busy_claim(claim, text, Certainty::Certain)];
    }
    let text = format!(
        "{numbers}: {longest} >= {}, but a claim must also be aligned",
        claim.pages
    );
    let fits = claim.fits_anywhere(ALIGN_ORDER);
    let (first, second) = if fits {
        (Certainty::Possible, Certainty::Likely)
    } else {
        (Certainty::Likely, Certainty::Possible)
    };
    vec![
        fragmented(claim, text.clone(), first),
        busy_claim(claim, text, second),
    ]
}

/// Without the runs, the errno is all there is.
fn by_errno(claim: &Claim<'_>) -> Vec<Finding> {
    let numbers = claim.numbers();
    if claim.errno_proves_busy() {
        let text = format!(
            "{numbers}: this kernel returns -16 only after a free aligned run was refused as busy"
        );
        return vec![busy_claim(claim, text, Certainty::Certain)];
    }
    if claim.errno == ENOMEM && claim.generation != CmaGeneration::New {
        let text = format!(
            "{numbers}: no aligned free run was found; too few pages or too scattered, not told apart"
        );
        return if claim.sum.is_some() {
            vec![fragmented(claim, text, Certainty::Likely)]
        } else {
            vec![
                too_small(claim, text.clone(), Certainty::Likely),
                fragmented(claim, text, Certainty::Possible),
            ]
        };
    }
    let text = format!(
        "{numbers}: newer kernels start from -16, so it does not tell small, scattered and busy apart"
    );
    vec![
        too_small(claim, text.clone(), Certainty::Likely),
        fragmented(claim, text.clone(), Certainty::Possible),
        busy_claim(claim, text, Certainty::Possible),
    ]
}

fn too_small(claim: &Claim<'_>, sum: String, certainty: Certainty) -> Finding {
    let fix = format!(
        "a larger area: cma= with at least {} more than is in use, or the area's size in the device tree",
        human(claim.pages.saturating_mul(4096))
    );
    Finding::new(claim.seen, Cause::CmaTooSmall, certainty, sum)
        .fixed_by([fix.as_str(), "smaller or fewer buffers"])
        .not_helped_by(["hunting pinned pages", "compaction, if pages are missing"])
}

fn fragmented(claim: &Claim<'_>, sum: String, certainty: Certainty) -> Finding {
    Finding::new(claim.seen, Cause::CmaFragmented, certainty, sum)
        .fixed_by([
            "allocate the large buffers first and keep them; an area of its own for the large user",
            "a larger area leaves longer runs",
        ])
        .not_helped_by([
            "retrying: allocated buffers do not move",
            "unpinning pages outside the area",
        ])
}

fn busy_claim(claim: &Claim<'_>, sum: String, certainty: Certainty) -> Finding {
    busy_at(claim.seen, sum, certainty)
}

pub(super) fn busy_at(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::CmaPinnedOrBusy, certainty, sum)
        .fixed_by([
            "find what holds pages in the area: pins, page cache under writeback, concurrent claims of the same block",
            "claim early, retry later, or keep the area for this user alone",
        ])
        .not_helped_by(["a larger cma=: free runs exist and are refused", "compaction"])
}

fn interrupted(claim: &Claim<'_>) -> Finding {
    Finding::new(
        claim.seen,
        Cause::Other,
        Certainty::Likely,
        format!(
            "{}: -4 is EINTR, a fatal signal ended the claim; the task was being killed",
            claim.numbers()
        ),
    )
    .fixed_by(["nothing in the area: find who killed the task"])
    .not_helped_by(["a larger cma="])
}

fn unknown_errno(claim: &Claim<'_>) -> Finding {
    Finding::new(
        claim.seen,
        Cause::Other,
        Certainty::Likely,
        format!(
            "{}: neither -12 nor -16, so not a matter of room",
            claim.numbers()
        ),
    )
}

pub(super) fn fallback(seen: &Seen, pages: u64) -> Finding {
    Finding::new(
        seen,
        Cause::Harmless,
        Certainty::Possible,
        format!(
            "{pages} pages <= {BLOCK_PAGES} ({} with 4 KiB pages): the page allocator may have served it instead; \
             no failed allocation stands beside this line",
            human(BLOCK_BYTES)
        ),
    )
    .fixed_by(["nothing, unless a driver fails afterwards"])
}
