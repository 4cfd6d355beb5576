//! Freed addresses of common sizes, kept by the CPU that freed them.

use crate::engine::Engine;

/// Sizes of 1, 2, 4 … 32 granules are kept.
pub(super) const ORDERS: usize = 6;

/// Addresses in a magazine, which with its length fills 1 KiB.
const SIZE: usize = 127;

/// A magazine of freed addresses, used from its end.
type Magazine = Vec<u64>;

/// What versions differ in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MagazineRules {
    /// Full magazines that all CPUs share, per size; `None` for any number.
    pub depot_max: Option<usize>,
    /// How often one of them goes back to the tree while there are more than CPUs.
    pub trim_every_ns: Option<u64>,
}

impl MagazineRules {
    pub fn of(engine: Engine) -> Self {
        match engine {
            Engine::Linux6_1 => Self {
                depot_max: Some(32),
                trim_every_ns: None,
            },
            // Since 6.7: no limit but a worker.
            Engine::Linux6_12 | Engine::Linux6_12Dynamic => Self {
                depot_max: None,
                trim_every_ns: Some(100_000_000),
            },
        }
    }
}

/// The magazines of one CPU for one size.
#[derive(Clone, Debug, Default)]
struct Pair {
    loaded: Magazine,
    previous: Magazine,
}

/// All of one domain.
#[derive(Clone, Debug)]
pub(super) struct Magazines {
    rules: MagazineRules,
    /// By CPU, then by order.
    cpus: Vec<[Pair; ORDERS]>,
    depots: [Vec<Magazine>; ORDERS],
    /// When the worker next looks at each depot.
    trim_at_ns: [Option<u64>; ORDERS],
}

impl Magazines {
    pub fn new(rules: MagazineRules, cpus: u32) -> Self {
        Self {
            rules,
            cpus: vec![Default::default(); cpus.max(1) as usize],
            depots: Default::default(),
            trim_at_ns: [None; ORDERS],
        }
    }

    /// The order of a size that is kept.
    pub fn order(granules: u64) -> Option<usize> {
        let order = granules.next_power_of_two().trailing_zeros() as usize;
        (order < ORDERS).then_some(order)
    }

    /// An address of which `1 << order` granules lie below `end`.
    pub fn pop(&mut self, cpu: u32, order: usize, end: u64) -> Option<u64> {
        let start_max = end.checked_sub(1 << order)?;
        let pair = self.cpus.get_mut(cpu as usize)?.get_mut(order)?;
        if pair.loaded.is_empty() {
            if !pair.previous.is_empty() {
                std::mem::swap(&mut pair.loaded, &mut pair.previous);
            } else {
                pair.loaded = self.depots.get_mut(order)?.pop()?;
            }
        }
        let at = pair.loaded.iter().rposition(|start| *start <= start_max)?;
        Some(pair.loaded.swap_remove(at))
    }

    /// What the next [`pop`](Self::pop) gives, from below any limit.
    pub fn peek(&self, cpu: u32, order: usize) -> Option<u64> {
        let pair = self.cpus.get(cpu as usize)?.get(order)?;
        let own = pair.loaded.last().or(pair.previous.last());
        let shared = || {
            self.depots[order]
                .last()
                .and_then(|magazine| magazine.last())
        };
        own.or_else(shared).copied()
    }

    /// Keeps an address; what there is no room for comes back, to be freed.
    pub fn push(&mut self, cpu: u32, order: usize, start: u64, now_ns: u64) -> Vec<u64> {
        let rules = self.rules;
        let Some(pair) = self.cpus.get_mut(cpu as usize).map(|cpu| &mut cpu[order]) else {
            return vec![start];
        };
        let mut excess = Vec::new();
        if pair.loaded.len() == SIZE {
            if pair.previous.len() < SIZE {
                std::mem::swap(&mut pair.loaded, &mut pair.previous);
            } else {
                let full = std::mem::take(&mut pair.loaded);
                let depot = &mut self.depots[order];
                if rules.depot_max.is_none_or(|max| depot.len() < max) {
                    depot.push(full);
                } else {
                    excess = full;
                }
                if let Some(every) = rules.trim_every_ns {
                    // A worker that is due already is not put off.
                    self.trim_at_ns[order].get_or_insert(now_ns + every);
                }
            }
        }
        pair.loaded.push(start);
        excess
    }

    /// What the depots' worker gives back by `now_ns`.
    pub fn trim(&mut self, now_ns: u64) -> Vec<u64> {
        let mut given = Vec::new();
        for order in 0..ORDERS {
            while let Some(at) = self.trim_at_ns[order].filter(|at| *at <= now_ns) {
                let depot = &mut self.depots[order];
                if depot.len() > self.cpus.len() {
                    given.extend(depot.pop().into_iter().flatten());
                    self.trim_at_ns[order] = self.rules.trim_every_ns.map(|every| at + every);
                } else {
                    self.trim_at_ns[order] = None;
                }
            }
        }
        given
    }

    /// Undoes a [`pop`](Self::pop).
    pub fn put_back(&mut self, cpu: u32, order: usize, start: u64) {
        if let Some(pair) = self.cpus.get_mut(cpu as usize) {
            pair[order].loaded.push(start);
        }
    }

    /// Takes an address out of wherever it is kept; whether it was.
    pub fn remove(&mut self, start: u64) -> bool {
        let pairs = self.cpus.iter_mut().flatten();
        let held = pairs.flat_map(|pair| [&mut pair.loaded, &mut pair.previous]);
        let depots = self.depots.iter_mut().flatten();
        for magazine in held.chain(depots) {
            if let Some(at) = magazine.iter().position(|kept| *kept == start) {
                magazine.remove(at);
                return true;
            }
        }
        false
    }

    /// Everything that is kept, after a search found nothing.
    pub fn empty(&mut self) -> Vec<u64> {
        let pairs = self.cpus.iter_mut().flatten();
        let held = pairs.flat_map(|pair| [&mut pair.loaded, &mut pair.previous]);
        let depots = self.depots.iter_mut().flatten();
        held.chain(depots).flat_map(std::mem::take).collect()
    }
}
