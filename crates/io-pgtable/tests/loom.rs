//! Tables made, taken out and used again, under every interleaving of two or three threads,
//! preempted a bounded number of times. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

mod support;

use std::sync::{Arc, OnceLock};

use dmakit_addr::{Granule, Iova, PhysAddr};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use support::{Memory, range};

type Table = PageTable<Lpae, HostPlatform, &'static Memory>;

const BLOCK: u64 = 2 << 20;

fn table() -> Arc<Table> {
    // One for all interleavings: its lock is never contended, as the checker runs one thread at a
    // time and memory is no part of what it explores.
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| Memory::new(1 << 20));
    let format = Lpae::new(Stage::One, Granule::K4, 32, 40, ContiguousHint::Never).unwrap();
    let platform = HostPlatform::new(1);
    let coherence = WalkCoherence::Coherent;
    Arc::new(PageTable::new(format, platform, memory, None, coherence).unwrap())
}

fn map(table: &Table, at: u64, len: u64) {
    let to = PhysAddr::new((1 << 32) + at + 4096);
    table.map(range(at, len), to, Permissions::READ).unwrap();
}

fn unmap(table: &Table, at: u64, len: u64) {
    let mut gather = Gather::new();
    table.unmap(range(at, len), &mut gather).unwrap();
    table.recycle(gather);
}

fn is_mapped(table: &Table, at: u64) -> bool {
    let expected = PhysAddr::new((1 << 32) + at + 4096);
    match table.iova_to_phys(Iova::new(at)) {
        Some(found) => {
            assert_eq!(found, expected);
            true
        }
        None => false,
    }
}

#[test]
fn neighbours_in_a_table_that_neither_found_both_stay_mapped() {
    loom::model(|| {
        let table = table();
        let other = table.clone();
        let thread = loom::thread::spawn(move || {
            map(&other, 4096, 4096);
            assert!(is_mapped(&other, 4096));
        });
        map(&table, 0, 4096);
        assert!(is_mapped(&table, 0));
        thread.join().unwrap();
        assert!(is_mapped(&table, 0) && is_mapped(&table, 4096));
        // Whatever the other had made lies in stock.
        assert_eq!(table.statistics().used, 3);
    });
}

#[test]
fn a_table_from_the_stock_is_taken_once_and_clean() {
    loom::model(|| {
        let table = table();
        map(&table, 0, BLOCK);
        let other = table.clone();
        let thread = loom::thread::spawn(move || {
            map(&other, BLOCK, 4096);
            assert!(!is_mapped(&other, BLOCK + 4096));
        });
        // Into the stock, from which either may take it.
        unmap(&table, 0, BLOCK);
        map(&table, 2 * BLOCK, 4096);
        thread.join().unwrap();
        assert!(is_mapped(&table, BLOCK) && is_mapped(&table, 2 * BLOCK));
        assert!(!is_mapped(&table, 0) && !is_mapped(&table, 2 * BLOCK + 4096));
        unmap(&table, BLOCK, 4096);
        assert!(is_mapped(&table, 2 * BLOCK), "the two do not share a table");
    });
}

#[test]
fn tables_come_and_go_between_two_threads() {
    loom::model(|| {
        let table = table();
        map(&table, 0, BLOCK);
        map(&table, BLOCK, BLOCK);
        let other = table.clone();
        let thread = loom::thread::spawn(move || {
            unmap(&other, BLOCK, BLOCK);
            map(&other, BLOCK, BLOCK);
            assert!(is_mapped(&other, BLOCK) && is_mapped(&other, 2 * BLOCK - 4096));
        });
        unmap(&table, 0, BLOCK);
        map(&table, 0, BLOCK);
        thread.join().unwrap();
        assert!(is_mapped(&table, 0) && is_mapped(&table, BLOCK - 4096));
        assert!(is_mapped(&table, BLOCK));
        let statistics = table.statistics();
        assert_eq!((statistics.used, statistics.stock), (4, 0));
    });
}
