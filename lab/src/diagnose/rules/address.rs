//! Addresses that a device cannot reach.

use crate::diagnose::cause::{Cause, Certainty};
use crate::diagnose::event::{Event, Stage};
use crate::diagnose::evidence::{Evidence, Seen};
use crate::diagnose::finding::Finding;

/// No machine has RAM from here on: such an address is no memory, or carries
/// bits (memory encryption) that are not part of it.
const NO_RAM_FROM: u64 = 1 << 47;
/// A kernel stack is at most this large.
const STACK_BYTES: u64 = 32 << 10;
/// Bits in which a mistranslated stack address still agrees with it: RAM and
/// the kernel's mappings begin on multiples of 256 MiB.
const STACK_BITS: u64 = (1 << 28) - 1;

/// What an overflow line says.
#[derive(Clone, Copy)]
struct Overflow {
    stage: Stage,
    address: u64,
    size: u64,
    mask: u64,
    limit: u64,
}

impl Overflow {
    fn reach(&self) -> u64 {
        if self.limit == 0 {
            self.mask
        } else {
            self.mask.min(self.limit)
        }
    }

    fn last(&self) -> Option<u64> {
        self.address.checked_add(self.size.max(1) - 1)
    }
}

/// Redoes the comparison that the line claims.
pub fn overflow(evidence: &Evidence) -> Vec<Finding> {
    let all = evidence.all(|event| match event {
        Event::Overflow {
            stage,
            address,
            size,
            mask,
            limit,
        } => Some(Overflow {
            stage: *stage,
            address: *address,
            size: *size,
            mask: *mask,
            limit: *limit,
        }),
        _ => None,
    });
    all.into_iter()
        .flat_map(|(seen, over)| judge(evidence, seen, over))
        .collect()
}

fn judge(evidence: &Evidence, seen: &Seen, over: Overflow) -> Vec<Finding> {
    let reach = over.reach();
    let Some(last) = over.last() else {
        return vec![unreachable(seen, over)];
    };
    if last <= reach {
        return vec![in_reach(seen, over, last)];
    }
    let what = if over.limit != 0 && over.limit < over.mask {
        "bus limit"
    } else {
        "mask"
    };
    let sum = format!(
        "{:#x} + {} - 1 = {last:#x} > {reach:#x} ({what})",
        over.address, over.size
    );
    if over.stage == Stage::Bounced {
        return vec![slot_out_of_reach(seen, &sum)];
    }
    if let Some(why) = not_memory(evidence, over) {
        return no_memory_address(seen, &sum, &why);
    }
    if is_noforce(evidence) {
        return vec![
            Finding::new(
                seen,
                Cause::Noforce,
                Certainty::Certain,
                format!("{sum}, and swiotlb=noforce on the command line forbids the bounce"),
            )
            .fixed_by([
                "remove swiotlb=noforce",
                "or translate: switch the IOMMU on",
            ])
            .not_helped_by(["swiotlb=SLOTS while noforce stays"]),
        ];
    }
    if over.stage == Stage::Either && pool_failed(evidence) {
        // The bounce was tried and failed: the pool's own line explains it.
        return vec![beyond(
            seen,
            format!("{sum}; a bounce was tried and failed"),
            Certainty::Possible,
        )];
    }
    let tried = match over.stage {
        Stage::Direct => "; this wording means that no bounce pool was active",
        _ => "; no bounce served it",
    };
    vec![beyond(seen, format!("{sum}{tried}"), Certainty::Certain)]
}

fn beyond(seen: &Seen, sum: String, certainty: Certainty) -> Finding {
    Finding::new(seen, Cause::AddressBeyondMaskNoBounce, certainty, sum)
        .fixed_by([
            "give the device a way to the memory: a bounce pool (no swiotlb=noforce; swiotlb=force if none is made), or the IOMMU on (no iommu=off)",
            "if the device can address more, its driver must set a wider DMA mask",
        ])
        .not_helped_by(["a larger swiotlb= where no pool is active", "reinstalling the driver"])
}

fn slot_out_of_reach(seen: &Seen, sum: &str) -> Finding {
    Finding::new(
        seen,
        Cause::AddressBeyondMaskNoBounce,
        Certainty::Certain,
        format!("{sum}: a bounce slot was found, but the pool itself is out of the device's reach"),
    )
    .fixed_by([
        "the driver sets the mask the hardware really has (64 bit for many)",
        "or the pool must lie lower: the architecture's DMA zone limit, a restricted-dma-pool in reach",
    ])
    .not_helped_by(["a larger pool, more areas: the pool is neither full nor absent"])
}

fn in_reach(seen: &Seen, over: Overflow, last: u64) -> Finding {
    Finding::new(
        seen,
        Cause::Other,
        Certainty::Likely,
        format!(
            "{:#x} + {} - 1 = {last:#x} <= {:#x}: the address is within reach, so the mask is not the reason{}",
            over.address,
            over.size,
            over.reach(),
            match over.stage {
                Stage::Bounced => "",
                _ => "; 6.12 prints this also for a small unaligned buffer that must bounce while no pool is active",
            }
        ),
    )
    .fixed_by([
        "a bounce pool (swiotlb=SLOTS or swiotlb=force) for buffers smaller than a cache line",
        "or an aligned buffer of its own in the driver",
    ])
    .not_helped_by(["a wider DMA mask"])
}

fn unreachable(seen: &Seen, over: Overflow) -> Finding {
    Finding::new(
        seen,
        Cause::AddressBeyondMaskNoBounce,
        Certainty::Likely,
        format!(
            "{:#x} is not an address: no dma-ranges window of the bus covers the buffer",
            over.address
        ),
    )
    .fixed_by(["dma-ranges of the device's bus in the device tree must cover the memory"])
    .not_helped_by(["a larger pool"])
}

/// Why the address cannot be that of memory, if so.
fn not_memory(evidence: &Evidence, over: Overflow) -> Option<String> {
    let stack = evidence.first(|event| match event {
        Event::StackPointer { value } => {
            (over.size < STACK_BYTES && is_on_stack(over.address, *value)).then_some(*value)
        }
        _ => None,
    });
    if let Some((_, value)) = stack {
        return Some(format!(
            "its low bits are those of the kernel stack (sp {value:#x}): the buffer is on the stack"
        ));
    }
    (over.address >= NO_RAM_FROM).then(|| {
        "no RAM lies there: it is a mistranslated kernel address (vmalloc, stack, module), \
         or memory-encryption bits are part of it"
            .to_owned()
    })
}

/// Whether the address lies just above the stack pointer, once both lose the
/// bits in which kernel and physical addresses differ.
fn is_on_stack(address: u64, stack: u64) -> bool {
    let above = (address & STACK_BITS).wrapping_sub(stack & STACK_BITS) & STACK_BITS;
    above < STACK_BYTES && address & 0xfff != 0
}

fn no_memory_address(seen: &Seen, sum: &str, why: &str) -> Vec<Finding> {
    vec![
        Finding::new(
            seen,
            Cause::Other,
            Certainty::Likely,
            format!("{sum}, literally; but {why}"),
        )
        .fixed_by([
            "the driver must pass memory that may be mapped: kmalloc or page memory, not stack or vmalloc",
        ])
        .not_helped_by(["any swiotlb or IOMMU setting"]),
        beyond(seen, sum.to_owned(), Certainty::Possible),
    ]
}

/// `Cannot do DMA to address`: bouncing is switched off.
pub fn refused(evidence: &Evidence) -> Vec<Finding> {
    let refusals = evidence.all(|event| match event {
        Event::BounceRefused { address } => Some(*address),
        _ => None,
    });
    refusals
        .into_iter()
        .filter(|(seen, _)| {
                        let near = evidence.around(seen, 6, 6);
            !near.iter().any(|s| matches!(s.event, Event::Overflow { .. }))
        })
        .flat_map(|(seen, address)| {
            let sum = format!(
                "address {address:#x} must bounce and bouncing is off: by swiotlb=noforce, or because all memory \
                 known at boot was in reach"
            );
            if is_noforce(evidence) {
                return vec![
                    Finding::new(seen, Cause::Noforce, Certainty::Certain, sum)
                        .fixed_by(["remove swiotlb=noforce"])
                        .not_helped_by(["swiotlb=SLOTS while noforce stays"]),
                ];
            }
            vec![
                beyond(seen, sum.clone(), Certainty::Likely),
                Finding::new(seen, Cause::Noforce, Certainty::Possible, sum)
                    .fixed_by(["look for swiotlb=noforce on the kernel command line"]),
            ]
        })
        .collect()
}

/// A pool that could not be made at boot.
pub fn no_pool_at_boot(evidence: &Evidence) -> Vec<Finding> {
    let failures = evidence.all(|event| matches!(event, Event::PoolAbsent).then_some(()));
    failures
        .into_iter()
        .map(|(seen, ())| {
            Finding::new(
                seen,
                Cause::Other,
                Certainty::Likely,
                "no bounce pool could be made at boot: no contiguous low memory of that size was free".to_owned(),
            )
            .fixed_by(["a smaller swiotlb=SLOTS, or less low memory reserved by others (crash kernel, firmware)"])
            .not_helped_by(["a larger swiotlb="])
        })
        .collect()
}

/// Memory that may not be mapped at all.
pub fn not_linear(evidence: &Evidence) -> Vec<Finding> {
    let refusals = evidence.all(|event| matches!(event, Event::NotLinearMemory).then_some(()));
    refusals
        .into_iter()
        .map(|(seen, ())| {
            Finding::new(
                seen,
                Cause::Other,
                Certainty::Certain,
                "stated by the line: the buffer is not linear-map memory, so it has no single physical address".to_owned(),
            )
            .fixed_by([
                "the driver that owns the buffer must allocate it with kmalloc or usb_alloc_coherent, or say that it is mapped already; \
                 it is a client of the device named here",
            ])
            .not_helped_by(["any sizing of memory"])
        })
        .collect()
}

fn is_noforce(evidence: &Evidence) -> bool {
    let line = evidence.first(|event| match event {
        Event::CommandLine { text } => Some(text),
        _ => None,
    });
    line.is_some_and(|(_, text)| {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix("swiotlb="))
            .any(|value| value.split(',').any(|part| part == "noforce"))
    })
}

fn pool_failed(evidence: &Evidence) -> bool {
    let full = evidence.first(|event| match event {
        Event::PoolFull { pool, .. } => Some(pool.is_none_or(|p| p.total > 0)),
        _ => None,
    });
    full.is_some_and(|(_, exists)| exists)
}
