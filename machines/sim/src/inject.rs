//! Failures on demand.
//!
//! The fault budget, that is, what a correct user of the machine must survive: any one step named
//! in [`Step`] may fail, and any number of them; a failed `share` or `unshare` has converted some
//! prefix of its frames and lost the contents of all; a failed allocation has changed nothing.
//! Nothing else fails: memory keeps what was written, cache maintenance is done when it returns, a
//! device's accesses go where its wires, its bus and the frames' state send them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Rng;

/// A kind of thing that can fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Step(&'static str);

impl Step {
    /// [`Platform::share`](dmakit_platform::Platform::share).
    pub const SHARE: Self = Self("share");
    /// [`Platform::unshare`](dmakit_platform::Platform::unshare).
    pub const UNSHARE: Self = Self("unshare");
    /// [`TableMemory::allocate_table`](dmakit_platform::TableMemory::allocate_table).
    pub const ALLOCATE_TABLE: Self = Self("allocate table");
    /// [`PoolMemory::allocate_pool`](dmakit_platform::PoolMemory::allocate_pool).
    pub const ALLOCATE_POOL: Self = Self("allocate pool");
    /// [`Migrate::migrate`](dmakit_phys::Migrate::migrate) of a page of a program.
    pub const MIGRATE: Self = Self("migrate");

    /// A step of the user's own, who asks [`FaultPlan::fails`] at the place.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Which steps fail. A clone is the same plan: it goes on counting.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    /// By kind; `None` is every kind.
    rules: BTreeMap<Option<Step>, Rule>,
    fired: Vec<Fired>,
}

#[derive(Debug)]
struct Rule {
    seen: u64,
    which: Which,
}

#[derive(Debug)]
enum Which {
    Nth(u64),
    Chance { of_256: u32, rng: Rng },
}

/// A step that failed because the plan said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fired {
    /// Its kind.
    pub step: Step,
    /// How many steps that the rule covers had come before.
    pub after: u64,
}

impl FaultPlan {
    /// Nothing fails.
    pub fn none() -> Self {
        Self::default()
    }

    /// The step of whatever kind after `after` others fails.
    #[must_use]
    pub fn step_after(self, after: u64) -> Self {
        self.rule(None, Which::Nth(after))
    }

    /// The step of this kind after `after` of its kind fails.
    #[must_use]
    pub fn after(self, step: Step, after: u64) -> Self {
        self.rule(Some(step), Which::Nth(after))
    }

    /// Steps of this kind fail in `of_256` of 256 cases.
    #[must_use]
    pub fn chance(self, step: Step, of_256: u32, seed: u64) -> Self {
        let rng = Rng::new(seed);
        self.rule(Some(step), Which::Chance { of_256, rng })
    }

    fn rule(self, step: Option<Step>, which: Which) -> Self {
        self.lock().rules.insert(step, Rule { seen: 0, which });
        self
    }

    /// Counts a step, and says whether it is to fail.
    pub fn fails(&self, step: Step) -> bool {
        let mut plan = self.lock();
        let mut fired = None;
        for kind in [None, Some(step)] {
            let Some(rule) = plan.rules.get_mut(&kind) else {
                continue;
            };
            let after = rule.seen;
            rule.seen += 1;
            let fires = match &mut rule.which {
                Which::Nth(nth) => *nth == after,
                Which::Chance { of_256, rng } => rng.chance(*of_256),
            };
            if fires {
                fired = Some(Fired { step, after });
            }
        }
        plan.fired.extend(fired);
        fired.is_some()
    }

    /// What failed, in order.
    pub fn fired(&self) -> Vec<Fired> {
        self.lock().fired.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many failures one run is taken through at most.
const FAILURES_MAX: u64 = 100_000;

/// Calls `run` with plans that fail the first step, the second, and so on, until a run has fewer
/// steps than that; says how many runs had a failure.
///
/// The run hands the plan to its machine where the part to be tried begins, with
/// [`Machine::inject`](crate::Machine::inject), and afterwards compares all that it can count with
/// what it was before.
///
/// # Panics
/// Where 100000 runs did not come to an end: a run that repeats its steps until they succeed has
/// one step more with each failure.
pub fn for_each_failure(mut run: impl FnMut(&FaultPlan)) -> u64 {
    for after in 0..FAILURES_MAX {
        let plan = FaultPlan::none().step_after(after);
        run(&plan);
        if plan.fired().is_empty() {
            return after;
        }
    }
    panic!("{FAILURES_MAX} failures and no end");
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Step = Step::new("a");
    const B: Step = Step::new("b");

    #[test]
    fn each_step_fails_in_exactly_one_run() {
        let mut failed = Vec::new();
        let runs = for_each_failure(|plan| {
            failed.extend([A, B, A].into_iter().filter(|&step| plan.fails(step)));
        });
        assert_eq!((runs, failed), (3, vec![A, B, A]));
    }

    #[test]
    fn steps_of_a_kind_are_counted_by_kind() {
        let plan = FaultPlan::none().after(A, 1).chance(B, 256, 0);
        let results = [A, B, A, B, A].map(|step| plan.fails(step));
        assert_eq!(results, [false, true, true, true, false]);
        assert_eq!(plan.fired().len(), 3);
    }
}
