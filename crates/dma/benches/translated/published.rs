//! What the incumbent's own code takes for these lists, as published: built for user space, on
//! another machine (AMD EPYC Genoa, 3.6 GHz, gcc 12.2 -O2).

use super::machine::{Mode, Shape};

/// Median nanoseconds and instructions of a map and an unmap of the whole list.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figure {
    pub ns: f64,
    pub instructions: f64,
}

const fn figure(ns: f64, instructions: f64) -> Figure {
    Figure { ns, instructions }
}

/// Lazy, then strict: `map_sg` with `unmap_sg`, and its link loop.
type Row = (Shape, usize, [[Figure; 2]; 2]);

#[rustfmt::skip]
const ROWS: [Row; 12] = [
    (Shape::Scattered, 1, [[figure(74.2, 1514.), figure(59.8, 1202.)], [figure(70.9, 1492.), figure(56.0, 1182.)]]),
    (Shape::Scattered, 16, [[figure(516., 10.9e3), figure(417., 8945.)], [figure(542., 11.5e3), figure(440., 9579.)]]),
    (Shape::Scattered, 128, [[figure(3947., 80.6e3), figure(3042., 66.6e3)], [figure(4227., 86.5e3), figure(3472., 72.3e3)]]),
    (Shape::Scattered, 1024, [[figure(31.0e3, 618e3), figure(23.7e3, 507e3)], [figure(30.6e3, 618e3), figure(23.1e3, 507e3)]]),
    (Shape::Large, 1, [[figure(105., 2171.), figure(90.9, 1863.)], [figure(139., 2854.), figure(123., 2544.)]]),
    (Shape::Large, 16, [[figure(1028., 21.4e3), figure(925., 19.5e3)], [figure(1859., 33.2e3), figure(1668., 31.2e3)]]),
    (Shape::Large, 128, [[figure(6407., 126e3), figure(5376., 112e3)], [figure(6476., 126e3), figure(5421., 112e3)]]),
    (Shape::Large, 1024, [[figure(49.9e3, 1.00e6), figure(42.4e3, 889e3)], [figure(50.1e3, 1.00e6), figure(43.8e3, 891e3)]]),
    (Shape::Contiguous, 1, [[figure(73.5, 1514.), figure(59.2, 1202.)], [figure(79.8, 1492.), figure(57.3, 1182.)]]),
    (Shape::Contiguous, 16, [[figure(217., 3895.), figure(406., 8944.)], [figure(278., 4529.), figure(456., 9579.)]]),
    (Shape::Contiguous, 128, [[figure(1362., 21.3e3), figure(3029., 66.4e3)], [figure(1737., 27.2e3), figure(3420., 72.3e3)]]),
    (Shape::Contiguous, 1024, [[figure(9632., 141e3), figure(23.5e3, 507e3)], [figure(9868., 141e3), figure(24.7e3, 507e3)]]),
];

/// A list and its link loop; none for batches, which the incumbent does not have: those stand beside
/// its lazy figures.
pub fn of(shape: Shape, count: usize, mode: Mode) -> Option<[Figure; 2]> {
    let row = ROWS.iter().find(|row| (row.0, row.1) == (shape, count))?;
    Some(row.2[usize::from(mode == Mode::Strict)])
}

/// Page by page, 4 KiB scattered: nanoseconds.
pub fn page_by_page(shape: Shape, count: usize, mode: Mode) -> Option<f64> {
    let [lazy, strict] = match (shape, count) {
        (Shape::Scattered, 1) => [76.5, 71.5],
        (Shape::Scattered, 16) => [1232., 1154.],
        (Shape::Scattered, 128) => [9789., 9534.],
        (Shape::Scattered, 1024) => [81.4e3, 77.4e3],
        (Shape::Large, 1) => [108., 144.],
        (Shape::Large, 16) => [2078., 2248.],
        (Shape::Large, 128) => [14.2e3, 17.8e3],
        (Shape::Large, 1024) => [112e3, 150e3],
        _ => return None,
    };
    Some(if mode == Mode::Strict { strict } else { lazy })
}
