//! Areas among movable, unmovable and pinned memory: whatever happens, a claim fails only where it
//! must, moves as little as it can, and nobody loses a byte.

#[path = "lockstep/random.rs"]
mod random;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use dmakit_addr::{Address, DmaMask, Pfn, PfnRange};
use dmakit_cma::{AreaClaim, AreaClaimError, AreaId, AreaRequest, NoClaim, Place, Purpose};
use dmakit_phys::{
    Account, ClaimFailure, FrameRequest, Frames, Pin, PinOwner, Refusal, WindowIn, WindowRequest,
};
use dmakit_platform::Instant;
use random::{Random, steps};
use support::{MOVER, Memory, PATIENT, TestAreas, activate, frames, map, memory, reserved};

const BASE: u64 = 0x1000;
const LEN: u64 = 12 << 9;

/// What one episode prefers.
struct Swarm {
    claim_percent: u32,
    movable_percent: u32,
    /// Frames of movable allocations: only where all have one, every free frame is room for every
    /// other.
    movable_sizes: Vec<u64>,
    pin_percent: u32,
    long_pin_percent: u32,
    refusing_percent: u32,
    claim_sizes: Vec<u64>,
    patient_percent: u32,
    unit_order: u32,
}

impl Swarm {
    fn draw(random: &mut Random) -> Self {
        let sizes = [1, 2, 7, 16, 64, 100, 128, 300, 512, 700, 1024];
        Self {
            claim_percent: random.pick(&[5, 15, 30]),
            movable_percent: random.pick(&[30, 50, 70]),
            movable_sizes: random
                .pick(&[&[1_u64][..], &[1], &[1, 2, 8], &[16], &[1, 64, 200]])
                .to_vec(),
            pin_percent: random.pick(&[0, 5, 20]),
            long_pin_percent: random.pick(&[0, 50, 100]),
            refusing_percent: random.pick(&[0, 0, 5]),
            claim_sizes: (0..1 + random.below(4))
                .map(|_| random.pick(&sizes))
                .collect(),
            patient_percent: random.pick(&[50, 90, 100]),
            unit_order: random.pick(&[0, 0, 0, 2]),
        }
    }
}

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    /// Of the movable allocation that starts there.
    Movable(u64),
    /// Movable memory that is pinned.
    Pinned,
    Taken,
}

struct Episode<'m> {
    memory: &'m Memory,
    areas: &'m TestAreas<'m>,
    ids: Vec<AreaId>,
    owner: PinOwner,
    account: Arc<Account>,
    claimed: Vec<(Frames, u64)>,
    unmovable: Vec<Frames>,
    /// Pins by number of the run, with whether they are for long.
    pins: BTreeMap<u64, (Pin, bool)>,
    refusing: u64,
    next_pin: u64,
}

impl Episode<'_> {
    /// Every frame's use, as those say who use them.
    fn uses(&self) -> Vec<Use> {
        let mut uses = vec![Use::Free; LEN as usize];
        let mut mark = |range: PfnRange, to: Use| {
            for frame in range.start().raw()..range.end().raw() {
                let at = (frame - BASE) as usize;
                assert!(uses[at] == Use::Free, "{range} is used twice");
                uses[at] = to;
            }
        };
        for range in self.memory.movers().ranges() {
            mark(range, Use::Movable(range.start().raw()));
        }
        let claimed = self.claimed.iter().map(|(frames, _)| frames.range());
        let unmovable = self.unmovable.iter().map(Frames::range);
        claimed
            .chain(unmovable)
            .for_each(|range| mark(range, Use::Taken));
        for (pin, _) in self.pins.values() {
            for range in pin.ranges() {
                let first = uses[(range.start().raw() - BASE) as usize];
                // The whole allocation stays with it.
                uses.iter_mut()
                    .filter(|of| **of == first)
                    .for_each(|of| *of = Use::Pinned);
            }
        }
        uses
    }

    /// The least number of frames that have to move for a claim, in any window in which nothing
    /// stays; and in any of them for whose frames there is room outside.
    fn least(&self, uses: &[Use], id: AreaId, claim: &AreaClaim, unit: u64) -> [Option<u64>; 2] {
        let (len, align) = (
            claim.frames.next_multiple_of(unit),
            (1 << claim.align_order).max(unit),
        );
        let lengths = {
            let mut lengths: BTreeMap<u64, u64> = BTreeMap::new();
            for of in uses {
                if let Use::Movable(start) = of {
                    *lengths.entry(*start).or_default() += 1;
                }
            }
            lengths
        };
        let free = uses.iter().filter(|of| **of == Use::Free).count() as u64;
        let end = (claim.limit.last() >> 12) + u64::from(claim.limit.last() & 0xfff == 0xfff);
        let mut least = [None, None];
        for range in self.areas.ranges(id) {
            let mut start = range.start().raw().next_multiple_of(align);
            while start + len <= range.end().raw().min(end) {
                let window = &uses[(start - BASE) as usize..(start + len - BASE) as usize];
                let mut moves = 0;
                let mut inside = 0;
                let mut last = None;
                let clear = window.iter().all(|of| {
                    match of {
                        Use::Free => inside += 1,
                        Use::Movable(of) if last != Some(*of) => {
                            last = Some(*of);
                            moves += lengths[of];
                        }
                        Use::Movable(_) => {}
                        Use::Pinned | Use::Taken => return false,
                    }
                    true
                });
                for (least, counts) in least.iter_mut().zip([true, free - inside >= moves]) {
                    if clear && counts {
                        *least = Some(least.map_or(moves, |least: u64| least.min(moves)));
                    }
                }
                start += align;
            }
        }
        least
    }

    fn allocate_movable(&mut self, random: &mut Random, swarm: &Swarm) {
        let request = FrameRequest::movable(random.pick(&swarm.movable_sizes), MOVER);
        let Ok(frames) = self.memory.allocator().allocate(&request) else {
            return;
        };
        let start = frames.range().start();
        self.memory.movers().keep(frames);
        if random.chance(swarm.refusing_percent) {
            self.memory
                .movers()
                .refuse(start, Refusal::Pinned, u32::MAX);
            self.refusing += 1;
        }
    }

    fn free_movable(&mut self, random: &mut Random) {
        let Some(range) = self.any_movable(random) else {
            return;
        };
        self.memory.movers().permit(range.start());
        let frames = self.memory.movers().take(range.start()).unwrap();
        if let Err(error) = self.memory.allocator().free(frames) {
            // It is pinned.
            self.memory.movers().give_back(error.frames);
        }
    }

    fn any_movable(&self, random: &mut Random) -> Option<PfnRange> {
        let ranges = self.memory.movers().ranges();
        let count = u32::try_from(ranges.len()).unwrap();
        (count > 0).then(|| ranges[random.below(count) as usize])
    }

    fn pin(&mut self, random: &mut Random, swarm: &Swarm) {
        let Some(range) = self.any_movable(random) else {
            return;
        };
        let long = random.chance(swarm.long_pin_percent);
        let pinned = match long {
            true => self.memory.pin_long_term(self.owner, &[range], &PATIENT),
            false => {
                self.memory
                    .pin_short_term(self.owner, &[range], Instant::from_nanos(u64::MAX))
            }
        };
        if let Ok(pin) = pinned {
            self.pins.insert(self.next_pin, (pin, long));
            self.next_pin += 1;
        }
    }

    fn unpin(&mut self, random: &mut Random) {
        let Some(last) = self.pins.keys().next_back() else {
            return;
        };
        let from = u64::from(random.below(u32::try_from(*last + 1).unwrap()));
        let key = self.pins.range(from..).next().map(|(key, _)| *key);
        if let Some((pin, _)) = key.and_then(|key| self.pins.remove(&key)) {
            self.memory.unpin(pin).unwrap();
        }
    }

    fn claim(&mut self, random: &mut Random, swarm: &Swarm) {
        let id = random.pick(&self.ids);
        let size = random.pick(&swarm.claim_sizes);
        let natural = size.next_power_of_two().ilog2().min(8);
        let limit = match random.chance(10) {
            true => DmaMask::up_to(((BASE + u64::from(random.below(LEN as u32))) << 12) + 0xfff),
            false => DmaMask::ALL,
        };
        let claim = AreaClaim {
            frames: size,
            align_order: random.pick(&[0, 4, natural, natural, 9]),
            limit,
        };
        let unit = 1 << swarm.unit_order;
        let uses = self.uses();
        let [cheapest, least] = self.least(&uses, id, &claim, unit);
        if limit == DmaMask::ALL {
            let found = self.memory.find(&WindowRequest {
                within: self.areas.ranges(id),
                frames: size.next_multiple_of(unit),
                align_order: claim.align_order.max(swarm.unit_order),
                excluded: &[],
                memory: WindowIn::Areas,
            });
            assert_eq!(found.ok().map(|window| window.moves), cheapest);
        }
        let moves = self.memory.movers().moves();
        let patient = random.chance(swarm.patient_percent);
        let outcome = match patient {
            true => self.areas.claim(id, &claim, &PATIENT),
            false => self.areas.claim_free(id, &claim),
        };
        let moved = self.memory.movers().moves() - moves;
        match outcome {
            Ok(frames) => {
                let range = frames.range();
                let areas = self.areas.ranges(id);
                assert!(areas.iter().any(|area| area.contains_range(&range)));
                assert_eq!(range.len(), size.next_multiple_of(unit));
                assert!(range.start().is_aligned(1 << claim.align_order));
                assert!(limit.reaches(&range.bytes().unwrap()));
                // Whoever refuses is not known before it is asked, nor whether there is room for more
                // than single frames: other windows were tried, and moved from, before this one.
                let exact = self.refusing == 0 && swarm.movable_sizes == [1];
                assert!(
                    !exact || Some(moved) == least,
                    "{moved} moved instead of {least:?}"
                );
                let word = self.memory.movers().write(range);
                self.claimed.push((frames, word));
            }
            Err(error) if !patient => {
                assert_eq!(moved, 0);
                assert_ne!(least, Some(0), "{error}");
            }
            Err(error) => self.check_failed(&error, least, swarm),
        }
    }

    fn check_failed(&self, error: &AreaClaimError, least: Option<u64>, swarm: &Swarm) {
        let single = swarm.movable_sizes == [1];
        let no_room = matches!(
            &error.reason,
            NoClaim::InTheWay(error) if matches!(error.reason, ClaimFailure::NoRoom(_) | ClaimFailure::Full { .. })
        );
        // Larger allocations may find room only in pieces.
        let excused = self.refusing > 0 || (no_room && !single);
        assert!(
            excused || least.is_none(),
            "{error}, although {least:?} would do"
        );
    }

    fn release(&mut self, random: &mut Random) {
        let count = u32::try_from(self.claimed.len()).unwrap();
        if count > 0 {
            let (frames, word) = self.claimed.swap_remove(random.below(count) as usize);
            self.memory.movers().check(frames.range(), word);
            self.areas.release(frames).unwrap();
        }
    }

    /// Counters, and what must never be.
    fn compare(&self) {
        let uses = self.uses();
        let free = uses.iter().filter(|of| **of == Use::Free).count() as u64;
        assert_eq!(self.memory.allocator().free_frames(), free);
        for id in &self.ids {
            let inside = |range: PfnRange| {
                let areas = self.areas.ranges(*id);
                areas.iter().any(|area| area.overlaps(&range))
            };
            let claimed = self.claimed.iter().map(|(frames, _)| frames.range());
            let claimed: u64 = claimed
                .filter(|range| inside(*range))
                .map(|range| range.len())
                .sum();
            let usage = self.areas.usage(*id);
            assert_eq!(usage.frames - usage.free, claimed);
            let mut long = self.pins.values().filter(|(_, long)| *long);
            assert!(
                long.all(|(pin, _)| !pin.ranges().iter().any(|range| inside(*range))),
                "a long-term pin in an area"
            );
            assert!(!self.unmovable.iter().any(|frames| inside(frames.range())));
        }
        let mut pinned: Vec<Pfn> = Vec::new();
        for range in self.pins.values().flat_map(|(pin, _)| pin.ranges()) {
            pinned.extend((range.start().raw()..range.end().raw()).map(Pfn::new));
        }
        pinned.sort_unstable();
        pinned.dedup();
        assert_eq!(self.account.charged(), pinned.len() as u64);
        self.memory.movers().check_all();
        for (frames, word) in &self.claimed {
            self.memory.movers().check(frames.range(), *word);
        }
    }

    /// Everything goes home, and all is as new.
    fn end(mut self) {
        for (pin, _) in std::mem::take(&mut self.pins).into_values() {
            self.memory.unpin(pin).unwrap();
        }
        for (frames, _) in self.claimed.drain(..) {
            self.areas.release(frames).unwrap();
        }
        for frames in self.unmovable.drain(..) {
            self.memory.allocator().free(frames).unwrap();
        }
        support::free_if(self.memory, |_| true);
        self.compare();
        assert_eq!(self.memory.allocator().free_frames(), LEN);
        for id in &self.ids {
            for range in self.areas.ranges(*id) {
                let claim = AreaClaim {
                    frames: range.len(),
                    align_order: 9,
                    limit: DmaMask::ALL,
                };
                let whole = self.areas.claim_free(*id, &claim).unwrap();
                self.areas.release(whole).unwrap();
            }
        }
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let swarm = Swarm::draw(&mut random);
    let mut map = map(&[(BASE, LEN, 0)]);
    let at = |block: u64| Place::At(frames(BASE + (block << 9), 0).start());
    let request = |place, blocks: u64| AreaRequest {
        place,
        unit_order: swarm.unit_order,
        ..AreaRequest::new(Purpose::Device, blocks << 21)
    };
    let set = reserved(&mut map, &[request(at(2), 2), request(at(6), 3)]);
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let account = Arc::new(Account::new(500));
    let owner = memory.add_pin_owner(account.clone()).unwrap();
    let mut episode = Episode {
        memory: &memory,
        areas: &areas,
        ids: areas.ids().collect(),
        owner,
        account,
        claimed: Vec::new(),
        unmovable: Vec::new(),
        pins: BTreeMap::new(),
        refusing: 0,
        next_pin: 0,
    };
    // Half full from the start, so that claims meet somebody.
    for _ in 0..LEN / 2 / swarm.movable_sizes[0] {
        episode.allocate_movable(&mut random, &swarm);
    }
    for step in 0..length {
        match random.below(100) {
            draw if draw < swarm.claim_percent => episode.claim(&mut random, &swarm),
            draw if draw < 2 * swarm.claim_percent => episode.release(&mut random),
            _ => match random.below(100) {
                draw if draw < swarm.movable_percent => {
                    // Several, so that memory fills up between claims.
                    (0..8).for_each(|_| episode.allocate_movable(&mut random, &swarm));
                }
                _ if random.chance(swarm.pin_percent) => match random.chance(60) {
                    true => episode.pin(&mut random, &swarm),
                    false => episode.unpin(&mut random),
                },
                _ if random.chance(5) => {
                    let request = FrameRequest::unmovable(u64::from(1 + random.below(40)));
                    episode
                        .unmovable
                        .extend(memory.allocator().allocate(&request));
                    if random.chance(60) && !episode.unmovable.is_empty() {
                        let frames = episode.unmovable.swap_remove(0);
                        memory.allocator().free(frames).unwrap();
                    }
                }
                _ => (0..7).for_each(|_| episode.free_movable(&mut random)),
            },
        }
        if step % 256 == 0 {
            episode.compare();
        }
    }
    episode.compare();
    episode.end();
}

#[test]
fn a_claim_fails_only_where_it_must_and_nobody_loses_a_byte() {
    let (length, total) = (1000, steps(16_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
