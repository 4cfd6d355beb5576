//! What is refused on purpose, for finding out what its users do then.

use alloc::vec::Vec;

use dmakit_addr::{PhysAddr, ToDevice};
use dmakit_platform::{IrqMutex, NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_swiotlb::{BounceBuffer, BouncePool, DeviceId, DeviceLimits, MapRequest, NoGrowth};

use crate::board::Board;
use crate::memory::Coherent;
use crate::noise::Noise;

/// Which mappings are refused.
struct Refusing {
    /// One in this many; 0 for none.
    one_in: u64,
    noise: Noise,
    refused: u64,
}

static REFUSING: IrqMutex<Board, Option<Refusing>> = IrqMutex::<Board, _>::new(None);

/// From now on refuses one mapping in `one_in`, or none if that is 0.
pub fn start(one_in: u64, seed: u64) {
    *REFUSING.lock() = Some(Refusing {
        one_in,
        noise: Noise::new(seed),
        refused: 0,
    });
}

/// Refuses nothing more; how many were refused.
pub fn stop() -> u64 {
    REFUSING
        .lock()
        .take()
        .map_or(0, |refusing| refusing.refused)
}

/// Whether the next one is refused.
pub fn refuses() -> bool {
    let mut refusing = REFUSING.lock();
    let Some(refusing) = refusing.as_mut() else {
        return false;
    };
    let refused = refusing.one_in > 0 && refusing.noise.below(refusing.one_in) == 0;
    refusing.refused += u64::from(refused);
    refused
}

/// Coherent memory, some of which is refused between [`start`] and [`stop`], as if there were no more.
pub struct FailingMemory(pub &'static Coherent);

impl TableMemory for FailingMemory {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        match refuses() {
            false => self.0.allocate_table(request),
            true => Err(NoMemory {
                request: *request,
                largest_free: None,
            }),
        }
    }

    fn free_table(&self, segment: Segment) {
        self.0.free_table(segment);
    }
}

/// Slots that a rival leaves, at the most.
const LEFT_MAX: u64 = 4;

/// Somebody else who uses a device's bounce pool, and now and then nearly all that is left of it.
struct Rival {
    pool: &'static BouncePool<Board, NoGrowth>,
    id: DeviceId,
}

static RIVAL: IrqMutex<Board, Option<Rival>> = IrqMutex::<Board, _>::new(None);

/// Lets a rival into a pool.
pub fn share_pool(pool: &'static BouncePool<Board, NoGrowth>) -> Result<(), &'static str> {
    let id = pool.attach(None).map_err(|_| "no place in the pool")?;
    *RIVAL.lock() = Some(Rival { pool, id });
    Ok(())
}

/// What a rival holds of a pool, until it is dropped.
pub struct Held(Vec<BounceBuffer<ToDevice>>);

/// Between [`start`] and [`stop`] now and then all that is left of a pool that has a rival, but for a
/// few slots.
pub fn crowd() -> Held {
    let rival = RIVAL.lock();
    let Some(Rival { pool, id }) = rival.as_ref().filter(|_| refuses()) else {
        return Held(Vec::new());
    };
    let source = [0_u8; 1];
    let request = MapRequest::whole(PhysAddr::new(0), 1);
    let limits = DeviceLimits::default();
    let slot = || pool.map(*id, &limits, &source[..], &request).ok();
    let mut held: Vec<_> = core::iter::from_fn(slot).collect();
    // What is left may serve a part of a request, or all but its data.
    let kept = held.len().saturating_sub(draw(LEFT_MAX + 1));
    for buffer in held.drain(kept..) {
        let unmapped = pool.unmap_unsynced(buffer);
        debug_assert!(unmapped.is_ok(), "it is of this pool");
    }
    Held(held)
}

/// A number below `bound`, between [`start`] and [`stop`].
fn draw(bound: u64) -> usize {
    let mut refusing = REFUSING.lock();
    refusing
        .as_mut()
        .map_or(0, |refusing| refusing.noise.below(bound) as usize)
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Rival { pool, .. }) = RIVAL.lock().as_ref() {
            for buffer in self.0.drain(..) {
                let unmapped = pool.unmap_unsynced(buffer);
                debug_assert!(unmapped.is_ok(), "it is of this pool");
            }
        }
    }
}
