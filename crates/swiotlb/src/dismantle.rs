//! Taking the pools of a machine apart.

use core::fmt;

use alloc::boxed::Box;
use alloc::sync::Arc;

use dmakit_platform::{ConversionError, Platform, PoolMemory, Segment};

use crate::BouncePool;
use crate::pool;

/// Pools that cannot be taken apart, given back as they were.
pub struct Busy<P: Platform, M> {
    /// The pools.
    pub pools: BouncePool<P, M>,
    /// Slots in use, leaked ones among them.
    pub used: u64,
}

impl<P: Platform, M> fmt::Debug for Busy<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Busy")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, M> fmt::Display for Busy<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slots are in use", self.used)
    }
}

impl<P: Platform, M> core::error::Error for Busy<P, M> {}

impl<P: Platform, M: PoolMemory> BouncePool<P, M> {
    /// Gives all memory back: grown pools and the reserve to where they came from, the first pool's
    /// segment to the caller, all zeroed and taken back from the host. What the host does not give
    /// back is lost: an error for the first pool, silently for the others. May sleep.
    ///
    /// # Errors
    /// [`Busy`] with the pools, where slots are in use; nothing has changed then.
    pub fn dismantle(self) -> Result<Result<Segment, ConversionError>, Box<Busy<P, M>>> {
        let used = self.used_exactly();
        if used > 0 {
            return Err(Box::new(Busy { pools: self, used }));
        }
        let Self {
            platform,
            first,
            growth,
            config,
            ..
        } = self;
        let take_back = |segment| pool::unshare(&platform, segment, config.sharing);
        if let Some(growth) = growth {
            let growth = *growth;
            let placed = growth.places.iter().filter_map(|place| place.take());
            let retired = growth.upkeep.into_inner().retired;
            // Nobody else can look at them: `self` was the only way.
            let grown = placed.chain(retired).filter_map(Arc::into_inner);
            let segments = grown.chain([growth.reserve]).map(pool::Pool::into_segment);
            for segment in segments.filter_map(|segment| take_back(segment).ok()) {
                growth.provider.free_pool(segment);
            }
        }
        Ok(take_back(first.into_segment()))
    }
}
