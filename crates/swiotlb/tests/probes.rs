//! Searches are counted: the bound holds at every fill and size, for successes and failures.

#[path = "lockstep/random.rs"]
mod random;

use dmakit_swiotlb::{Area, Fit};
use random::Random;

/// Fills with blocks of `slots`, then frees random ones down to `percent`.
fn filled(area_slots: u32, slots: u32, percent: usize, random: &mut Random) -> Area {
    let mut area = Area::new(area_slots);
    let mut live = Vec::new();
    while let Ok(at) = area.take(&Fit::aligned(slots, slots.min(2))) {
        live.push(at);
    }
    let keep = live.len() * percent / 100;
    while live.len() > keep {
        let victim = random.below(live.len() as u32) as usize;
        area.give_back(live.swap_remove(victim), slots);
    }
    area
}

/// The probes of one search; what it took is given back.
fn probes(area: &mut Area, fit: &Fit) -> (u64, bool) {
    let before = area.probes().0;
    let taken = area.take(fit);
    let probes = area.probes().0 - before;
    if let Ok(at) = taken {
        area.give_back(at, fit.slots);
    }
    (probes, taken.is_ok())
}

#[test]
fn probes_stay_within_the_bound_at_every_fill_and_size() {
    let mut random = Random::new(1);
    let (mut successes, mut failures) = (0, 0);
    for area_slots in [512, 4096, 32768, 524_288] {
        for (block, percent) in [
            (1, 0),
            (1, 50),
            (2, 50),
            (3, 90),
            (2, 90),
            (33, 50),
            (70, 90),
            (2, 99),
        ] {
            let mut area = filled(area_slots, block, percent, &mut random);
            for slots in [1, 2, 3, 31, 32, 33, 34, 64, 65, 71, 128, 500, 4000] {
                for align in [1, 2, 8, 32] {
                    let bound = match (align, area_slots) {
                        (1 | 2, _) => 9,
                        (_, 4096..) if slots <= 34 => 40,
                        _ => continue,
                    };
                    for phase in [0, align - 1] {
                        let fit = Fit {
                            phase,
                            ..Fit::aligned(slots, align)
                        };
                        let (probes, found) = probes(&mut area, &fit);
                        assert!(probes <= bound, "{probes} probes of {area_slots}: {fit:?}");
                        (successes, failures) =
                            (successes + u32::from(found), failures + u32::from(!found));
                    }
                }
            }
        }
    }
    assert!(successes > 100 && failures > 100);
}

/// Every long run lies wrong by one slot: the worst there is for an alignment of a page.
#[test]
fn runs_that_all_lie_wrong_cost_no_more() {
    let mut area = Area::new(524_288);
    assert!(area.take_at(0, 1));
    // Odd starts, 71 slots each, one taken slot between.
    let mut at = 72;
    while at < 524_288 {
        assert!(area.take_at(at, 1));
        at += 72;
    }
    assert!(area.take_at(524_287, 1));
    let mut even = Fit::aligned(71, 2);
    let (wrong, found) = probes(&mut area, &even);
    assert!(wrong <= 9 && !found, "{wrong} probes");
    even.phase = 1;
    let (right, found) = probes(&mut area, &even);
    assert!(right <= 9 && found, "{right} probes");
}

#[test]
fn bookkeeping_takes_less_than_thirteen_bytes_a_slot_in_a_large_area() {
    let area = Area::new(32768);
    assert!(
        area.metadata_bytes() < 13 * 32768,
        "{} bytes",
        area.metadata_bytes()
    );
    let small = Area::new(512);
    assert!(
        small.metadata_bytes() < 16 * 512,
        "{} bytes",
        small.metadata_bytes()
    );
}
