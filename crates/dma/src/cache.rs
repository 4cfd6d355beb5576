//! What a device that goes past the CPU's caches makes necessary.
//!
//! | moment | device reads | device writes | both |
//! |---|---|---|---|
//! | map | clean | clean and invalidate | clean and invalidate |
//! | sync for the device | clean | | clean |
//! | sync for the CPU, unmap | | invalidate | invalidate |
//!
//! Before the device writes, no line of the buffer may be dirty: it could be written back at any
//! moment, over what the device wrote. Cleaning, rather than dropping, what the CPU wrote there
//! keeps zeroes that were to hide a former owner's bytes. After the device wrote, lines must go once
//! more, because the CPU may have fetched any of them by speculation in the meantime.
//!
//! What is dropped is always whole lines; that none of them holds anybody else's bytes is decided
//! at map, where a buffer with a shared line is bounced.

use dmakit_addr::{Address, Direction, PhysRange};
use dmakit_platform::Platform;

/// `run` widened to whole lines; as far as the address space goes.
#[inline]
pub(crate) fn whole_lines(run: PhysRange, line_bytes: u64) -> PhysRange {
    let start = run.start().align_down(line_bytes);
    let end = run.end().align_up(line_bytes).unwrap_or(run.end());
    PhysRange::between(start, end).unwrap_or(run)
}

/// Whether `run` begins and ends on edges of `unit` bytes, so that nobody shares its units.
#[inline]
pub(crate) fn has_whole(run: PhysRange, unit: u64) -> bool {
    run.start().is_aligned(unit) && run.end().is_aligned(unit)
}

/// Before the device owns `run` for the first time.
#[inline]
pub(crate) fn before_device<P: Platform>(platform: &P, run: PhysRange, direction: Direction) {
    let lines = whole_lines(run, platform.cache_line_bytes());
    if direction.device_writes() {
        platform.clean_invalidate(lines);
    } else {
        platform.clean(lines);
    }
}

/// Before the device goes on with what the CPU wrote into `run`.
#[inline]
pub(crate) fn after_cpu_wrote<P: Platform>(platform: &P, run: PhysRange) {
    platform.clean(whole_lines(run, platform.cache_line_bytes()));
}

/// Before the CPU reads what the device wrote into `run`.
#[inline]
pub(crate) fn before_cpu_reads<P: Platform>(platform: &P, run: PhysRange) {
    platform.invalidate(whole_lines(run, platform.cache_line_bytes()));
}

/// The parts of `runs` that `len` bytes from `offset` touch.
pub(crate) fn slices(
    runs: impl Iterator<Item = PhysRange>,
    offset: u64,
    len: u64,
) -> impl Iterator<Item = PhysRange> {
    let mut skip = offset;
    let mut left = len;
    runs.filter_map(move |run| {
        if skip >= run.len() {
            skip -= run.len();
            return None;
        }
        let part = run.slice(skip, left.min(run.len() - skip))?;
        skip = 0;
        left -= part.len();
        Some(part).filter(|part| !part.is_empty())
    })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use dmakit_addr::PhysAddr;
    use std::vec::Vec;

    fn run(start: u64, len: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), len).unwrap()
    }

    #[test]
    fn lines_touched_in_part_are_taken_whole() {
        assert_eq!(whole_lines(run(0x7f, 2), 64), run(0x40, 0x80));
        assert_eq!(whole_lines(run(0x80, 0x40), 64), run(0x80, 0x40));
        assert!(has_whole(run(0x80, 0x40), 64));
        assert!(!has_whole(run(0x80, 0x41), 64));
    }

    #[test]
    fn a_slice_of_runs_skips_and_stops_inside_them() {
        let runs = [run(0x1000, 0x10), run(0x5000, 0), run(0x9000, 0x10)];
        let parts = |offset, len| slices(runs.into_iter(), offset, len).collect::<Vec<_>>();
        assert_eq!(parts(8, 0x10), [run(0x1008, 8), run(0x9000, 8)]);
        assert_eq!(parts(0x10, 1), [run(0x9000, 1)]);
        assert_eq!(parts(0, 0), []);
        assert_eq!(parts(0x20, 5), []);
    }
}
