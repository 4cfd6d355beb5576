//! What an ITS does of itself, at the worst moment.

use super::bus::Bus;
use super::state::ItsState;
use crate::machine::State;

/// Commands that an undisturbed ITS consumes at most at once.
const STEPS: u64 = 4;

impl State {
    pub(super) fn with_its<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut ItsState, &mut Bus<'_>) -> T,
    ) -> T {
        let mut bus = Bus {
            cache: &mut self.cache,
            log: &mut self.log,
            rng: &mut self.rng,
            violations: &self.violations,
        };
        act(&mut self.its[index], &mut bus)
    }

    /// Time passes: commands are consumed, and those before them take effect, or not yet.
    pub(crate) fn disturb_its(&mut self, index: usize) {
        for _ in 0..self.rng.below(STEPS) {
            self.with_its(index, ItsState::step);
        }
        if self.rng.chance(64) {
            self.with_its(index, ItsState::apply_one);
        }
    }
}
