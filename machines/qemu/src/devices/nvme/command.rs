//! Commands, and the pages that they name.

use dmakit_addr::IovaRange;
use dmakit_platform::Window;

/// A submission queue entry.
pub(super) type Command = [u64; 8];

/// The page size that the controller was enabled with.
pub(super) const PAGE: u64 = 4096;

pub(super) const CREATE_SUBMISSION: u8 = 0x01;
pub(super) const CREATE_COMPLETION: u8 = 0x05;
pub(super) const IDENTIFY: u8 = 0x06;
pub(super) const FLUSH: u8 = 0x00;
pub(super) const WRITE: u8 = 0x01;
pub(super) const READ: u8 = 0x02;

/// What `IDENTIFY` returns.
#[derive(Clone, Copy, Debug)]
pub(super) enum Identify {
    Namespace = 0,
    Controller = 1,
}

fn head(opcode: u8, slot: u16, namespace: u32) -> u64 {
    u64::from(opcode) | u64::from(slot) << 16 | u64::from(namespace) << 32
}

pub(super) fn identify(slot: u16, namespace: u32, what: Identify, page: u64) -> Command {
    [
        head(IDENTIFY, slot, namespace),
        0,
        0,
        page,
        0,
        what as u64,
        0,
        0,
    ]
}

/// A completion queue of `entries` without interrupts, contiguous.
pub(super) fn create_completion(slot: u16, queue: u16, entries: u16, base: u64) -> Command {
    let shape = u64::from(queue) | u64::from(entries - 1) << 16;
    // Dword 11: physically contiguous.
    [
        head(CREATE_COMPLETION, slot, 0),
        0,
        0,
        base,
        0,
        shape | 1 << 32,
        0,
        0,
    ]
}

/// A submission queue of `entries` that completes into the queue of the same number.
pub(super) fn create_submission(slot: u16, queue: u16, entries: u16, base: u64) -> Command {
    let shape = u64::from(queue) | u64::from(entries - 1) << 16;
    let flags = 1 | u64::from(queue) << 16;
    [
        head(CREATE_SUBMISSION, slot, 0),
        0,
        0,
        base,
        0,
        shape | flags << 32,
        0,
        0,
    ]
}

pub(super) fn flush(slot: u16, namespace: u32) -> Command {
    [head(FLUSH, slot, namespace), 0, 0, 0, 0, 0, 0, 0]
}

/// A transfer of `blocks`, at least one, at `lba`.
pub(super) fn transfer(
    opcode: u8,
    slot: u16,
    namespace: u32,
    prps: [u64; 2],
    lba: u64,
    blocks: u16,
) -> Command {
    let count = u64::from(blocks - 1);
    [
        head(opcode, slot, namespace),
        0,
        0,
        prps[0],
        prps[1],
        lba,
        count,
        0,
    ]
}

/// The two page references of a command that transfers `range` (4.3), and how many entries it has
/// in `list`, one page that the device sees at `list_iova`. `None` where it has more pages than the
/// list has room for.
pub(super) fn prps(
    range: IovaRange,
    list: Window<'_>,
    list_iova: u64,
) -> Option<([u64; 2], usize)> {
    let first = range.start().raw();
    let second = (first & !(PAGE - 1)) + PAGE;
    let end = range.end().raw();
    let rest = end.saturating_sub(second).div_ceil(PAGE);
    match rest {
        0 => Some(([first, 0], 0)),
        1 => Some(([first, second], 0)),
        _ => {
            let words = list.words64()?.get(..rest as usize)?;
            for (index, word) in (0_u64..).zip(words) {
                let page = second + index * PAGE;
                word.store(page.to_le(), std::sync::atomic::Ordering::Relaxed);
            }
            Some(([first, list_iova], rest as usize))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmakit_addr::{Iova, PhysAddr, PhysRange};
    use dmakit_platform::host::HostRam;

    fn built(start: u64, len: u64) -> Option<([u64; 2], Vec<u64>)> {
        let ram = PhysRange::new(PhysAddr::new(0x1000), PAGE).unwrap();
        let (_, segments) = HostRam::new(&[ram]).unwrap();
        let window = segments[0].window();
        let range = IovaRange::new(Iova::new(start), len).unwrap();
        let (prps, count) = prps(range, window, 0xabc_0000)?;
        let words = window.words64().unwrap();
        let list = words[..count]
            .iter()
            .map(|word| word.load(std::sync::atomic::Ordering::Relaxed));
        Some((prps, list.collect()))
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        assert_eq!(built(0x5000, 0x1000), Some(([0x5000, 0], vec![])));
        assert_eq!(built(0x5200, 0x200), Some(([0x5200, 0], vec![])));
        assert_eq!(
            built(0x5200, 0xe00),
            Some(([0x5200, 0], vec![])),
            "to the page's end"
        );
        assert_eq!(built(0x5200, 0x1000), Some(([0x5200, 0x6000], vec![])));
        assert_eq!(built(0x5000, 0x2000), Some(([0x5000, 0x6000], vec![])));
    }

    #[test]
    fn more_pages_are_listed_from_the_second_on() {
        let list = vec![0x6000, 0x7000];
        assert_eq!(
            built(0x5000, 0x3000),
            Some(([0x5000, 0xabc_0000], list.clone()))
        );
        assert_eq!(built(0x5e00, 0x2000), Some(([0x5e00, 0xabc_0000], list)));
    }

    #[test]
    fn a_list_of_one_page_has_an_end() {
        assert!(built(0x5000, 513 * PAGE).is_some());
        assert_eq!(built(0x5000, 514 * PAGE), None);
        assert_eq!(built(0x5200, 513 * PAGE), None);
    }
}
