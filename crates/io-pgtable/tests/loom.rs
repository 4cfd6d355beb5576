//! Tables made, taken out and used again, under every interleaving of two or three threads,
//! preempted a bounded number of times. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use dmakit_addr::{Granule, Iova, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use support::{Memory, range};

type Table = PageTable<Lpae, HostPlatform, &'static Memory>;

const BLOCK: u64 = 2 << 20;

/// One for all interleavings: its lock is never contended, as the checker runs one thread at a time
/// and memory is no part of what it explores.
fn memory() -> &'static Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    MEMORY.get_or_init(|| Memory::new(1 << 20))
}

fn table() -> Arc<Table> {
    let memory = memory();
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

/// Whether hardware finds a page mapped when it walks from the root: three heights of 4 KiB tables.
fn is_reached(table: &Table, at: u64) -> bool {
    let mut here = table.root_phys();
    for shift in [30, 21, 12] {
        let words = PhysRange::new(here, 4096).unwrap();
        let words = memory().ram.hardware_window(words).unwrap();
        let index = (at >> shift) as usize & 511;
        let entry = words.words64().unwrap()[index].load(Ordering::Relaxed);
        if entry & 1 == 0 {
            return false;
        }
        here = PhysAddr::new(entry & 0x000f_ffff_ffff_f000);
    }
    true
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
fn a_table_at_hand_is_used_only_where_hardware_can_walk_to_it() {
    loom::model(|| {
        let table = table();
        // Out of the tree, in stock, and still at hand where the next one will be.
        map(&table, 0, BLOCK);
        unmap(&table, 0, BLOCK);
        let (one, other) = (2 * BLOCK, table.clone());
        let thread = loom::thread::spawn(move || {
            map(&other, one + 4096, 4096);
            assert!(is_reached(&other, one + 4096));
        });
        map(&table, one, 4096);
        assert!(is_reached(&table, one));
        thread.join().unwrap();
        assert!(is_reached(&table, one) && is_reached(&table, one + 4096));
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
