//! Boot options that were refused or do not say what was meant, and notices.

use super::{SEGMENT_SLOTS, SLOT, human};
use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::Event;
use crate::diagnose::evidence::Evidence;
use crate::diagnose::finding::Finding;

/// Options the kernel itself refused.
pub fn refused(evidence: &Evidence) -> Vec<Finding> {
    let options = evidence.all(|event| match event {
        Event::OptionRefused { option } => Some(option),
        _ => None,
    });
    options
        .into_iter()
        .map(|(seen, option)| {
            Finding::new(
                seen,
                Cause::BadParameter,
                Certainty::Certain,
                format!("the kernel says that it does not understand `{option}`: it has no effect"),
            )
            .fixed_by(["write the option as the kernel's parameter list has it; iommu.passthrough=1 is what `pt` means everywhere"])
            .not_helped_by(["keeping it: it is ignored"])
        })
        .collect()
}

/// `swiotlb=64M` is read as 64 slots.
pub fn slots_with_unit(evidence: &Evidence) -> Vec<Finding> {
    let Some((seen, line)) = evidence.first(|event| match event {
        Event::CommandLine { text } => Some(text),
        _ => None,
    }) else {
        return Vec::new();
    };
    let value = line
        .split_whitespace()
        .filter_map(|w| w.strip_prefix("swiotlb="))
        .next_back();
    let Some((slots, shift)) = value.and_then(number_and_unit) else {
        return Vec::new();
    };
    let meant = slots.saturating_mul(1 << shift);
    let effective = slots.div_ceil(SEGMENT_SLOTS).saturating_mul(SEGMENT_SLOTS);
    let pool = evidence.first(|event| match event {
        Event::PoolFull { pool, .. } => pool.map(|p| p.total.saturating_mul(SLOT)),
        Event::PoolMapped { bytes } => Some(*bytes),
        _ => None,
    });
    let certainty = match pool {
        Some((_, bytes)) if bytes < meant => Certainty::Certain,
        _ => Certainty::Likely,
    };
    vec![
        Finding::new(
            seen,
            Cause::BadParameter,
            certainty,
            format!(
                "swiotlb= takes a number of slots and no unit: {slots} slots, rounded to {effective} = {}, where {} was meant ({} slots)",
                human(effective.saturating_mul(SLOT)),
                human(meant),
                meant / SLOT
            ),
        )
        .fixed_by(["write slots of 2 KiB: swiotlb=32768 is 64 MiB"])
        .not_helped_by(["a larger number with a unit"]),
    ]
}

fn number_and_unit(value: &str) -> Option<(u64, u32)> {
    let first = value.split(',').next()?;
    let unit = first.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = first.strip_suffix(unit)?.parse().ok()?;
    let shift = match unit {
        "K" | "k" | "KB" => 10,
        "M" | "m" | "MB" => 20,
        "G" | "g" | "GB" => 30,
        _ => return None,
    };
    Some((number, shift))
}

/// Lines that look like failures and are none.
pub fn notices(evidence: &Evidence) -> Vec<Finding> {
    let notices = evidence.all(|event| match event {
        Event::Notice { why } => Some(*why),
        Event::Iova64Bit => Some(
            "the search below 4 GiB failed once, so the device now uses its whole address width for good; \
             only a device whose upper address bits are broken suffers",
        ),
        _ => None,
    });
    notices
        .into_iter()
        .map(|(seen, why)| {
            Finding::new(seen, Cause::Harmless, Certainty::Certain, why.to_owned())
                .fixed_by(["nothing to fix"])
        })
        .collect()
}
