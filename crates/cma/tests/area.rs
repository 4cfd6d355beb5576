//! What an area promises and refuses.

use dmakit_addr::{Address, Pfn, PfnRange};
use dmakit_cma::{Area, AreaError, ClaimMap, ReleaseError};
use dmakit_platform::host::HostPlatform;

fn frames(start: u64, len: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start), len).unwrap()
}

fn area(ranges: &[PfnRange], unit_order: u32) -> Result<Area<HostPlatform>, AreaError> {
    Area::new(ranges, unit_order)
}

#[test]
fn alignment_counts_from_frame_zero_not_from_the_base() {
    let skewed = area(&[frames(0x1_0300, 0x400)], 0).unwrap();
    assert_eq!(skewed.claim(512, 9).unwrap(), frames(0x1_0400, 512));
    let coarse = area(&[frames(0x1_0300, 0x400)], 2).unwrap();
    assert_eq!(coarse.claim(512, 9).unwrap(), frames(0x1_0400, 512));
}

#[test]
fn what_was_released_last_is_free_for_everybody() {
    let mut map = ClaimMap::new(0x30, 1024);
    let at = map.claim(300, 8).unwrap();
    map.release(at, 300).unwrap();
    assert!((at..at + 300).all(|unit| map.is_free(unit)));
    assert!(map.free_runs().eq([(0, 1024)]));
    let again = map.release(at + 299, 1).unwrap_err();
    assert_eq!(again.first_wrong, at + 299);
    assert!(map.claim_at(at + 100, 1), "a part of it");
    assert_eq!(map.free(), 1023);
    map.release(at + 100, 1).unwrap();
    assert_eq!(map.claim(1024, 0), Ok(0));
}

#[test]
fn a_claim_never_spans_two_ranges() {
    let split = area(&[frames(0x1000, 512), frames(0x1200, 512)], 0).unwrap();
    let error = split.claim(600, 0).unwrap_err();
    assert_eq!((error.units, error.largest_block), (600, 512));
    assert!(split.claim(512, 9).is_ok());
    assert!(split.claim(512, 9).is_ok());
    assert_eq!(split.usage().free, 0);
}

#[test]
fn frames_are_given_back_only_to_the_area_that_owns_them() {
    let one = area(&[frames(0x1000, 512)], 1).unwrap();
    let claimed = one.claim(5, 0).unwrap();
    assert_eq!(one.usage().free, 506);
    let foreign = frames(0x2000, 5);
    assert_eq!(one.release(foreign), Err(ReleaseError::NotHere(foreign)));
    let skewed = frames(claimed.start().raw() + 1, 4);
    assert_eq!(one.release(skewed), Err(ReleaseError::NotHere(skewed)));
    one.release(claimed).unwrap();
    assert!(matches!(
        one.release(claimed),
        Err(ReleaseError::NotClaimed { .. })
    ));
    assert_eq!(one.usage().free, 512);
}

#[test]
fn ranges_that_make_no_area_are_refused_with_the_reason() {
    assert_eq!(area(&[], 0).unwrap_err(), AreaError::Count(0));
    let skewed = frames(0x1001, 512);
    assert!(matches!(
        area(&[skewed], 1).unwrap_err(),
        AreaError::Range { unit_frames: 2, .. }
    ));
    let below = frames(0x800, 512);
    assert_eq!(
        area(&[frames(0x1000, 512), below], 0).unwrap_err(),
        AreaError::Order(below)
    );
    assert_eq!(
        area(&[frames(0, 512)], 64).unwrap_err(),
        AreaError::Unit(64)
    );
}

#[test]
fn a_claim_larger_than_any_area_is_refused_with_the_numbers() {
    let one = area(&[frames(0, 4096)], 0).unwrap();
    let error = one.claim(u64::MAX, 63).unwrap_err();
    assert_eq!((error.free, error.largest_block), (4096, 4096));
    assert!(one.claim(0, 0).is_err());
    assert_eq!(one.claim(4096, 63).unwrap().start(), Pfn::from_raw(0));
}

#[test]
fn books_of_eight_gibibytes_stay_below_two_bits_a_frame() {
    let map = ClaimMap::new(0, 2 << 20);
    assert!(map.metadata_bytes() * 8 < 2 * (2 << 20));
}

#[test]
fn a_fragmented_area_knows_at_once_that_a_block_does_not_fit() {
    let mut map = ClaimMap::new(0, 2 << 20);
    for at in (0..map.units()).step_by(4) {
        assert!(map.claim_at(at, 1));
    }
    for order in 2..=20 {
        let error = map.claim(1 << order, order.min(8)).unwrap_err();
        assert_eq!(error.largest_block, 2);
    }
    assert_eq!(map.scans().searches, 0);
}
