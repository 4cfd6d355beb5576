//! Entries that are made invalid for a while, and lead elsewhere when they are valid again.

mod support;

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{
    Access, Gather, Leaf, PageTable, Permissions, UnmapError, WalkCoherence, WithholdError,
};
use dmakit_platform::host::HostPlatform;
use support::Memory;

type Table<'a> = PageTable<Lpae, HostPlatform, &'a Memory>;

fn range(start: u64, end: u64) -> IovaRange {
    IovaRange::between(Iova::new(start), Iova::new(end)).unwrap()
}

const FROM: u64 = 0x40_0000_0000;
const TO: u64 = 0x51_8000_0000;

fn table(memory: &Memory, stage: Stage, granule: Granule, hint: ContiguousHint) -> Table<'_> {
    let format = Lpae::new(stage, granule, 40, 44, hint).unwrap();
    let platform = HostPlatform::new(1);
    PageTable::new(format, platform, memory, None, WalkCoherence::Coherent).unwrap()
}

fn permissions() -> Permissions {
    Permissions {
        access: Access::Read,
        privileged: true,
        ..Permissions::READ_WRITE
    }
}

fn leaves(table: &Table<'_>) -> Vec<Leaf> {
    table.leaves(range(0, 1 << 39)).collect()
}

#[test]
fn entries_come_back_as_they_were_but_for_where_they_lead() {
    let memory = Memory::new(64 << 20);
    for stage in [Stage::One, Stage::Two] {
        for granule in [Granule::K4, Granule::K16, Granule::K64] {
            for hint in [ContiguousHint::Never, ContiguousHint::WhereAligned] {
                let table = table(&memory, stage, granule, hint);
                // Leaves of two heights, and a neighbour on each side.
                let (start, block) = (1 << 30, 1 << 30);
                let len = block + 40 * granule.bytes();
                let whole = range(start - granule.bytes(), start + len + granule.bytes());
                let first = PhysAddr::new(FROM - granule.bytes());
                table.map(whole, first, permissions()).unwrap();
                let before = leaves(&table);
                let statistics = table.statistics();
                let part = range(start, start + len);
                let mut gather = Gather::new();
                let withheld = table.withhold(part, &mut gather);
                let Ok((from, leaf_bytes)) = withheld else {
                    // Its end cuts a contiguous group: refused, and nothing has changed.
                    let cut = matches!(
                        withheld,
                        Err(WithholdError::Shape(UnmapError::PartOfLeaf { .. }))
                    );
                    assert!(cut && hint != ContiguousHint::Never, "{withheld:?}");
                    assert_eq!(leaves(&table), before);
                    continue;
                };
                assert_eq!(from, PhysAddr::new(FROM));
                assert!(leaf_bytes > granule.bytes() && TO % leaf_bytes == FROM % leaf_bytes);
                assert_eq!(gather.range(), Some(part));
                assert!(!gather.frees_tables());
                assert_eq!(leaves(&table).len(), 2, "the neighbours");
                table.restore(part, from, PhysAddr::new(TO));
                for (was, is) in before.iter().zip(leaves(&table)) {
                    let inside = part.contains_range(&was.range);
                    let moved = if inside { TO - FROM } else { 0 };
                    assert_eq!((was.range, was.height), (is.range, is.height));
                    assert_eq!(was.phys.raw() + moved, is.phys.raw());
                    assert_eq!(was.is_contiguous, is.is_contiguous);
                    assert_eq!(is.entry - was.entry, moved, "44 bits stand as they are");
                }
                assert_eq!(table.statistics(), statistics);
                table.restore(part, PhysAddr::new(TO), from);
                assert_eq!(leaves(&table), before);
                table.unmap(whole, &mut Gather::new()).unwrap();
            }
        }
    }
}

#[test]
fn what_is_not_whole_not_mapped_or_not_contiguous_is_refused_and_stays() {
    let memory = Memory::new(64 << 20);
    let table = table(&memory, Stage::One, Granule::K4, ContiguousHint::Never);
    let at = |address| PhysAddr::new(address);
    table
        .map(range(0x20_0000, 0x40_0000), at(FROM), permissions())
        .unwrap();
    table
        .map(range(0x1_0000, 0x1_2000), at(0x8000), permissions())
        .unwrap();
    table
        .map(range(0x1_2000, 0x1_4000), at(0x8000), permissions())
        .unwrap();
    let before = leaves(&table);
    let mut gather = Gather::new();
    let mut refused = |start, end| table.withhold(range(start, end), &mut gather).unwrap_err();
    let cut = refused(0x20_0000, 0x30_0000);
    assert!(matches!(
        cut,
        WithholdError::Shape(UnmapError::PartOfLeaf { .. })
    ));
    let scattered = WithholdError::Scattered {
        iova: Iova::new(0x1_2000),
        phys: at(0x8000),
    };
    assert_eq!(refused(0x1_0000, 0x1_4000), scattered);
    for (start, end) in [(0x1_3000, 0x1_5000), (0x1_4000, 0x1_5000)] {
        let absent = refused(start, end);
        assert!(matches!(
            absent,
            WithholdError::Shape(UnmapError::Absent(_))
        ));
    }
    let unaligned = refused(0x1_0800, 0x1_1000);
    assert!(matches!(
        unaligned,
        WithholdError::Shape(UnmapError::Range(_))
    ));
    assert!(gather.is_empty());
    assert_eq!(leaves(&table), before);
}
