//! Published figures of Linux's own code on the same operations.

use serde::Serialize;

/// Where the figures come from.
pub const SOURCE: &str = "Linux 6.12.117 swiotlb.c, cma.c, iova.c, io-pgtable-arm.c and the SMMUv3 queue \
     built for user space (gcc 12.2 -O2, memcpy of glibc), AMD EPYC Genoa at 3.6 GHz, shared machine";

/// Nanoseconds for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub median: f64,
    pub min: f64,
}

/// A line: areas, bytes, then the figures of the columns.
type Line = (u32, u32, [(f64, f64); 6]);

/// What the columns are.
const COLUMNS: [&str; 6] = [
    "full0/pair",
    "full50/pair",
    "full50/random",
    "full90/pair",
    "full90/random",
    "full0/pair/2threads",
];

/// Slots alone, `memcpy` left out: median and least.
#[rustfmt::skip]
const SEARCH: [Line; 8] = [
    (1, 512, [(143., 102.), (34.8, 34.7), (48.4, 48.3), (42.2, 41.7), (58.9, 58.2), (381., 342.)]),
    (1, 4096, [(109., 105.), (35.0, 34.3), (60.6, 55.8), (45.0, 44.6), (59.1, 58.6), (264., 263.)]),
    (1, 65536, [(141., 140.), (141., 139.), (130., 129.), (356., 353.), (238., 237.), (376., 371.)]),
    (1, 262_144, [(279., 274.), (397., 395.), (330., 325.), (1288., 1278.), (755., 749.), (770., 763.)]),
    (2, 512, [(105., 103.), (29.6, 28.9), (16e3, 15.2e3), (45.2, 42.3), (8934., 8387.), (193., 178.)]),
    (2, 4096, [(103., 102.), (32.1, 31.9), (7646., 7486.), (44.3, 44.0), (4276., 4229.), (196., 161.)]),
    (2, 65536, [(147., 142.), (139., 137.), (7666., 7308.), (343., 341.), (4263., 4225.), (283., 272.)]),
    (2, 262_144, [(333., 279.), (530., 419.), (8456., 8007.), (1478., 1419.), (5019., 4548.), (529., 445.)]),
];

/// With both copies.
#[rustfmt::skip]
const COPIES: [Line; 8] = [
    (1, 512, [(357., 333.), (291., 279.), (427., 381.), (83.7, 81.8), (364., 324.), (441., 410.)]),
    (1, 4096, [(496., 470.), (542., 524.), (1053., 870.), (251., 242.), (1064., 978.), (746., 677.)]),
    (1, 65536, [(6466., 5732.), (6340., 6154.), (9263., 9037.), (3906., 3562.), (8984., 7885.), (7260., 6664.)]),
    (1, 262_144, [(40.2e3, 36.8e3), (37.6e3, 28e3), (45.1e3, 41.6e3), (26.8e3, 23.1e3), (42.7e3, 40e3), (42.2e3, 40.5e3)]),
    (2, 512, [(271., 214.), (162., 157.), (16.8e3, 16.3e3), (70.5, 59.7), (9728., 8895.), (248., 233.)]),
    (2, 4096, [(480., 464.), (469., 428.), (9065., 8598.), (201., 195.), (5345., 5060.), (536., 457.)]),
    (2, 65536, [(6641., 4677.), (6286., 4749.), (13e3, 12.9e3), (3184., 3111.), (12.1e3, 11.4e3), (6832., 6553.)]),
    (2, 262_144, [(28.8e3, 27.6e3), (24.7e3, 23.3e3), (38.8e3, 38.6e3), (18.9e3, 18.1e3), (39.3e3, 38.3e3), (43.1e3, 40.9e3)]),
];

#[rustfmt::skip]
const TRANSLATION: [(&str, f64, f64); 37] = [
    ("iova/pair/1", 15.8, 11.7),
    ("iova/pair/8", 10.0, 9.6),
    ("iova/pair/64", 19.8, 19.1),
    ("iova/window/64", 9.1, 9.1),
    ("iova/window/1024", 9.4, 9.1),
    ("iova/window/16384", 9.2, 9.1),
    ("iova/tree/random/1k", 1045., 997.),
    ("iova/tree/random/10k", 13.4e3, 12.5e3),
    ("iova/tree/random/100k", 71.6e3, 49e3),
    ("iova/tree/random/1M", 1.31e6, 1.06e6),
    ("iova/cached/random/1k", 376., 354.),
    ("iova/cached/random/10k", 3486., 3419.),
    ("iova/cached/random/100k", 57.4e3, 32.1e3),
    ("iova/cached/random/1M", 1.73e6, 1.33e6),
    ("iova/full99/alloc-1", 536e3, 64.8e3),
    ("iova/full99/fail-8", 129.8e6, 121.33e6),
    ("tables/4KiB/lazy", 33.3, 32.6),
    ("tables/4KiB/strict", 35.3, 34.9),
    ("tables/64KiB/lazy", 64.3, 61.9),
    ("tables/64KiB/strict", 99.9, 97.7),
    ("tables/1MiB/lazy", 547., 541.),
    ("tables/1MiB/strict", 1268., 1234.),
    ("tables/2MiB/lazy", 29.7, 29.1),
    ("tables/2MiB/strict", 32.5, 31.3),
    ("tables/1GiB/lazy", 25.9, 25.7),
    ("tables/1GiB/strict", 28.2, 27.8),
    ("tables/look-up/1GiB", 14.1, 13.9),
    ("tables/1GiB-as-4KiB/create-map-free", 357e3, 336e3),
    ("commands/1", 66.5, 66.2),
    ("commands/16", 155., 148.),
    ("commands/64", 456., 440.),
    ("commands/1/2threads", 291., 184.),
    ("commands/16/2threads", 395., 389.),
    ("commands/range/64KiB", 70.0, 69.0),
    ("commands/range/2MiB", 69.7, 69.3),
    ("commands/by-page/64KiB", 154., 151.),
    ("commands/by-page/2MiB", 3087., 3039.),
];

#[rustfmt::skip]
const AREAS: [(&str, f64, f64); 60] = [
    ("areas/1GiB/4KiB/full0/pair", 25.4, 16.6),
    ("areas/1GiB/4KiB/full50/pair", 27., 25.7),
    ("areas/1GiB/4KiB/full50/random", 395., 353.),
    ("areas/1GiB/4KiB/full90/pair", 17.1, 16.1),
    ("areas/1GiB/4KiB/full90/random", 647., 628.),
    ("areas/1GiB/4KiB/prefix50/pair", 597., 584.),
    ("areas/1GiB/4KiB/prefix90/pair", 1025., 1016.),
    ("areas/1GiB/64KiB/full0/pair", 16.8, 16.),
    ("areas/1GiB/64KiB/full50/pair", 17.3, 16.3),
    ("areas/1GiB/64KiB/full50/random", 316., 313.),
    ("areas/1GiB/64KiB/full90/pair", 17.8, 17.7),
    ("areas/1GiB/64KiB/full90/random", 567., 543.),
    ("areas/1GiB/64KiB/prefix50/pair", 592., 588.),
    ("areas/1GiB/64KiB/prefix90/pair", 1016., 1011.),
    ("areas/1GiB/64KiB/failing-in-4096-full75", 133e3, 132e3),
    ("areas/1GiB/2MiB/full0/pair", 26.1, 23.9),
    ("areas/1GiB/2MiB/full50/pair", 24.6, 24.4),
    ("areas/1GiB/2MiB/full50/random", 319., 315.),
    ("areas/1GiB/2MiB/full90/pair", 24.9, 24.4),
    ("areas/1GiB/2MiB/full90/random", 554., 537.),
    ("areas/1GiB/2MiB/prefix50/pair", 593., 590.),
    ("areas/1GiB/2MiB/prefix90/pair", 1025., 1012.),
    ("areas/1GiB/2MiB/failing-in-4096-full75", 8242., 8235.),
    ("areas/1GiB/64MiB/full0/pair", 252., 247.),
    ("areas/1GiB/64MiB/full50/pair", 269., 262.),
    ("areas/1GiB/64MiB/full50/random", 564., 539.),
    ("areas/1GiB/64MiB/full90/pair", 262., 250.),
    ("areas/1GiB/64MiB/full90/random", 723., 717.),
    ("areas/1GiB/mixed/full50/random", 300., 297.),
    ("areas/1GiB/mixed/full90/random", 521., 513.),
    ("areas/8GiB/4KiB/full0/pair", 16.1, 15.8),
    ("areas/8GiB/4KiB/full50/pair", 16.1, 15.8),
    ("areas/8GiB/4KiB/full50/random", 2190., 1911.),
    ("areas/8GiB/4KiB/full90/pair", 16.3, 16.),
    ("areas/8GiB/4KiB/full90/random", 4445., 4052.),
    ("areas/8GiB/4KiB/prefix50/pair", 5165., 4599.),
    ("areas/8GiB/4KiB/prefix90/pair", 8502., 8152.),
    ("areas/8GiB/64KiB/full0/pair", 18.5, 15.6),
    ("areas/8GiB/64KiB/full50/pair", 16.2, 16.1),
    ("areas/8GiB/64KiB/full50/random", 2533., 2438.),
    ("areas/8GiB/64KiB/full90/pair", 16.6, 16.3),
    ("areas/8GiB/64KiB/full90/random", 4370., 4194.),
    ("areas/8GiB/64KiB/prefix50/pair", 4763., 4540.),
    ("areas/8GiB/64KiB/prefix90/pair", 9630., 8448.),
    ("areas/8GiB/64KiB/failing-in-4096-full75", 1.08e6, 1.06e6),
    ("areas/8GiB/2MiB/full0/pair", 35.9, 34.6),
    ("areas/8GiB/2MiB/full50/pair", 34., 29.7),
    ("areas/8GiB/2MiB/full50/random", 3341., 2300.),
    ("areas/8GiB/2MiB/full90/pair", 48.9, 47.5),
    ("areas/8GiB/2MiB/full90/random", 4594., 4342.),
    ("areas/8GiB/2MiB/prefix50/pair", 4581., 4508.),
    ("areas/8GiB/2MiB/prefix90/pair", 8921., 8614.),
    ("areas/8GiB/2MiB/failing-in-4096-full75", 67.3e3, 65.3e3),
    ("areas/8GiB/64MiB/full0/pair", 293., 262.),
    ("areas/8GiB/64MiB/full50/pair", 354., 281.),
    ("areas/8GiB/64MiB/full50/random", 2588., 2475.),
    ("areas/8GiB/64MiB/full90/pair", 279., 248.),
    ("areas/8GiB/64MiB/full90/random", 5077., 4533.),
    ("areas/8GiB/mixed/full50/random", 2170., 1636.),
    ("areas/8GiB/mixed/full90/random", 4089., 3825.),
];

const OTHERS: [(&str, f64, f64); 10] = [
    ("search/areas1/65536/failing-in-4096-full50", 32.6e3, 30.1e3),
    ("search/areas2/65536/failing-in-4096-full50", 33.8e3, 29.7e3),
    ("floor/lock-pair", 2.5, 2.4),
    ("floor/draw-and-index-1M", 4.1, 3.8),
    ("floor/memcpy/512", 7.8, 7.6),
    ("floor/memcpy/4096", 44.0, 43.7),
    ("floor/cold-walk/512", 47.1, 39.9),
    ("floor/cold-walk/4096", 329., 325.),
    ("floor/cold-walk/65536", 5115., 5077.),
    ("floor/cold-walk/262144", 23.4e3, 22.3e3),
];

/// The figure of a row of this name.
pub fn figure(row: &str) -> Option<Figure> {
    let of = |(median, min): (f64, f64)| Figure { median, min };
    let mut others = OTHERS.iter().chain(&TRANSLATION).chain(&AREAS);
    if let Some((_, median, min)) = others.find(|(name, ..)| *name == row) {
        return Some(of((*median, *min)));
    }
    let (kind, rest) = row.split_once('/')?;
    let lines = match kind {
        "search" => &SEARCH,
        "copies" => &COPIES,
        _ => return None,
    };
    let (areas, rest) = rest.strip_prefix("areas")?.split_once('/')?;
    let (size, column) = rest.split_once('/')?;
    let (areas, size): (u32, u32) = (areas.parse().ok()?, size.parse().ok()?);
    let column = COLUMNS.iter().position(|name| *name == column)?;
    let (.., figures) = lines
        .iter()
        .find(|line| (line.0, line.1) == (areas, size))?;
    figures.get(column).copied().map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_the_rows_own_names() {
        let median = |row: &str| figure(row).map(|figure| figure.median);
        assert_eq!(median("search/areas2/512/full90/random"), Some(8934.));
        assert_eq!(median("copies/areas1/4096/full0/pair/2threads"), Some(746.));
        assert_eq!(median("floor/cold-walk/4096"), Some(329.));
        assert_eq!(
            median("areas/8GiB/64KiB/failing-in-4096-full75"),
            Some(1.08e6)
        );
        assert_eq!(median("search/areas3/512/full0/pair"), None);
    }
}
