//! Commands, and the pages that they name.

use dmakit_dma::DmaSegment;

/// A submission queue entry.
pub(super) type Command = [u64; 8];

/// The page size that the controller was enabled with.
pub(super) const PAGE: u64 = 4096;

/// Pages that one PRP list names: it has one page itself.
pub(super) const LIST_ENTRIES: usize = PAGE as usize / 8;

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

/// A completion queue of `entries`, contiguous, which interrupts by `vector`, if by one.
pub(super) fn create_completion(
    slot: u16,
    queue: u16,
    entries: u16,
    base: u64,
    vector: Option<u16>,
) -> Command {
    let shape = u64::from(queue) | u64::from(entries - 1) << 16;
    // Dword 11: physically contiguous, interrupts enabled, which.
    let flags = match vector {
        None => 1,
        Some(vector) => 0b11 | u64::from(vector) << 16,
    };
    [
        head(CREATE_COMPLETION, slot, 0),
        0,
        0,
        base,
        0,
        shape | flags << 32,
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

/// Why memory cannot be named to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PrpError {
    /// A piece begins where it must not, or the piece before it ends there.
    Misplaced(DmaSegment),
    /// There are more pages than a list has room for.
    Pages,
}

/// The two page references of a command that transfers `segments` (4.3). Of the pages after the first,
/// `put` is told the place in the list, which the device sees at `list`, and the address: only the
/// first segment may begin inside a page, and only the last end there.
pub(super) fn prps(
    segments: &[DmaSegment],
    list: u64,
    mut put: impl FnMut(usize, u64),
) -> Result<[u64; 2], PrpError> {
    let (mut first, mut second, mut entries) = (0, 0, 0);
    for (index, segment) in segments.iter().enumerate() {
        let (start, end) = (segment.addr.raw(), segment.addr.raw() + segment.len);
        let must_be_whole = if index == 0 { 3 } else { PAGE - 1 };
        let is_last = index + 1 == segments.len();
        if start & must_be_whole != 0 || (!is_last && end & (PAGE - 1) != 0) {
            return Err(PrpError::Misplaced(*segment));
        }
        let mut page = start;
        if index == 0 {
            first = start;
            page = (start & !(PAGE - 1)) + PAGE;
        }
        while page < end {
            if entries == LIST_ENTRIES {
                return Err(PrpError::Pages);
            }
            if entries == 0 {
                second = page;
            }
            put(entries, page);
            entries += 1;
            page += PAGE;
        }
    }
    Ok([first, if entries > 1 { list } else { second }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmakit_addr::DmaAddr;

    const LIST: u64 = 0xabc_0000;

    fn built(segments: &[(u64, u64)]) -> Result<([u64; 2], Vec<u64>), PrpError> {
        let mut list = Vec::new();
        let segments: Vec<_> = segments
            .iter()
            .map(|&(addr, len)| DmaSegment {
                addr: DmaAddr::new(addr),
                len,
            })
            .collect();
        let prps = prps(&segments, LIST, |index, page| {
            assert_eq!(index, list.len());
            list.push(page);
        })?;
        if prps[1] != LIST {
            list.clear();
        }
        Ok((prps, list))
    }

    #[test]
    fn one_and_two_pages_need_no_list() {
        let none = Vec::new;
        assert_eq!(built(&[(0x5000, 0x1000)]), Ok(([0x5000, 0], none())));
        assert_eq!(built(&[(0x5200, 0x200)]), Ok(([0x5200, 0], none())));
        let to_the_end = built(&[(0x5200, 0xe00)]);
        assert_eq!(to_the_end, Ok(([0x5200, 0], none())));
        assert_eq!(built(&[(0x5200, 0x1000)]), Ok(([0x5200, 0x6000], none())));
        assert_eq!(built(&[(0x5000, 0x2000)]), Ok(([0x5000, 0x6000], none())));
        let apart = built(&[(0x5200, 0xe00), (0x9000, 0x200)]);
        assert_eq!(apart, Ok(([0x5200, 0x9000], none())));
    }

    #[test]
    fn more_pages_are_listed_from_the_second_on() {
        let list = vec![0x6000, 0x7000];
        assert_eq!(
            built(&[(0x5000, 0x3000)]),
            Ok(([0x5000, LIST], list.clone()))
        );
        assert_eq!(built(&[(0x5e00, 0x2000)]), Ok(([0x5e00, LIST], list)));
        let apart = built(&[(0x5e00, 0x200), (0x9000, 0x2000), (0x1000, 0x10)]);
        assert_eq!(apart, Ok(([0x5e00, LIST], vec![0x9000, 0xa000, 0x1000])));
    }

    #[test]
    fn a_list_of_one_page_has_an_end() {
        assert!(built(&[(0x5000, 513 * PAGE)]).is_ok());
        assert_eq!(built(&[(0x5000, 514 * PAGE)]), Err(PrpError::Pages));
        assert_eq!(built(&[(0x5200, 513 * PAGE)]), Err(PrpError::Pages));
    }

    #[test]
    fn what_leaves_gaps_between_pages_is_refused() {
        for segments in [
            [(0x5002, 0x1000), (0, 0)],
            [(0x5000, 0x800), (0x6000, 0x1000)],
            [(0x5000, 0x1000), (0x6200, 0x1000)],
        ] {
            let used = if segments[1].1 == 0 { 1 } else { 2 };
            let refused = built(&segments[..used]);
            assert!(
                matches!(refused, Err(PrpError::Misplaced(_))),
                "{refused:?}"
            );
        }
    }
}
