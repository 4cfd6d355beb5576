//! Pages mapped and unmapped, in the sequences on which page tables are compared.
//!
//! `cargo bench -p dmakit-io-pgtable [-- PART-OF-A-ROW'S-NAME]`. The incumbent's least time,
//! measured on the same kind of machine, stands in the program; its ratio means something on such a
//! machine only, the ratio to the floor anywhere.

mod pages;
#[path = "../../iova/benches/passes.rs"]
mod passes;

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use dmakit_addr::{Iova, PhysAddr};
use dmakit_io_pgtable::{Gather, Permissions};
use pages::{
    G, K, M, Memory, Table, at, checked_clear, checked_fill, checked_stores, map, stores, table,
    unmap,
};
use passes::{Draws, Figures, Rows, measure, measure_pair};

fn main() {
    let rows = Rows::chosen();
    let memory = Memory::new(8192);
    for (name, size, span, ops, peers) in [
        ("4K", 4 * K, G, 400_000, [32.6, 34.9]),
        ("64K as 4K", 64 * K, G, 200_000, [64.0, 97.7]),
        ("1M as 4K", M, G, 20_000, [541.0, 1234.0]),
        ("2M block", 2 * M, 64 * G, 400_000, [29.1, 31.3]),
        ("1G block", G, 256 * G, 400_000, [25.7, 27.8]),
    ] {
        map_unmap(&rows, &memory, name, size, span, ops, peers);
    }
    passes_apart(&rows, &memory);
    random(&rows, &memory);
    gigabyte(&rows, &memory);
}

fn map_unmap(
    rows: &Rows,
    memory: &Memory,
    name: &str,
    size: u64,
    span: u64,
    ops: usize,
    [lazy, strict]: [f64; 2],
) {
    let entries = if name.ends_with("4K") { size / 4096 } else { 1 } as usize;
    for (mode, peer) in [("lazy", lazy), ("strict", strict)] {
        let row = format!("{name} map+unmap {mode}");
        if !rows.has(&row) {
            continue;
        }
        let table = table(memory);
        if name.ends_with("4K") {
            // Off the physical alignment of blocks, so that small leaves are used from the start.
            let mut gather = Gather::new();
            for start in (0..G).step_by(2 * M as usize) {
                map(&table, start, 4 * K);
                unmap(&table, start, 4 * K, &mut gather);
            }
        }
        let words: Vec<AtomicU64> = (0..1 << 18).map(|_| AtomicU64::new(0)).collect();
        let (mut spot, mut next, mut gather) = (0, 0, Gather::new());
        let (floor, figures) = measure_pair(
            ops,
            |n| {
                for _ in 0..n {
                    checked_stores(&words, spot, entries, black_box(1 << 40 | 0xf47));
                    spot = (spot + entries) % words.len();
                }
            },
            |n| {
                for _ in 0..n {
                    map(&table, next, size);
                    if mode == "strict" {
                        gather = Gather::new();
                    }
                    unmap(&table, next, size, &mut gather);
                    if mode == "strict" {
                        black_box((gather.range(), gather.leaf_height()));
                    }
                    next = (next + size) % span;
                }
            },
        );
        rows.print("floor: its checked stores", floor, None, None);
        rows.print(&row, figures, Some(floor), Some(peer));
    }
}

/// Whole passes of maps, then of unmaps.
fn passes_apart(rows: &Rows, memory: &Memory) {
    for (name, size, span, peers) in [
        ("4K", 4 * K, G, [17.4, 15.6]),
        ("64K as 4K", 64 * K, G, [34.3, 27.4]),
        ("1M as 4K", M, G, [335.0, 236.0]),
        ("2M block", 2 * M, 64 * G, [15.4, 13.8]),
    ] {
        if !rows.has(&format!("{name} map only")) && !rows.has(&format!("{name} unmap only")) {
            continue;
        }
        let table = table(memory);
        let count = (span / size) as usize;
        let mut best = [Figures::NONE; 2];
        for pass in 0..8 {
            let mapped = timed(count, |i| map(&table, i as u64 * size, size));
            let mut gather = Gather::new();
            let unmapped = timed(count, |i| unmap(&table, i as u64 * size, size, &mut gather));
            if pass > 0 {
                best[0] = best[0].with(mapped);
                best[1] = best[1].with(unmapped);
            }
        }
        rows.print(&format!("{name} map only"), best[0], None, Some(peers[0]));
        rows.print(&format!("{name} unmap only"), best[1], None, Some(peers[1]));
    }
}

fn timed(count: usize, mut body: impl FnMut(usize)) -> f64 {
    let started = std::time::Instant::now();
    (0..count).for_each(&mut body);
    started.elapsed().as_nanos() as f64 / count as f64
}

fn random(rows: &Rows, memory: &Memory) {
    let table = table(memory);
    for start in (0..G).step_by(M as usize) {
        map(&table, start, M);
    }
    for (name, span, peer) in [("1G", G, 13.9), ("64M", 64 * M, 9.8)] {
        let row = format!("iova_to_phys random {name}");
        if rows.has(&row) {
            let mut draws = Draws::default();
            let figures = measure(400_000, |n| {
                for _ in 0..n {
                    let iova = draws.below((span / 4096) as usize) as u64 * 4096 + 0x123;
                    black_box(table.iova_to_phys(Iova::new(iova)).unwrap());
                }
            });
            rows.print(&row, figures, None, Some(peer));
        }
    }
    let mut gather = Gather::new();
    for start in (0..G).step_by(M as usize) {
        unmap(&table, start, M, &mut gather);
    }
    if rows.has("4K random map+unmap") {
        let mut draws = Draws::default();
        let figures = measure(400_000, |n| {
            for _ in 0..n {
                let start = draws.below(1 << 18) as u64 * 4096;
                map(&table, start, 4 * K);
                unmap(&table, start, 4 * K, &mut gather);
            }
        });
        rows.print("4K random map+unmap", figures, None, Some(36.0));
    }
    if rows.has("2M as 4K map+unmap") {
        let off = 64 * G;
        let figures = measure(20_000, |n| {
            for _ in 0..n {
                let phys = PhysAddr::new((1 << 40) + 4096);
                table
                    .map(at(off, 2 * M), phys, Permissions::READ_WRITE)
                    .unwrap();
                let mut gather = Gather::new();
                unmap(&table, off, 2 * M, &mut gather);
                table.recycle(gather);
            }
        });
        rows.print(
            "2M as 4K map+unmap, table freed",
            figures,
            None,
            Some(649.0),
        );
    }
}

/// 1 GiB of 4 KiB pages, memory a page off alignment. The floors touch the memory of as many tables,
/// in the order in which the row does.
fn gigabyte(rows: &Rows, memory: &Memory) {
    const TABLES: usize = 512;
    let phys = PhysAddr::new((1 << 40) + G + 4096);
    let bits = || black_box(1 << 40 | 0xf47);
    let store = |n| (0..n).for_each(|_| memory.visit(TABLES, |words| stores(words, bits())));
    let store_checked = |n| {
        for _ in 0..n {
            memory.visit(TABLES, |words| checked_fill(words, bits()));
            memory.visit(TABLES, checked_clear);
        }
    };
    if rows.has("1G as 4K create+map+free") {
        let (floor, figures) = measure_pair(200, store, |n| {
            for _ in 0..n {
                let table = table(memory);
                table.map(at(G, G), phys, Permissions::READ_WRITE).unwrap();
            }
        });
        rows.print("floor: its stores", floor, None, None);
        rows.print(
            "1G as 4K create+map+free",
            figures,
            Some(floor),
            Some(336_000.0),
        );
    }
    if rows.has("1G as 4K, unmap tables stay") {
        let table = table(memory);
        let (floor, figures) = measure_pair(200, store_checked, |n| {
            for _ in 0..n {
                map_and_unmap_gigabyte(&table, phys, M);
            }
        });
        rows.print("floor: its checked stores", floor, None, None);
        rows.print(
            "1G as 4K, unmap tables stay",
            figures,
            Some(floor),
            Some(550_000.0),
        );
    }
    if rows.has("1G as 4K, unmap 1G") {
        let table = table(memory);
        let (floor, figures) = measure_pair(200, store, |n| {
            for _ in 0..n {
                map_and_unmap_gigabyte(&table, phys, G);
            }
        });
        rows.print("floor: its stores", floor, None, None);
        rows.print("1G as 4K, unmap 1G", figures, Some(floor), Some(336_000.0));
    }
}

fn map_and_unmap_gigabyte(table: &Table<'_>, phys: PhysAddr, piece: u64) {
    table.map(at(G, G), phys, Permissions::READ_WRITE).unwrap();
    let mut gather = Gather::new();
    for start in (G..2 * G).step_by(piece as usize) {
        unmap(table, start, piece, &mut gather);
    }
    table.recycle(gather);
}
