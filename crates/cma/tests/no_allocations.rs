//! What may be called in hard interrupts allocates nothing: a binary of its own, because its
//! allocator counts.

mod support;

use allocation_counter::measure;
use dmakit_addr::DmaMask;
use dmakit_cma::{AreaClaim, AreaRequest, NoClaim, Purpose};
use support::{activate, claim, fill, free_if, map, memory, reserved};

#[test]
fn claiming_what_is_free_allocates_nothing_whether_it_succeeds_or_not() {
    let mut map = map(&[(0x1000, 0x2000, 0)]);
    let areas = reserved(&mut map, &[AreaRequest::new(Purpose::Default, 16 << 20)]);
    let area = areas[0].ranges()[0];
    let memory = memory(&map);
    let areas = activate(&memory, areas);
    let id = areas.find(Purpose::Default).unwrap();
    fill(&memory, 1);
    // All of it is lent but for the middle, which is not what the books name first.
    let hole = area.slice(0x700, 0x80).unwrap();
    free_if(&memory, |range| hole.contains_range(&range));
    let below = |end: u64| AreaClaim {
        limit: DmaMask::up_to((end << 12) - 1),
        ..claim(0x40, 0)
    };
    let cases = [
        (claim(0x80, 5), None),
        // The limit cuts the area, and leaves the middle or half of it.
        (below(hole.end().raw()), None),
        (below(hole.start().raw() + 0x20), Some(NoClaim::Lent)),
        (claim(0x81, 0), Some(NoClaim::Lent)),
        (below(area.start().raw()), Some(NoClaim::OutOfReach)),
    ];
    for (asked, refused) in cases {
        let mut found = None;
        let counted = measure(|| found = Some(areas.claim_free(id, &asked)));
        let found = found.unwrap().map_err(|error| error.reason);
        assert_eq!(found.as_ref().err(), refused.as_ref(), "{asked:?}");
        assert_eq!(counted.count_total, 0, "{asked:?}");
        if let Ok(frames) = found {
            let counted = measure(|| areas.release(frames).unwrap());
            assert_eq!(counted.count_total, 0, "the release of {asked:?}");
        }
    }
}
