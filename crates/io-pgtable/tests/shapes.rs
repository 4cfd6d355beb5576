//! What holds for every shape of table.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dmakit_addr::{Granule, Iova, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{
    Format, Gather, MapFailure, PageTable, Permissions, UnmapError, WalkCoherence,
};
use dmakit_platform::host::{HostPlatform, ThreadCpu};
use dmakit_platform::{ConversionError, Instant, Platform};
use support::{Memory, Rng, range};

const G: u64 = 1 << 30;

type Table<'a> = PageTable<Lpae, HostPlatform, &'a Memory>;

fn table<'a>(memory: &'a Memory, format: Lpae) -> Table<'a> {
    let coherence = WalkCoherence::Coherent;
    PageTable::new(format, HostPlatform::new(1), memory, None, coherence).unwrap()
}

fn lpae(granule: Granule, bits: u32, stage: Stage) -> Lpae {
    Lpae::new(stage, granule, bits, bits.max(48), ContiguousHint::Never).unwrap()
}

fn leaf_sizes(format: &Lpae) -> Vec<u64> {
    let geometry = format.geometry();
    (0..=geometry.root_height())
        .filter(|&height| format.has_leaves(height))
        .map(|height| geometry.span(height))
        .filter(|size| *size <= 1 << geometry.input_bits().min(34))
        .collect()
}

fn every_shape(mut body: impl FnMut(Lpae)) {
    for granule in [Granule::K4, Granule::K16, Granule::K64] {
        // Only 64 KiB granules leave room for more than 48 bits.
        let most = if granule == Granule::K64 { 7 } else { 6 };
        for &bits in &[32, 36, 40, 42, 44, 48, 52][..most] {
            for stage in [Stage::One, Stage::Two] {
                body(lpae(granule, bits, stage));
            }
        }
    }
}

fn phys(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}

#[test]
fn every_leaf_size_maps_refuses_overlap_and_unmaps_whole() {
    let memory = Memory::new(64 << 20);
    every_shape(|format| {
        let table = table(&memory, format);
        for probe in [42, G + 42, 2 * G + 42] {
            assert_eq!(table.iova_to_phys(Iova::new(probe)), None, "{format:?}");
        }
        let sizes = leaf_sizes(&format);
        let limit = 1 << format.geometry().input_bits();
        let mut at = 0;
        let mut places = Vec::new();
        for &size in &sizes {
            at = (at + G).next_multiple_of(size);
            if at + size > limit {
                continue;
            }
            table
                .map(range(at, size), phys(at), Permissions::READ)
                .unwrap();
            let again = table.map(range(at, size), phys(at + size), Permissions::READ_WRITE);
            assert_eq!(
                again.unwrap_err().failure,
                MapFailure::Occupied,
                "{format:?} {size:#x}"
            );
            assert_eq!(table.iova_to_phys(Iova::new(at + 42)), Some(phys(at + 42)));
            assert_eq!(
                table.leaves(range(at, size)).count(),
                1,
                "{format:?} {size:#x}"
            );
            places.push((at, size));
        }
        let small = sizes[0];
        for &(at, size) in &places {
            let mut gather = Gather::new();
            if size > small {
                let error = table
                    .unmap(range(at + small, small), &mut gather)
                    .unwrap_err();
                assert!(
                    matches!(error, UnmapError::PartOfLeaf { .. }),
                    "{format:?}: {error}"
                );
                assert!(gather.is_empty());
            }
            table.unmap(range(at, size), &mut gather).unwrap();
            assert_eq!(gather.range(), Some(range(at, size)));
            assert_eq!(table.iova_to_phys(Iova::new(at + 42)), None);
            table
                .map(range(at, size), phys(at), Permissions::READ_WRITE)
                .unwrap();
            assert_eq!(table.iova_to_phys(Iova::new(at + 42)), Some(phys(at + 42)));
            table.unmap(range(at, size), &mut gather).unwrap();
            table.recycle(gather);
        }
    });
}

#[test]
fn the_number_of_tables_returns_to_its_start() {
    let memory = Memory::new(64 << 20);
    every_shape(|format| {
        let table = table(&memory, format);
        let start = table.statistics().used;
        let sizes = leaf_sizes(&format);
        let &[small, block, ..] = sizes.as_slice() else {
            // One height only: the root, which stays.
            return;
        };
        // Whole leaf tables fall out with their last range; others wait to be pruned.
        table
            .map(range(block, 2 * block), phys(small), Permissions::READ)
            .unwrap();
        table
            .map(range(6 * block + small, small), phys(0), Permissions::READ)
            .unwrap();
        let mut gather = Gather::new();
        table.unmap(range(block, 2 * block), &mut gather).unwrap();
        table
            .unmap(range(6 * block + small, small), &mut gather)
            .unwrap();
        assert!(gather.frees_tables());
        let all = range(0, 1 << format.geometry().input_bits());
        table.prune(all, &mut gather).unwrap();
        table.recycle(gather);
        assert_eq!(table.statistics().used, start, "{format:?}");
        drop(table);
        assert_eq!(memory.taken(), 0);
    });
}

#[test]
fn pruning_leaves_what_is_mapped_and_what_lies_outside() {
    let memory = Memory::new(1 << 20);
    let table = table(&memory, lpae(Granule::K4, 48, Stage::One));
    const M2: u64 = 2 << 20;
    for at in [0, M2, 2 * M2] {
        table
            .map(range(at, 8192), phys(at), Permissions::READ)
            .unwrap();
    }
    let mut gather = Gather::new();
    table.unmap(range(0, 4096), &mut gather).unwrap();
    table.unmap(range(M2, 8192), &mut gather).unwrap();
    table.unmap(range(2 * M2, 8192), &mut gather).unwrap();
    let before = table.statistics().used;
    table.prune(range(0, 2 * M2), &mut gather).unwrap();
    table.recycle(gather);
    assert_eq!(
        table.statistics().used,
        before - 1,
        "only the middle one is empty and inside"
    );
    assert_eq!(table.iova_to_phys(Iova::new(4096)), Some(phys(4096)));
    // A block fits where the table was.
    table
        .map(range(M2, M2), phys(M2), Permissions::READ)
        .unwrap();
    assert_eq!(table.leaves(range(M2, M2)).count(), 1);
}

#[test]
fn a_mapping_fails_whole_at_every_table_it_asks_for() {
    let memory = Memory::new(64 << 20);
    for hint in [ContiguousHint::Never, ContiguousHint::WhereAligned] {
        // 4 KiB, groups, blocks, and several leaf tables, in one range.
        let format = Lpae::new(Stage::One, Granule::K4, 48, 48, hint).unwrap();
        let want = range((512 << 30) - (4 << 20) - 4096, (8 << 20) + 8192);
        let to = phys((1 << 40) + (2 << 20) - 4096);
        let mut allowed = 0;
        loop {
            let table = table(&memory, format);
            memory.allow(allowed);
            let result = table.map(want, to, Permissions::READ_WRITE);
            memory.allow(usize::MAX);
            if result.is_ok() {
                assert_eq!(table.iova_to_phys(want.start()), Some(to));
                break;
            }
            assert!(matches!(result.unwrap_err().failure, MapFailure::Table(_)));
            let around = range((512 << 30) - G, 2 * G);
            assert_eq!(table.leaves(around).count(), 0, "{allowed} tables");
            table.map(want, to, Permissions::READ_WRITE).unwrap();
            let mut gather = Gather::new();
            table.unmap(want, &mut gather).unwrap();
            table.prune(around, &mut gather).unwrap();
            table.recycle(gather);
            allowed += 1;
        }
        assert!(allowed >= 5, "it took {allowed} tables");
        assert_eq!(memory.taken(), 0);
    }
}

#[test]
fn a_failed_root_takes_no_memory() {
    let memory = Memory::new(1 << 20);
    memory.allow(0);
    let format = lpae(Granule::K4, 48, Stage::One);
    let coherence = WalkCoherence::Coherent;
    assert!(PageTable::new(format, HostPlatform::new(1), &memory, None, coherence).is_err());
    assert_eq!(memory.taken(), 0);
}

/// A machine whose walkers see only what was cleaned to memory.
#[derive(Clone)]
struct Behind<'a> {
    host: HostPlatform,
    ram: &'a Memory,
    seen: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Behind<'_> {
    /// Words that the walkers see otherwise than the CPU does.
    fn stale(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let differs = |&(&address, &word): &(&u64, &u64)| {
            let range = PhysRange::new(phys(address), 8).unwrap();
            let mut bytes = [0; 8];
            self.ram
                .ram
                .hardware_window(range)
                .unwrap()
                .read(&mut bytes);
            u64::from_ne_bytes(bytes) != word
        };
        seen.iter().filter(differs).count()
    }

    /// Every word of the tables taken so far becomes one that is watched.
    fn watch(&self) {
        let range = self.ram.ram.ranges().next().unwrap();
        let mut seen = self.seen.lock().unwrap();
        for address in (range.start().raw()..range.end().raw()).step_by(8) {
            seen.entry(address).or_insert(0);
        }
    }
}

impl Platform for Behind<'_> {
    type IrqLock = <HostPlatform as Platform>::IrqLock;
    type SleepLock = <HostPlatform as Platform>::SleepLock;
    type CpuGuard<'a>
        = ThreadCpu
    where
        Self: 'a;

    fn now(&self) -> Instant {
        self.host.now()
    }
    fn cpu_count(&self) -> usize {
        1
    }
    fn enter_cpu(&self) -> ThreadCpu {
        self.host.enter_cpu()
    }
    fn cache_line_bytes(&self) -> u64 {
        64
    }
    fn clean(&self, range: PhysRange) {
        let mut bytes = vec![0; range.len() as usize];
        self.ram
            .ram
            .hardware_window(range)
            .unwrap()
            .read(&mut bytes);
        let mut seen = self.seen.lock().unwrap();
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            seen.insert(range.start().raw() + index as u64 * 8, word);
        }
    }
    fn invalidate(&self, _range: PhysRange) {}
    fn clean_invalidate(&self, range: PhysRange) {
        self.clean(range);
    }
    fn share(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
    fn unshare(&self, _range: PhysRange) -> Result<(), ConversionError> {
        Ok(())
    }
}

#[test]
fn walkers_behind_the_caches_see_every_entry() {
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15);
    for hint in [ContiguousHint::Never, ContiguousHint::WhereAligned] {
        let memory = Memory::new(512 << 10);
        let format = Lpae::new(Stage::One, Granule::K4, 39, 40, hint).unwrap();
        let platform = Behind {
            host: HostPlatform::new(1),
            ram: &memory,
            seen: Arc::default(),
        };
        platform.watch();
        let coherence = WalkCoherence::NonCoherent;
        let table = PageTable::new(format, platform.clone(), &memory, None, coherence).unwrap();
        let mut live: Vec<(u64, u64)> = Vec::new();
        for step in 0..400 {
            let len = [1, 16, 40, 512, 600][rng.below(5) as usize] * 4096;
            let start = rng.below(16) * (1 << 19);
            let result = table.map(range(start, len), phys(start), Permissions::READ);
            if result.is_ok() {
                live.push((start, len));
            }
            assert_eq!(
                platform.stale(),
                0,
                "{hint:?} step {step}: map {start:#x} {len:#x}"
            );
            if rng.below(2) == 0 && !live.is_empty() {
                let (start, len) = live.swap_remove(rng.below(live.len() as u64) as usize);
                let mut gather = Gather::new();
                table.unmap(range(start, len), &mut gather).unwrap();
                table.recycle(gather);
                assert_eq!(
                    platform.stale(),
                    0,
                    "{hint:?} step {step}: unmap {start:#x}"
                );
            }
        }
        assert!(!live.is_empty());
    }
}
