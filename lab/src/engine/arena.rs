//! Memory of the replayed machine, given out and taken back.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use dmakit_addr::{Address, PhysAddr, PhysRange};
use dmakit_platform::host::HostRam;
use dmakit_platform::{NoMemory, PoolMemory, Segment, SegmentRequest};

/// Below 4 GiB, so that devices of 32 bits reach it, and not at 0.
const START: PhysAddr = PhysAddr::new(1 << 28);

/// Free memory as disjoint segments in ascending order, no two of them adjacent. Nothing of it is
/// touched until it is used.
#[derive(Clone, Debug)]
pub struct Arena {
    free: Arc<Mutex<Vec<Segment>>>,
}

impl Arena {
    /// `bytes` of memory.
    ///
    /// # Errors
    /// What the system says where it has no such memory.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let range = PhysRange::new(START, bytes).map_err(io::Error::other)?;
        let (_, segments) = HostRam::new(&[range])?;
        Ok(Self {
            free: Arc::new(Mutex::new(segments)),
        })
    }
}

impl PoolMemory for Arena {
    fn allocate_pool(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |segment: &Segment| {
            let start = segment.range().start().align_up(request.align)?;
            let end = start.checked_add(request.len)?;
            let skipped = start.offset_from(segment.range().start())?;
            (end <= segment.range().end() && end.raw() - 1 <= request.limit.last())
                .then_some(skipped)
        };
        let found = free
            .iter()
            .enumerate()
            .find_map(|(index, s)| Some((index, fits(s)?)));
        let no_memory = NoMemory {
            request: *request,
            largest_free: free.iter().map(Segment::len).max(),
        };
        let (index, skipped) = found.ok_or(no_memory)?;
        let (before, rest) = free
            .remove(index)
            .split_at(skipped)
            .map_err(|_| no_memory)?;
        let (taken, after) = rest.split_at(request.len).map_err(|_| no_memory)?;
        let parts = [before, after].into_iter().filter(|part| !part.is_empty());
        free.splice(index..index, parts);
        Ok(taken)
    }

    fn free_pool(&self, segment: Segment) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = segment.range().start();
        let mut index = free.partition_point(|other| other.range().start() < start);
        let mut whole = segment;
        if index > 0 && free[index - 1].range().end() == start {
            index -= 1;
            match Segment::merge(free.remove(index), whole) {
                Ok(merged) => whole = merged,
                Err(error) => {
                    free.insert(index, error.low);
                    index += 1;
                    whole = error.high;
                }
            }
        }
        if free
            .get(index)
            .is_some_and(|next| next.range().start() == whole.range().end())
        {
            match Segment::merge(whole, free.remove(index)) {
                Ok(merged) => whole = merged,
                Err(error) => {
                    free.insert(index, error.high);
                    whole = error.low;
                }
            }
        }
        free.insert(index, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmakit_addr::DmaMask;

    fn request(len: u64) -> SegmentRequest {
        SegmentRequest {
            len,
            align: 4096,
            node: None,
            limit: DmaMask::ALL,
        }
    }

    #[test]
    fn what_is_given_back_in_any_order_is_whole_again() {
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let arena = Arena::new(3 << 16).unwrap();
            let mut parts: Vec<_> = (0..3)
                .map(|_| arena.allocate_pool(&request(1 << 16)).ok())
                .collect();
            assert!(arena.allocate_pool(&request(4096)).is_err());
            for index in order {
                arena.free_pool(parts[index].take().unwrap());
            }
            assert!(arena.allocate_pool(&request(3 << 16)).is_ok(), "{order:?}");
        }
    }
}
