//! Against a naive model: one entry in a map for each granule.

mod support;

use std::collections::BTreeMap;

use dmakit_addr::{Granule, Iova, PhysAddr};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, MapFailure, PageTable, Permissions, UnmapError, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use support::{Memory, Rng, range};

/// Steps of each of the twenty shapes.
fn steps() -> u64 {
    let all = std::env::var("DMAKIT_STEPS").ok();
    let all: Option<u64> = all.and_then(|text| text.parse().ok());
    all.unwrap_or(250_000).div_ceil(20)
}

/// The model, and the ranges that were mapped at once.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, (u64, bool)>,
    mapped: Vec<(u64, u64)>,
    /// The lowest frame.
    first: u64,
}

fn lockstep(granule: Granule, input_bits: u32, stage: Stage, hint: ContiguousHint, seed: u64) {
    let memory = Memory::new(1 << 30);
    let format = Lpae::new(stage, granule, input_bits, input_bits.max(48), hint).unwrap();
    let coherence = WalkCoherence::NonCoherent;
    let table = PageTable::new(format, HostPlatform::new(1), &memory, None, coherence).unwrap();
    let mut rng = Rng(seed);
    let g = granule.bytes();
    // Addresses of 52 bits have their upper bits in another place of an entry.
    let high = if input_bits == 52 { 0xd << 48 } else { 0 };
    let mut model = Model {
        first: (1 << 20) + high / g,
        ..Model::default()
    };
    let block = format_block(granule);
    let space = 6 * block;
    let at = format!("granule {g}, {input_bits} bits, {stage:?}, {hint:?}, seed {seed:#x}");
    for step in 0..steps() {
        let at = format!("{at}, step {step}");
        if rng.below(100) < 55 || model.mapped.is_empty() {
            map_one(&mut rng, &table, &mut model, g, block, space, &memory, &at);
        } else {
            unmap_one(&mut rng, &table, &mut model, g, &at);
        }
        let probe = rng.below(space / g);
        let expected = model
            .pages
            .get(&probe)
            .map(|&(phys, _)| PhysAddr::new(phys * g + 42));
        assert_eq!(
            table.iova_to_phys(Iova::new(probe * g + 42)),
            expected,
            "{at}"
        );
        if step % 2000 == 0 {
            check_all(&table, &model, g, space, &at);
        }
    }
    let mut gather = Gather::new();
    for (start, len) in model.mapped {
        table.unmap(range(start * g, len * g), &mut gather).unwrap();
    }
    table.recycle(gather);
    assert_eq!(table.leaves(range(0, space)).count(), 0, "{at}");
    let statistics = table.statistics();
    assert_eq!(statistics.used + statistics.stock, memory.taken(), "{at}");
    drop(table);
    assert_eq!(memory.taken(), 0, "{at}");
}

fn format_block(granule: Granule) -> u64 {
    granule.bytes() << (granule.shift() - 3)
}

#[allow(clippy::too_many_arguments)]
fn map_one(
    rng: &mut Rng,
    table: &PageTable<Lpae, HostPlatform, &Memory>,
    model: &mut Model,
    g: u64,
    block: u64,
    space: u64,
    memory: &Memory,
    at: &str,
) {
    let per_block = block / g;
    let len = match rng.below(5) {
        0 => 1,
        1 => 16 * (1 + rng.below(4)),
        2 => per_block * (1 + rng.below(2)),
        3 => 1 + rng.below(per_block),
        _ => 1 + rng.below(40),
    };
    // Aligned to blocks, to groups or to nothing, both sides alike or not.
    let unit = [1, 16, per_block][rng.below(3) as usize];
    let start = rng.below((space / g - len).max(1)) / unit * unit;
    let phys = model.first + rng.below(1 << 14) / unit * unit;
    let writable = rng.below(2) == 0;
    let permissions = if writable {
        Permissions::READ_WRITE
    } else {
        Permissions::READ
    };
    let starve = rng.below(10) == 0;
    if starve {
        memory.allow(rng.below(2) as usize);
    }
    let result = table.map(
        range(start * g, len * g),
        PhysAddr::new(phys * g),
        permissions,
    );
    memory.allow(usize::MAX);
    let occupied = model.pages.range(start..start + len).next().is_some();
    match result {
        Ok(()) => {
            assert!(!occupied, "{at}");
            for page in 0..len {
                model.pages.insert(start + page, (phys + page, writable));
            }
            model.mapped.push((start, len));
        }
        Err(error) => match error.failure {
            MapFailure::Occupied => assert!(occupied, "{at}"),
            MapFailure::Table(_) => assert!(starve, "{at}"),
            other => panic!("{at}: {other:?}"),
        },
    }
}

fn unmap_one(
    rng: &mut Rng,
    table: &PageTable<Lpae, HostPlatform, &Memory>,
    model: &mut Model,
    g: u64,
    at: &str,
) {
    let index = rng.below(model.mapped.len() as u64) as usize;
    let (start, len) = model.mapped[index];
    let mut gather = Gather::new();
    // A part of it first, now and then: fine, or refused whole because it cuts a leaf.
    let cut = start + rng.below(len);
    if rng.below(3) == 0 && cut > start {
        match table.unmap(range(start * g, (cut - start) * g), &mut gather) {
            Ok(()) => {
                for page in start..cut {
                    model.pages.remove(&page);
                }
                model.mapped[index] = (cut, len - (cut - start));
            }
            Err(UnmapError::PartOfLeaf { leaf, .. }) => {
                assert!(leaf.contains(Iova::new(cut * g)), "{at}");
                assert!(leaf.start() < Iova::new(cut * g), "{at}");
                assert!(gather.is_empty(), "{at}");
            }
            Err(other) => panic!("{at}: {other}"),
        }
    } else {
        table
            .unmap(range(start * g, len * g), &mut gather)
            .unwrap_or_else(|e| panic!("{at}: {e}"));
        for page in start..start + len {
            model.pages.remove(&page);
        }
        model.mapped.swap_remove(index);
        assert_eq!(gather.range(), Some(range(start * g, len * g)), "{at}");
    }
    table.recycle(gather);
}

fn check_all(
    table: &PageTable<Lpae, HostPlatform, &Memory>,
    model: &Model,
    g: u64,
    space: u64,
    at: &str,
) {
    let mut seen = BTreeMap::new();
    for leaf in table.leaves(range(0, space)) {
        for page in 0..leaf.range.len() / g {
            let writable = leaf.entry >> 7 & 1;
            seen.insert(
                leaf.range.start().raw() / g + page,
                (leaf.phys.raw() / g + page, writable),
            );
        }
    }
    assert_eq!(seen.len(), model.pages.len(), "{at}");
    for (page, &(phys, _)) in &model.pages {
        assert_eq!(seen.get(page).map(|s| s.0), Some(phys), "{at}");
    }
}

#[test]
fn a_table_maps_what_a_map_of_pages_says() {
    let seed = 0x9E37_79B9_7F4A_7C15;
    for hint in [ContiguousHint::Never, ContiguousHint::WhereAligned] {
        for stage in [Stage::One, Stage::Two] {
            lockstep(Granule::K4, 48, stage, hint, seed);
            lockstep(Granule::K4, 32, stage, hint, seed + 1);
            lockstep(Granule::K16, 47, stage, hint, seed + 2);
            lockstep(Granule::K64, 42, stage, hint, seed + 3);
            lockstep(Granule::K64, 52, stage, hint, seed + 4);
        }
    }
}
