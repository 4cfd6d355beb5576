//! The addresses of one domain.

use crate::engine::Engine;
use crate::iommu::costs::TranslationCosts;
use crate::iommu::magazines::{MagazineRules, Magazines};
use crate::iommu::tree::Tree;

/// Free and used addresses in granules.
#[derive(Clone, Debug)]
pub(super) struct Space {
    tree: Tree,
    magazines: Magazines,
    /// Whether the last request was served by a magazine.
    was_hit: bool,
}

impl Space {
    pub fn new(engine: Engine, granule: u64, cpus: u32, reserved: &[(u64, u64)]) -> Self {
        let mut tree = Tree::new(granule);
        for (first, last) in reserved {
            tree.reserve(first / granule, last / granule);
        }
        Self {
            tree,
            magazines: Magazines::new(MagazineRules::of(engine), cpus),
            was_hit: false,
        }
    }

    /// Takes `granules` below `end`. `may_empty` lets a search that found nothing give back what
    /// CPUs keep and try again.
    pub fn take(
        &mut self,
        cpu: u32,
        granules: u64,
        end: u64,
        may_empty: bool,
        costs: &mut TranslationCosts,
    ) -> Option<u64> {
        let order = Magazines::order(granules);
        // Rounded, so that what is freed has the size of a magazine.
        let granules = order.map_or(granules, |order| 1 << order);
        let kept = order.and_then(|order| self.magazines.pop(cpu, order, end));
        self.was_hit = kept.is_some();
        if kept.is_some() {
            costs.cache_hits += 1;
            return kept;
        }
        let mut found = self.tree.take(granules, end);
        costs.tree_steps += found.steps;
        if found.start.is_none() && may_empty {
            for start in self.magazines.empty() {
                self.tree.give(start);
            }
            found = self.tree.take(granules, end);
            costs.tree_steps += found.steps;
        }
        found.start
    }

    pub fn give(&mut self, cpu: u32, start: u64, granules: u64, now_ns: u64) {
        match Magazines::order(granules) {
            Some(order) => {
                for excess in self.magazines.push(cpu, order, start, now_ns) {
                    self.tree.give(excess);
                }
            }
            None => self.tree.give(start),
        }
    }

    /// What the next request would get from its CPU's magazines.
    pub fn next_kept(&self, cpu: u32, granules: u64) -> Option<u64> {
        self.magazines.peek(cpu, Magazines::order(granules)?)
    }

    /// Undoes the last [`take`](Self::take).
    pub fn put_back(&mut self, cpu: u32, start: u64, granules: u64) {
        match Magazines::order(granules) {
            Some(order) if self.was_hit => self.magazines.put_back(cpu, order, start),
            _ => self.tree.put_back(start),
        }
    }

    /// Takes `granules` at `start`, free or kept; whether they were. Held ones stay held.
    pub fn take_at(&mut self, start: u64, granules: u64) -> bool {
        let granules = match Magazines::order(granules) {
            Some(order) => 1 << order,
            None => granules,
        };
        self.magazines.remove(start) || self.tree.take_at(start, granules)
    }

    /// Lets the depots' worker run as far as `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        for start in self.magazines.trim(now_ns) {
            self.tree.give(start);
        }
    }
}
