//! Claims from several CPUs at once, in several areas, while their memory is lent and moved.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use dmakit_addr::PfnRange;
use dmakit_cma::{AreaId, AreaRequest, NoClaim, Place, Purpose};
use dmakit_phys::{ClaimFailure, FrameRequest, Frames, Obstacle};
use support::{MOVER, PATIENT, activate, claim, frames, free_if, map, memory, reserved};

const BASE: u64 = 0x1000;
const LEN: u64 = 16 << 9;
const ROUNDS: u64 = 3000;

/// Who has each frame: 0 for nobody that claimed it.
struct Holders(Vec<AtomicU64>);

impl Holders {
    fn set(&self, range: PfnRange, from: u64, to: u64) {
        for frame in range.start().raw()..range.end().raw() {
            let holder = &self.0[(frame - BASE) as usize];
            assert_eq!(holder.swap(to, Ordering::Relaxed), from, "frame {frame:#x}");
        }
    }
}

#[test]
fn claims_at_once_in_lent_areas_never_share_a_frame_and_all_comes_home() {
    let mut map = map(&[(BASE, LEN, 0)]);
    let at = |block: u64, blocks: u64| AreaRequest {
        place: Place::At(frames(BASE + (block << 9), 0).start()),
        ..AreaRequest::new(Purpose::Device, blocks << 21)
    };
    let set = reserved(&mut map, &[at(2, 3), at(8, 2)]);
    let memory = memory(&map);
    let areas = activate(&memory, set);
    let ids: Vec<AreaId> = areas.ids().collect();
    let holders = Holders((0..LEN).map(|_| AtomicU64::new(0)).collect());
    thread::scope(|scope| {
        for cpu in 1..=3_u64 {
            let (areas, memory, ids, holders) = (&areas, &memory, &ids, &holders);
            scope.spawn(move || {
                let mut state = cpu.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let mut draw = move |bound: u64| {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
                    (state >> 33) % bound
                };
                let mut live: Vec<Frames> = Vec::new();
                for _ in 0..ROUNDS {
                    // Movable memory fills the areas while others claim them.
                    for _ in 0..draw(80) {
                        let request = FrameRequest::movable(1 + draw(4), MOVER);
                        if let Ok(frames) = memory.allocator().allocate(&request) {
                            memory.movers().keep(frames);
                        }
                    }
                    if memory.allocator().free_frames() < LEN / 8 {
                        memory.movers().free_some(memory, 200);
                    }
                    if draw(2) == 0 || live.is_empty() {
                        let id = ids[draw(2) as usize];
                        let wish = claim(1 + draw(200), draw(9) as u32);
                        match areas.claim(id, &wish, &PATIENT) {
                            Ok(frames) => {
                                holders.set(frames.range(), 0, cpu);
                                live.push(frames);
                            }
                            Err(error) => check(&error.reason),
                        }
                    } else {
                        let frames = live.swap_remove(draw(live.len() as u64) as usize);
                        holders.set(frames.range(), cpu, 0);
                        areas.release(frames).unwrap();
                    }
                }
                for frames in live {
                    holders.set(frames.range(), cpu, 0);
                    areas.release(frames).unwrap();
                }
            });
        }
    });
    memory.movers().check_all();
    free_if(&memory, |_| true);
    assert_eq!(memory.allocator().free_frames(), LEN);
    for id in ids {
        assert!(areas.statistics(id).moving_claims > 0, "nothing was lent");
        assert_eq!(areas.usage(id).free, areas.usage(id).frames);
    }
}

/// A claim fails because the area is full, or others are at work in it.
fn check(reason: &NoClaim) {
    let NoClaim::InTheWay(error) = reason else {
        assert!(matches!(reason, NoClaim::Full(_)), "{reason:?}");
        return;
    };
    let others = |why: &Obstacle| {
        matches!(
            why,
            Obstacle::Unmovable | Obstacle::BeingCleared | Obstacle::Refused(_) | Obstacle::NoRoom
        )
    };
    let named = error.blocking.iter().all(|one| others(&one.why));
    let no_room = matches!(
        error.reason,
        ClaimFailure::NoRoom(_) | ClaimFailure::Full { .. }
    );
    assert!(named || no_room, "{error}");
}
