//! When forgetting everything is cheaper than forgetting a range.

use core::time::Duration;

/// What an IOMMU's invalidations cost, as its manual, its erratum sheet or a measurement says.
///
/// A command costs the time until hardware has executed it. Forgetting everything costs one
/// command, and each translation that was still wanted is walked again: at most as many as the
/// caches hold. So above `entries * refill / command + 1` commands the whole is cheaper; the default
/// of the SMMUv3 driver, 50 ns, 400 ns and 128 entries, all assumed, gives 1025.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidationCosts {
    /// Executing one command.
    pub command: Duration,
    /// Walking one translation again.
    pub refill: Duration,
    /// Translations that the caches of hardware hold.
    pub entries: u32,
}

impl InvalidationCosts {
    /// One command is always cheaper than anything else.
    pub const EXACT: Self = Self {
        command: Duration::ZERO,
        refill: Duration::ZERO,
        entries: 0,
    };

    /// Whether forgetting everything costs less than `commands` for ranges.
    #[inline]
    pub const fn is_whole_cheaper(&self, commands: u64) -> bool {
        let command = self.command.as_nanos();
        let refill = self.refill.as_nanos() * self.entries as u128;
        command * commands as u128 > command + refill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_where_both_ways_cost_the_same() {
        let costs = InvalidationCosts {
            command: Duration::from_nanos(50),
            refill: Duration::from_nanos(400),
            entries: 128,
        };
        assert!(!costs.is_whole_cheaper(1025));
        assert!(costs.is_whole_cheaper(1026));
        assert!(!InvalidationCosts::EXACT.is_whole_cheaper(u64::MAX));
    }
}
