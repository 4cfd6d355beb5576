//! Against a naive model: one entry in a map for each granule.

use std::collections::BTreeMap;
use std::sync::Mutex;

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, MapFailure, PageTable, Permissions, UnmapError, WalkCoherence};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};

/// Memory that is cut off in order and given back to lists by size; it can be told to run out.
struct Memory {
    inner: Mutex<Inner>,
    _ram: HostRam,
}

struct Inner {
    rest: Option<Segment>,
    free: Vec<Segment>,
    taken: usize,
    allowed: usize,
}

impl Memory {
    fn new(bytes: u64) -> Self {
        let range = PhysRange::new(PhysAddr::new(0x8_0000_0000), bytes).unwrap();
        let (ram, mut segments) = HostRam::new(&[range]).unwrap();
        let inner = Inner {
            rest: segments.pop(),
            free: Vec::new(),
            taken: 0,
            allowed: usize::MAX,
        };
        Self {
            inner: Mutex::new(inner),
            _ram: ram,
        }
    }

    fn allow(&self, tables: usize) {
        self.inner.lock().unwrap().allowed = tables;
    }

    fn taken(&self) -> usize {
        self.inner.lock().unwrap().taken
    }
}

impl TableMemory for &Memory {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        let mut inner = self.inner.lock().unwrap();
        if inner.allowed == 0 {
            return Err(refused);
        }
        let fits = inner.free.iter().position(|s| s.len() == request.len);
        let segment = match fits {
            Some(index) => inner.free.swap_remove(index),
            None => {
                let rest = inner.rest.take().ok_or(refused)?;
                let start = rest.range().start().raw();
                let skip = start.next_multiple_of(request.align) - start;
                let (_, rest) = rest.split_at(skip).map_err(|_| refused)?;
                let (segment, rest) = rest.split_at(request.len).map_err(|_| refused)?;
                inner.rest = Some(rest);
                segment
            }
        };
        assert!(segment.is_aligned(request.align));
        segment.window().fill(0);
        inner.taken += 1;
        inner.allowed -= 1;
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        let mut inner = self.inner.lock().unwrap();
        inner.taken -= 1;
        inner.free.push(segment);
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).unwrap()
}

fn steps() -> u64 {
    std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000)
}

/// The model, and the ranges that were mapped at once.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, (u64, bool)>,
    mapped: Vec<(u64, u64)>,
}

fn lockstep(granule: Granule, input_bits: u32, stage: Stage, hint: ContiguousHint, seed: u64) {
    let memory = Memory::new(1 << 30);
    let format = Lpae::new(stage, granule, input_bits, 48, hint).unwrap();
    let coherence = WalkCoherence::NonCoherent;
    let table = PageTable::new(format, HostPlatform::new(1), &memory, None, coherence).unwrap();
    let mut rng = Rng(seed);
    let mut model = Model::default();
    let g = granule.bytes();
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
    let phys = (1 << 20) + rng.below(1 << 14) / unit * unit;
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
        }
    }
}
