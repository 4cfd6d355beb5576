//! Many records of one fault.

use dmakit_addr::Address;

use crate::Fault;

/// A granule of input addresses by which records are folded: no IOMMU translates less.
const PAGE_SHIFT: u32 = 12;

/// A fault, and how many records there were of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoldedFault {
    /// The first record.
    pub fault: Fault,
    /// How many there were, the first included.
    pub records: u64,
}

/// Folds records of the same domain, stream, page, access and reason into one.
///
/// Hardware may record every few bytes of one transfer, so a count of records says nothing about a
/// count of faults. Bounded: when `N` different ones are there, further ones are only counted.
#[derive(Clone, Debug)]
pub struct FaultFold<const N: usize> {
    faults: [Option<FoldedFault>; N],
    unlisted: u64,
}

impl<const N: usize> Default for FaultFold<N> {
    fn default() -> Self {
        Self {
            faults: [None; N],
            unlisted: 0,
        }
    }
}

impl<const N: usize> FaultFold<N> {
    /// Adds a record. O(N).
    pub fn add(&mut self, fault: Fault) {
        let key = key(&fault);
        for slot in &mut self.faults {
            match slot {
                Some(folded) if self::key(&folded.fault) == key => {
                    folded.records += 1;
                    return;
                }
                Some(_) => {}
                None => {
                    *slot = Some(FoldedFault { fault, records: 1 });
                    return;
                }
            }
        }
        self.unlisted += 1;
    }

    /// The different faults, in the order in which they came.
    pub fn faults(&self) -> impl Iterator<Item = &FoldedFault> {
        self.faults.iter().flatten()
    }

    /// Records of faults that found no room.
    pub fn unlisted(&self) -> u64 {
        self.unlisted
    }
}

/// The fault, at the start of its page.
fn key(fault: &Fault) -> Fault {
    let iova = fault.iova.map(|iova| iova.align_down(1 << PAGE_SHIFT));
    Fault { iova, ..*fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultReason;
    use dmakit_addr::Iova;

    fn fault(stream: u32, iova: u64) -> Fault {
        Fault {
            domain: None,
            stream,
            substream: None,
            iova: Some(Iova::new(iova)),
            is_write: Some(true),
            reason: FaultReason::Unmapped,
        }
    }

    #[test]
    fn records_of_one_page_count_as_one_fault_and_none_is_lost() {
        let mut fold = FaultFold::<2>::default();
        for offset in (0..64).step_by(4) {
            fold.add(fault(1, 0x5000 + offset));
        }
        fold.add(fault(2, 0x5000));
        fold.add(fault(1, 0x6000));
        let seen = [(fault(1, 0x5000), 16), (fault(2, 0x5000), 1)];
        let folded = fold.faults().map(|folded| (folded.fault, folded.records));
        assert!(folded.eq(seen));
        assert_eq!(fold.unlisted(), 1);
    }
}
