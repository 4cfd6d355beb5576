//! Claims, pins and leases against a look at every frame: same windows, nothing lost, nothing
//! left behind.

#[path = "lockstep/clearing.rs"]
mod clearing;
#[allow(dead_code)]
mod movers;
#[path = "lockstep/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use clearing::{Holding, View};
use dmakit_addr::{Address, DmaMask, NodeId, Pfn, PfnRange};
use dmakit_phys::{
    Account, ClaimFailure, ClaimLimits, FrameRequest, Frames, FreeReason, LeaseHolder, LeaseTerms,
    MAX_ORDER, MemoryKind, MemoryMap, MigrateType, MigrationCause, MoverId, NotRevoked, Pin,
    PinError, PinId, PinOwner, Refusal, Region, Revoke, WindowIn, WindowRequest,
};
use dmakit_platform::Instant;
use movers::owners::{Memory, Owners, build_map, frames};
use random::{Random, steps};

const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 3,
};

const TYPES: [MigrateType; 4] = [
    MigrateType::Unmovable,
    MigrateType::Movable,
    MigrateType::MovableOnly,
    MigrateType::Contiguous,
];

/// What one episode prefers.
struct Swarm {
    sizes: Vec<u64>,
    claims: Vec<(u64, u32)>,
    fill_percent: u32,
    pin_percent: u32,
    busy_percent: u32,
}

/// Frames of one allocation that a pin holds: the allocation's number, where, how many.
type Piece = (u64, u64, u64);

struct HeldPin {
    pin: Pin,
    owner: usize,
    holding: Holding,
    pieces: Vec<Piece>,
}

struct Episode {
    map: MemoryMap,
    kept_clear: Vec<(PfnRange, MigrateType)>,
    owners: Owners,
    memory: Arc<Memory>,
    taken: Vec<Frames>,
    accounts: Vec<(PinOwner, Arc<Account>)>,
    pins: Vec<HeldPin>,
}

/// Lets go when asked, if `memory` is known.
struct Holder {
    memory: Option<Weak<Memory>>,
}

impl LeaseHolder for Holder {
    fn recall(&self, lease: PinId, _until: Instant) {
        if let Some(memory) = self.memory.as_ref().and_then(Weak::upgrade) {
            memory.end_lease(lease).unwrap();
        }
    }
}

struct Iommu;

impl Revoke for Iommu {
    fn revoke(&self, _lease: PinId, _frames: &[PfnRange]) -> Result<(), NotRevoked> {
        Ok(())
    }
}

fn draw_map(random: &mut Random) -> MemoryMap {
    let mut map = MemoryMap::new(2);
    let mut next = random.pick(&[0, 512, 4096, 4000]);
    for _ in 0..1 + random.below(3) {
        next += random.pick(&[0, 0, 1, 512, 700]);
        let len = random.pick(&[300, 512, 1024, 1024, 1500]);
        let range = frames(next, len);
        let node = NodeId::new(random.below(2) as u16);
        let kind = MemoryKind::Usable;
        map.add(Region { range, node, kind }).unwrap();
        next += len;
    }
    map
}

/// Page blocks that are wholly there, some of them areas or movable ranges.
fn draw_kept_clear(random: &mut Random, map: &MemoryMap) -> Vec<(PfnRange, MigrateType)> {
    let mut blocks = Vec::new();
    for region in map.regions() {
        let mut start = region.range.start().align_up(512).unwrap().raw();
        while start + 512 <= region.range.end().raw() {
            let of = random.pick(&[
                MigrateType::Movable,
                MigrateType::MovableOnly,
                MigrateType::Contiguous,
                MigrateType::Contiguous,
            ]);
            if of != MigrateType::Movable {
                blocks.push((frames(start, 512), of));
            }
            start += 512;
        }
    }
    blocks
}

impl Episode {
    fn new(random: &mut Random) -> Self {
        let map = draw_map(random);
        let kept_clear = draw_kept_clear(random, &map);
        let (owners, memory) = Self::boot(&map, &kept_clear);
        let memory = Arc::new(memory);
        let accounts = (0..3).map(|_| {
            let account = Arc::new(Account::new(random.pick(&[40, 600, u64::MAX])));
            (memory.add_pin_owner(account.clone()).unwrap(), account)
        });
        let accounts = accounts.collect();
        Self {
            map,
            kept_clear,
            owners,
            memory,
            taken: Vec::new(),
            accounts,
            pins: Vec::new(),
        }
    }

    fn boot(map: &MemoryMap, kept_clear: &[(PfnRange, MigrateType)]) -> (Owners, Memory) {
        let owners = Owners::new();
        let memory = build_map(map, &[], owners.clone());
        for (range, of) in kept_clear {
            assert!(memory.allocator().set_migrate_type(*range, *of));
        }
        (owners, memory)
    }

    /// The frames as they are now, one by one.
    fn view(&self) -> View {
        let allocator = self.memory.allocator();
        let mut view = View::new(&self.map, |frame| {
            allocator.migrate_type(Pfn::new(frame)).unwrap()
        });
        let mut holdings: BTreeMap<u64, Holding> = BTreeMap::new();
        for pin in &self.pins {
            for (number, ..) in &pin.pieces {
                let holding = holdings.entry(*number).or_insert(pin.holding);
                *holding = (*holding).max(pin.holding);
            }
        }
        for (number, range) in self.owners.numbered() {
            let holding = holdings.get(&number).copied();
            view.add(range, holding.unwrap_or(Holding::Nobody));
        }
        for frames in &self.taken {
            view.add(frames.range(), Holding::Pinned);
        }
        view
    }

    fn allocate(&mut self, random: &mut Random, swarm: &Swarm) {
        let count = random.pick(&swarm.sizes);
        let movable = random.chance(90);
        let request = FrameRequest {
            node: Some(NodeId::new(random.below(2) as u16)),
            mover: movable.then(|| MoverId::new(random.below(9) as u16)),
            limit: DmaMask::ALL,
            ..FrameRequest::unmovable(count)
        };
        if let Ok(frames) = self.memory.allocator().allocate(&request) {
            if movable {
                self.owners.keep(frames);
            } else {
                self.taken.push(frames);
            }
        }
    }

    fn free(&mut self, random: &mut Random) {
        let live = self.owners.numbered();
        if live.is_empty() || (!self.taken.is_empty() && random.chance(20)) {
            if !self.taken.is_empty() {
                let victim = random.below(self.taken.len() as u32) as usize;
                let frames = self.taken.swap_remove(victim);
                self.memory.allocator().free(frames).unwrap();
            }
            return;
        }
        let (number, range) = live[random.below(live.len() as u32) as usize];
        let pinned = self.pins.iter().flat_map(|pin| &pin.pieces);
        let pinned = pinned.filter(|piece| piece.0 == number).count() > 0;
        let freed = self.owners.try_free(&self.memory, range.start());
        assert_eq!(freed.err(), pinned.then_some(FreeReason::Pinned));
    }

    fn pin(&mut self, random: &mut Random) {
        let live = self.owners.numbered();
        if live.is_empty() {
            return;
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for _ in 0..1 + random.below(4) {
            let (number, range) = live[random.below(live.len() as u32) as usize];
            let offset = u64::from(random.below(range.len() as u32));
            let len = 1 + u64::from(random.below((range.len() - offset) as u32));
            if pieces.iter().all(|piece| piece.0 != number) {
                pieces.push((number, offset, len));
            }
        }
        let ranges: Vec<PfnRange> = pieces.iter().map(|piece| self.locate(piece)).collect();
        let owner = random.below(self.accounts.len() as u32) as usize;
        let (id, account) = self.accounts[owner].clone();
        let before = (account.charged(), self.view());
        let (holding, outcome) = self.pin_somehow(random, id, &ranges);
        match outcome {
            Ok(pin) => {
                let frames: u64 = pin.ranges().iter().map(PfnRange::len).sum();
                assert_eq!(frames, pieces.iter().map(|piece| piece.2).sum::<u64>());
                self.pins.push(HeldPin {
                    pin,
                    owner,
                    holding,
                    pieces,
                });
            }
            Err(PinError::Limit(over)) => {
                assert!(over.charged + over.asked > over.limit, "{over}");
                assert_eq!(over.charged, before.0);
            }
            Err(PinError::Blocked(blocking)) => {
                assert!(ranges.iter().any(|range| range.overlaps(&blocking.frames)));
                assert_eq!(holding, Holding::Pinned);
            }
            Err(PinError::NoRoom(_)) => assert_eq!(holding, Holding::Pinned),
            Err(error) => panic!("{error}"),
        }
        self.forget_ended();
    }

    fn pin_somehow(
        &self,
        random: &mut Random,
        owner: PinOwner,
        ranges: &[PfnRange],
    ) -> (Holding, Result<Pin, PinError>) {
        match random.below(4) {
            0 | 1 => {
                let pin = self.memory.pin_long_term(owner, ranges, &LIMITS);
                (Holding::Pinned, pin)
            }
            2 => {
                let deadline = Instant::from_nanos(u64::from(random.below(1 << 20)));
                let pin = self.memory.pin_short_term(owner, ranges, deadline);
                (Holding::Pinned, pin)
            }
            _ => {
                let (kind, yields) = (random.below(3), Arc::downgrade(&self.memory));
                let terms = LeaseTerms {
                    holder: Arc::new(Holder {
                        memory: (kind == 0).then_some(yields),
                    }),
                    hold_max: Duration::from_micros(10),
                    revoker: (kind == 1).then(|| Arc::new(Iommu) as Arc<dyn Revoke>),
                };
                let holding = if kind == 2 {
                    Holding::Stubborn
                } else {
                    Holding::Leased
                };
                (holding, self.memory.lease(owner, ranges, terms))
            }
        }
    }

    fn locate(&self, piece: &Piece) -> PfnRange {
        let live = self.owners.numbered();
        let (_, range) = live.iter().find(|(number, _)| *number == piece.0).unwrap();
        range.slice(piece.1, piece.2).unwrap()
    }

    fn unpin(&mut self, random: &mut Random) {
        if random.chance(5) {
            let gone = random.below(self.accounts.len() as u32) as usize;
            let (owner, account) = &mut self.accounts[gone];
            self.memory.remove_pin_owner(*owner);
            assert_eq!(account.charged(), 0);
            *owner = self.memory.add_pin_owner(account.clone()).unwrap();
            let (kept, lost) = std::mem::take(&mut self.pins)
                .into_iter()
                .partition(|pin| pin.owner != gone);
            self.pins = kept;
            for pin in lost {
                self.memory.unpin(pin.pin).unwrap_err();
            }
        } else if !self.pins.is_empty() {
            let victim = random.below(self.pins.len() as u32) as usize;
            self.memory
                .unpin(self.pins.swap_remove(victim).pin)
                .unwrap();
        }
    }

    /// Claims and long-term pins ended some leases.
    fn forget_ended(&mut self) {
        let alive = self.memory.pins();
        let gone = |pin: &HeldPin| alive.iter().all(|info| info.id != pin.pin.id());
        for pin in &self.pins {
            assert!(!gone(pin) || pin.holding == Holding::Leased);
        }
        self.pins.retain(|pin| !gone(pin));
    }

    fn claim(&mut self, random: &mut Random, swarm: &Swarm) {
        let (count, align_order) = random.pick(&swarm.claims);
        let within: Vec<PfnRange> = self.map.regions().iter().map(|r| r.range).collect();
        let request = WindowRequest {
            within: &within,
            frames: count,
            align_order,
            excluded: &[],
            memory: random.pick(&[WindowIn::Areas, WindowIn::OtherMemory]),
        };
        let view = self.view();
        let best = view.cheapest(&request, Holding::Stubborn);
        let found = self.memory.find(&request);
        let cost = found
            .as_ref()
            .ok()
            .map(|window| (window.moves, window.leased));
        assert_eq!(cost, best, "{request:?} found {found:?}");
        let blocks = within
            .iter()
            .map(|range| range.len() / 512 + 2)
            .sum::<u64>();
        let zones = 2;
        assert!(found.is_err() || found.unwrap().steps <= 16 * zones * blocks);
        if random.chance(swarm.busy_percent) {
            for (_, range) in self.owners.numbered() {
                self.owners
                    .refuse(range.start(), Refusal::Busy, random.below(3));
            }
        }
        let room = view.free() >= count;
        let sure = view.cheapest(&request, Holding::Leased).is_some();
        let singles = swarm.sizes.iter().all(|size| *size == 1);
        let claims = self.memory.migrations(MigrationCause::Claim);
        let lists = self.lists();
        match self.memory.claim_window(&request, &LIMITS) {
            Ok(frames) => {
                assert!(sure && frames.range().start().is_aligned(1 << align_order));
                self.taken.push(frames);
            }
            Err(error) => {
                assert!(!sure || !singles || !room, "{error}");
                let fits = |range: &PfnRange| {
                    let first = range.start().raw().next_multiple_of(1 << align_order);
                    first + count <= range.end().raw()
                };
                assert!(
                    !error.blocking.is_empty() || !within.iter().any(fits),
                    "{error}"
                );
                let full = matches!(
                    error.reason,
                    ClaimFailure::NoRoom(_) | ClaimFailure::Full { .. }
                );
                assert!(!sure || full, "{error}");
                if self.memory.migrations(MigrationCause::Claim).moved == claims.moved {
                    assert_eq!(self.lists(), lists);
                }
            }
        }
        self.forget_ended();
    }

    /// All free blocks, counted by order and type.
    fn lists(&self) -> Vec<u64> {
        lists_of(&self.memory)
    }

    fn balance(&self, random: &mut Random) {
        let live = self.owners.numbered();
        if !live.is_empty() {
            let (_, range) = live[random.below(live.len() as u32) as usize];
            let node = NodeId::new(random.below(2) as u16);
            let cause = MigrationCause::NumaBalancing;
            let _ = self.memory.migrate(range.start(), cause, Some(node));
        }
    }

    /// What holds at every step.
    fn check(&self) {
        assert_eq!(self.memory.allocator().first_miscounted(), None);
        for (owner, account) in &self.accounts {
            let info = self.memory.pin_owner(*owner).unwrap();
            assert_eq!(account.charged(), info.frames);
        }
        for (index, (_, account)) in self.accounts.iter().enumerate() {
            let mine = self.pins.iter().filter(|pin| pin.owner == index);
            let frames = mine.flat_map(|pin| &pin.pieces).flat_map(|piece| {
                let range = self.locate(piece);
                range.start().raw()..range.end().raw()
            });
            let distinct: std::collections::BTreeSet<u64> = frames.collect();
            assert_eq!(account.charged(), distinct.len() as u64);
            assert!(account.charged() <= account.limit());
        }
        for pin in &self.pins {
            let now: Vec<PfnRange> = pin.pieces.iter().map(|piece| self.locate(piece)).collect();
            let said = pin.pin.ranges().iter().map(PfnRange::len).sum::<u64>();
            assert_eq!(said, now.iter().map(PfnRange::len).sum::<u64>());
            let info = self.memory.pins_on(now[0].start());
            let info = info.iter().find(|info| info.id == pin.pin.id()).unwrap();
            if info.kind == dmakit_phys::PinKind::LongTerm {
                let clear = |(range, _): &(PfnRange, MigrateType)| {
                    now.iter().all(|held| !held.overlaps(range))
                };
                assert!(
                    self.kept_clear.iter().all(clear),
                    "pinned where it may not be"
                );
            }
        }
    }

    /// Everything goes, and memory is as it was at the start.
    fn finish(mut self) {
        for pin in std::mem::take(&mut self.pins) {
            self.memory.unpin(pin.pin).unwrap();
        }
        assert!(
            self.accounts
                .iter()
                .all(|(_, account)| account.charged() == 0)
        );
        self.owners.check_all();
        self.owners.free_all(&self.memory);
        for frames in std::mem::take(&mut self.taken) {
            self.memory.allocator().free(frames).unwrap();
        }
        let (_, fresh) = Self::boot(&self.map, &self.kept_clear);
        assert_eq!(self.lists(), lists_of(&fresh));
    }
}

fn lists_of(memory: &Memory) -> Vec<u64> {
    let orders = |of| (0..=MAX_ORDER).map(move |order| (order, of));
    let all = TYPES.into_iter().flat_map(orders);
    all.map(|(order, of)| memory.allocator().free_blocks(order, of))
        .collect()
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let mut episode = Episode::new(&mut random);
    let sizes = [1, 1, 1, 2, 3, 8, 37, 64, 100, 512, 700];
    let claims = [
        (1, 0),
        (3, 0),
        (16, 4),
        (64, 2),
        (100, 6),
        (300, 8),
        (512, 9),
        (600, 8),
        (1000, 3),
    ];
    let swarm = Swarm {
        sizes: if random.chance(40) {
            vec![1]
        } else {
            (0..1 + random.below(6))
                .map(|_| random.pick(&sizes))
                .collect()
        },
        claims: (0..1 + random.below(4))
            .map(|_| random.pick(&claims))
            .collect(),
        fill_percent: 50 + random.below(30),
        pin_percent: random.pick(&[0, 5, 20]),
        busy_percent: random.pick(&[0, 30]),
    };
    for step in 0..length {
        if random.chance(swarm.pin_percent) {
            episode.pin(&mut random);
        } else if random.chance(swarm.pin_percent) {
            episode.unpin(&mut random);
        } else if random.chance(8) {
            episode.claim(&mut random, &swarm);
        } else if random.chance(4) {
            episode.balance(&mut random);
        } else if random.chance(swarm.fill_percent) {
            // Single frames would take for ever to fill memory.
            for _ in 0..if swarm.sizes == [1] { 40 } else { 1 } {
                episode.allocate(&mut random, &swarm);
            }
        } else {
            episode.free(&mut random);
        }
        episode.check();
        if step % 100 == 0 {
            episode.owners.check_all();
        }
    }
    episode.finish();
}

#[test]
fn claims_take_the_cheapest_window_and_fail_only_where_something_is_in_the_way() {
    let (length, total) = (300, steps(30_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
