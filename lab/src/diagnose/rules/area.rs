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
const LIST_LINES: u64 = 12;

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
fn claims(evidence: &Evidence) -> Vec<Claim<'_>> {
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
    evidence.seen.iter().any(|s| {
        let near = s.line < seen.line && s.line.saturating_add(6) >= seen.line;
        near && match s.event {
            Event::CmaRetry => true,
            Event::PfnsBusy { start, end } => end - start == pages,
            _ => false,
        }
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
fn all_areas(evidence: &Evidence) -> Option<u64> {
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

fn busy_at(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
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

fn fallback(seen: &Seen, pages: u64) -> Finding {
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

/// Memory unplug and huge pages try ranges too, and go on without.
fn other_caller(seen: &Seen, pages: u64) -> Finding {
    if pages <= BLOCK_PAGES && !pages.is_power_of_two() {
        return fallback(seen, pages);
    }
    Finding::new(
        seen,
        Cause::Harmless,
        Certainty::Possible,
        format!(
            "{pages} pages: not every such range is a DMA allocation (memory unplug and huge pages try them too), \
             and no failed allocation stands beside this line"
        ),
    )
    .fixed_by(["nothing, unless a driver fails afterwards"])
}

/// Ranges found busy, where no failed claim explains them already.
pub fn busy(evidence: &Evidence) -> Vec<Finding> {
    let mut ranges = evidence.all(|event| match event {
        Event::PfnsBusy { start, end } => Some((*start, *end)),
        _ => None,
    });
    let failures = claims(evidence);
    ranges.retain(|(seen, _)| {
        !failures
            .iter()
            .any(|c| c.seen.line.abs_diff(seen.line) <= LIST_LINES)
    });
    let mut lengths: Vec<u64> = ranges.iter().map(|(_, (start, end))| end - start).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let mut findings = Vec::new();
    for pages in lengths.into_iter().rev() {
        let same: Vec<(&Seen, (u64, u64))> = ranges
            .iter()
            .copied()
            .filter(|(_, (start, end))| end - start == pages)
            .collect();
        findings.extend(busy_ranges(evidence, pages, &same));
    }
    findings
}

fn busy_ranges(evidence: &Evidence, pages: u64, same: &[(&Seen, (u64, u64))]) -> Vec<Finding> {
    let Some((seen, (start, end))) = same.first().copied() else {
        return Vec::new();
    };
    let mut sum = format!(
        "[{start:#x}, {end:#x}) = {pages} pages: free in the area's bitmap, refused as busy"
    );
    let step = same.windows(2).find_map(|pair| match pair {
        [(_, (a, _)), (_, (b, _))] => b.checked_sub(*a).filter(|step| *step > 0),
        _ => None,
    });
    if let Some(step) = step {
        sum.push_str(&format!(
            "; {} windows of that length, in steps of {step:#x} pages, were refused",
            same.len()
        ));
    }
    // Windows that overlap are successive tries of one request.
    let is_one_request = step.is_some_and(|step| step < pages);
    let failed = same
        .iter()
        .any(|(s, _)| allocation_failed_near(evidence, s, 10));
    let mut findings = Vec::new();
    if !failed && pages <= 1 {
        findings.push(
            Finding::new(
                seen,
                Cause::Harmless,
                Certainty::Likely,
                format!("{sum}; a request of one page is served by the page allocator, and no failure stands beside it"),
            )
            .fixed_by(["nothing; newer kernels no longer ask a contiguous area for one page"]),
        );
        findings.push(busy_at(seen, sum, Certainty::Possible));
    } else {
        let certainty = if failed || is_one_request {
            Certainty::Certain
        } else {
            Certainty::Likely
        };
        findings.push(busy_at(seen, sum, certainty));
        if certainty != Certainty::Certain {
            findings.push(other_caller(seen, pages));
        }
    }
    findings
        .into_iter()
        .map(|f| f.counted(same.len()))
        .collect()
}

/// A coherent allocation that fell through to the bounce pool.
pub fn coherent(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| match event {
        Event::CoherentFailed { size } => Some(*size),
        _ => None,
    });
    if !claims(evidence).is_empty() {
        return Vec::new();
    }
    let area = all_areas(evidence);
    let served = evidence.all(|event| match event {
        Event::CoherentServed { size } => Some(*size),
        _ => None,
    });
    let largest = served.iter().map(|(_, size)| *size).max().unwrap_or(0);
    failures
        .into_iter()
        .filter(|(seen, _)| !had_a_slot(evidence, seen))
        .flat_map(|(seen, size)| match huge_page(evidence, seen, size) {
            Some(finding) => vec![finding],
            None => fell_through(seen, size, area, largest),
        })
        .collect()
}

/// Whether the line before says that a slot was found but not reachable.
fn had_a_slot(evidence: &Evidence, seen: &Seen) -> bool {
    evidence.seen.iter().any(|s| {
        matches!(s.event, Event::Overflow { .. }) && s.line < seen.line && seen.line - s.line <= 2
    })
}

/// Graphics drivers ask for one huge page first and fall back to small ones;
/// until 4.18 the bounce pool complained all the same.
fn huge_page(evidence: &Evidence, seen: &Seen, size: u64) -> Option<Finding> {
    const DRIVERS: [&str; 5] = ["amdgpu", "radeon", "nouveau", "ttm", "vmwgfx"];
    let refused = |s: &Seen| matches!(s.event, Event::AllocationFailed { .. });
    if size != 2 << 20 || evidence.seen.iter().any(refused) {
        return None;
    }
    let device = seen.device.as_deref()?;
    let driver = evidence.seen.iter().find_map(|s| {
        let (driver, address) = s.device.as_deref()?.split_once(' ')?;
        (device.ends_with(address) && DRIVERS.contains(&driver)).then_some(driver)
    })?;
    Some(
        Finding::new(
            seen,
            Cause::Harmless,
            Certainty::Certain,
            format!(
                "{size} B is one huge page, above the 262144 B that the bounce pool serves, so this last fallback can never succeed; \
                 {driver} then takes 4 KiB pages, and no failure follows"
            ),
        )
        .fixed_by(["nothing to fix; kernels from 4.18 on no longer print it"]),
    )
}

/// `served` is the largest coherent buffer that was given out before.
fn fell_through(seen: &Seen, size: u64, area: Option<u64>, served: u64) -> Vec<Finding> {
    let sum = if size > BLOCK_BYTES {
        format!(
            "{size} B: tried in a contiguous area first, then the page allocator ({size} > {BLOCK_BYTES} B with 4 KiB pages), \
             then the bounce pool ({size} > 262144 B); only an area could have served it, and none did"
        )
    } else {
        format!(
            "{size} B: tried in a contiguous area first, then the page allocator, then the bounce pool, which serves at most 262144 B; none had it"
        )
    };
    let absent = |certainty, sum: String| {
        Finding::new(seen, Cause::CmaAbsent, certainty, sum)
            .fixed_by(["reserve an area: cma=SIZE larger than the allocation (the kernel needs CONFIG_DMA_CMA)"])
            .not_helped_by([
                "swiotlb=: the message of the bounce pool is the last fallback speaking, not the cause",
                "freeing memory: blocks above 4 MiB do not exist in the page allocator",
            ])
    };
    let small = |certainty, sum: String| {
        Finding::new(seen, Cause::CmaTooSmall, certainty, sum)
            .fixed_by(["a larger cma=; compare it with CmaTotal and CmaFree in /proc/meminfo"])
            .not_helped_by(["a larger swiotlb="])
    };
    match area {
        Some(0) => vec![absent(
            Certainty::Certain,
            format!("{sum}; the log says that 0 B are reserved"),
        )],
        Some(bytes) if bytes < size => vec![small(
            Certainty::Certain,
            format!("{sum}; the areas hold {bytes} B < {size} B"),
        )],
        Some(bytes) => vec![small(
            Certainty::Likely,
            format!("{sum}; the areas hold {bytes} B in all"),
        )],
        None if served > BLOCK_BYTES => vec![small(
            Certainty::Likely,
            format!("{sum}; {served} B were given out before, so an area exists"),
        )],
        None => vec![
            absent(Certainty::Likely, sum.clone()),
            small(Certainty::Possible, sum),
        ],
    }
}
