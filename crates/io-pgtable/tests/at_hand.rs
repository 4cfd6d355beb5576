//! Tables that are still at hand after they left the tree.

mod support;

use dmakit_addr::{Granule, Iova, PhysAddr};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, MapFailure, PageTable, Permissions, UnmapError, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use support::{Memory, range};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

type Table<'a> = PageTable<Lpae, HostPlatform, &'a Memory>;

fn table(memory: &Memory) -> Table<'_> {
    let format = Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).unwrap();
    let coherence = WalkCoherence::Coherent;
    PageTable::new(format, HostPlatform::new(1), memory, None, coherence).unwrap()
}

fn map(table: &Table<'_>, start: u64, len: u64, to: u64) {
    table
        .map(range(start, len), PhysAddr::new(to), Permissions::READ)
        .unwrap();
}

/// Maps, and takes what was made for it out of the tree and into the stock.
fn map_and_drop(table: &Table<'_>, start: u64, len: u64, to: u64) {
    map(table, start, len, to);
    let mut gather = Gather::new();
    table.unmap(range(start, len), &mut gather).unwrap();
    assert!(gather.frees_tables());
    table.recycle(gather);
}

#[test]
fn a_table_used_again_at_another_height_is_not_one_of_the_old() {
    let memory = Memory::new(4 << 20);
    let table = table(&memory);
    // The first gigabyte by blocks of 2 MiB. The place of its table is that of every eighth.
    map_and_drop(&table, 0, G, 2 * M);
    // The same table for 512 GiB, with one of another place below.
    let far = 512 * G;
    map(&table, far + G, 2 * M, 2 * M);
    map(&table, far, 2 * M, 6 * M);
    let found: Vec<_> = table.leaves(range(far, 2 * G)).collect();
    let expected = [(far, 6 * M), (far + G, 2 * M)];
    assert_eq!(found.len(), expected.len());
    for (leaf, (start, phys)) in found.iter().zip(expected) {
        assert_eq!(leaf.range, range(start, 2 * M));
        assert_eq!(leaf.phys, PhysAddr::new(phys));
    }
}

#[test]
fn addresses_that_no_tree_has_meet_no_table() {
    let memory = Memory::new(4 << 20);
    let table = table(&memory);
    map(&table, 2 * M, 4096, 0);
    map_and_drop(&table, 0, 2 * M, 4096);
    let mut cursor = table.cursor(Permissions::READ);
    for high in [1 << 48, 1 << 60, 1 << 61, 1 << 63] {
        for start in [high, high + 2 * M, high + 2 * M + 4096] {
            let here = range(start, 4096);
            let mapped = table.map(here, PhysAddr::new(0), Permissions::READ);
            assert_eq!(mapped.unwrap_err().failure, MapFailure::OutOfRange);
            let unmapped = table.unmap(here, &mut Gather::new());
            assert_eq!(unmapped, Err(UnmapError::Range(here)));
            assert!(!cursor.map_granule(start, PhysAddr::new(0)), "{start:#x}");
            assert_eq!(table.iova_to_phys(Iova::new(start)), None);
        }
    }
    assert_eq!(table.leaves(range(0, 1 << 48)).count(), 1);
}
