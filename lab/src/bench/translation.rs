//! Addresses, page tables and commands: timed in the published sequences, and counted.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, PhysAddr};
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_platform::Platform;
use dmakit_platform::host::{HostPlatform, ThreadCpu};
use dmakit_smmuv3::Tag;
use dmakit_smmuv3::spec::command::TlbiRange;

use super::counted::CountedRow;
use super::instant::Rig;
use super::mix::{BITS_32, BITS_48, Mix, Touches, request, space};
use super::pages::{G, K, M, Memory, at, checked_stores, map, stores, table, unmap};
use super::passes::Draws;
use super::timed::Timer;
use super::{mapping, mapping::Invalidation};

/// Live blocks of the mixes, and operations of a pass, with caches and without.
const MIXES: [(&str, usize, u32); 4] = [
    ("1k", 1_000, 200_000),
    ("10k", 10_000, 40_000),
    ("100k", 100_000, 40_000),
    ("1M", 1_000_000, 40_000),
];

/// Sizes mapped, the span that they go round in, and operations of a pass.
const SIZES: [(&str, u64, u64, u32); 5] = [
    ("4KiB", 4 * K, G, 400_000),
    ("64KiB", 64 * K, G, 200_000),
    ("1MiB", M, G, 20_000),
    ("2MiB", 2 * M, 64 * G, 400_000),
    ("1GiB", G, 256 * G, 400_000),
];

/// What a row of this file stands on, as far as it has a floor.
pub fn floor_of(row: &str) -> Option<String> {
    let parts: Vec<&str> = row.split('/').collect();
    let floor = match parts[..] {
        ["iova", "pair" | "window", _] => "floor/lock-pair".to_owned(),
        ["iova", "tree" | "cached", "random", live] => format!("floor/touches/{live}"),
        ["tables", size @ ("4KiB" | "64KiB" | "1MiB"), _] => format!("floor/checked-stores/{size}"),
        ["tables", "1GiB-as-4KiB", _] => "floor/stores/1GiB-as-4KiB".to_owned(),
        ["commands", _, "2threads"] => "floor/lock-pair/2threads".to_owned(),
        ["commands", count @ ("1" | "16" | "64")] => format!("floor/commands/{count}"),
        ["commands", "range", _] => "floor/commands/1".to_owned(),
        _ => return None,
    };
    Some(floor)
}

impl Timer<'_> {
    /// IOVA spaces.
    pub fn spaces(&mut self) {
        let platform = HostPlatform::new(2);
        let cpu = platform.enter_cpu();
        for pages in [1, 8, 64] {
            let row = format!("iova/pair/{pages}");
            let space = space(2);
            self.time(&row, 2_000_000, |n| {
                for _ in 0..n {
                    let got = space.alloc(&cpu, &request(pages, BITS_48));
                    if let Ok(got) = black_box(got) {
                        space.free(&cpu, got);
                    }
                }
            });
        }
        for window in [64, 1024, 16384] {
            let space = space(2);
            let mut live: Vec<_> = (0..window)
                .map(|_| space.alloc(&cpu, &request(1, BITS_48)).ok())
                .collect();
            let mut hand = 0;
            self.time(&format!("iova/window/{window}"), 2_000_000, |n| {
                // In a register, and without a division: neither is the allocator's.
                let mut at = hand;
                for _ in 0..n {
                    if let Some(old) = live[at].take() {
                        space.free(&cpu, old);
                    }
                    live[at] = space.alloc(&cpu, &request(1, BITS_48)).ok();
                    at = if at + 1 == window { 0 } else { at + 1 };
                }
                hand = at;
            });
        }
        for (name, live, ops) in MIXES {
            for (way, cpus) in [("tree", 0), ("cached", 2)] {
                let row = format!("iova/{way}/random/{name}");
                if !(self.wants)(&row) {
                    continue;
                }
                let mut mix = Mix::new(space(cpus), &cpu, live, BITS_48, 9);
                if way == "tree" {
                    let mut touches = Touches::of(&mix);
                    self.time(&format!("floor/touches/{name}"), ops, |n| {
                        touches.replay(n as usize, true);
                    });
                }
                self.time(&row, ops, |n| mix.run(&cpu, n as usize, true));
            }
        }
        self.full(&cpu);
    }

    /// A 32-bit space of which one page in a hundred is free.
    fn full(&mut self, cpu: &ThreadCpu) {
        let rows = ["alloc-1", "fail-8"].map(|what| format!("iova/full99/{what}"));
        if !rows.iter().any(|row| (self.wants)(row)) {
            return;
        }
        let (space, mut draws, mut live) = (space(0), Draws::default(), Vec::new());
        let whole = (1 << 20) - 1;
        while live.len() < whole {
            match space.alloc(cpu, &request(1, BITS_32)) {
                Ok(got) => live.push(got),
                Err(_) if space.maintain().is_ok() => {}
                Err(_) => return,
            }
        }
        while live.len() > whole * 99 / 100 {
            let victim = draws.below(live.len());
            space.free(cpu, live.swap_remove(victim));
        }
        let [one, eight] = rows;
        self.time(&one, 5000, |n| {
            for _ in 0..n {
                let victim = draws.below(live.len());
                space.free(cpu, live.swap_remove(victim));
                live.extend(space.alloc(cpu, &request(1, BITS_32)));
            }
        });
        self.time(&eight, 200_000, |n| {
            for _ in 0..n {
                black_box(space.alloc(cpu, &request(8, BITS_32)).is_err());
            }
        });
    }

    /// Arm page tables of 4 KiB granules.
    pub fn tables(&mut self) {
        let memory = Memory::new(1200);
        let words: Vec<AtomicU64> = (0..1 << 18).map(|_| AtomicU64::new(0)).collect();
        for (name, size, span, ops) in SIZES {
            let entries = if size < 2 * M {
                (size / 4096) as usize
            } else {
                1
            };
            let mut spot = 0;
            if size < 2 * M {
                self.time(&format!("floor/checked-stores/{name}"), ops, |n| {
                    for _ in 0..n {
                        checked_stores(&words, spot, entries, black_box(1 << 40 | 0xf47));
                        spot = (spot + entries) % words.len();
                    }
                });
            }
            for mode in ["lazy", "strict"] {
                let row = format!("tables/{name}/{mode}");
                if !(self.wants)(&row) {
                    continue;
                }
                let table = table(&memory);
                let (mut next, mut gather) = (0, Gather::new());
                self.time(&row, ops, |n| {
                    for _ in 0..n {
                        map(&table, next, size);
                        if mode == "strict" {
                            gather = Gather::new();
                        }
                        unmap(&table, next, size, &mut gather);
                        black_box((gather.range(), gather.leaf_height()));
                        next = (next + size) % span;
                    }
                });
            }
        }
        let look_up = "tables/look-up/1GiB";
        if (self.wants)(look_up) {
            let (table, mut draws) = (table(&memory), Draws::default());
            (0..G)
                .step_by(M as usize)
                .for_each(|start| map(&table, start, M));
            self.time(look_up, 400_000, |n| {
                for _ in 0..n {
                    let iova = draws.below(1 << 18) as u64 * 4096 + 0x123;
                    black_box(table.iova_to_phys(Iova::new(iova)));
                }
            });
        }
        self.gigabyte(&memory);
    }

    /// 1 GiB of 4 KiB pages, memory a page off alignment: tables made, filled and freed.
    fn gigabyte(&mut self, memory: &Memory) {
        let row = "tables/1GiB-as-4KiB/create-map-free";
        self.time("floor/stores/1GiB-as-4KiB", 200, |n| {
            for _ in 0..n {
                memory.visit(512, |words| stores(words, black_box(1 << 40 | 0xf47)));
            }
        });
        let phys = PhysAddr::new((1 << 40) + G + 4096);
        self.time(row, 200, |n| {
            for _ in 0..n {
                let mapped = table(memory).map(at(G, G), phys, Permissions::READ_WRITE);
                black_box(mapped.is_ok());
            }
        });
    }

    /// The command queue of an SMMU that takes no time.
    pub fn commands(&mut self) {
        for (count, ops) in [(1_u64, 400_000), (16, 200_000), (64, 100_000)] {
            let row = format!("commands/{count}");
            if !(self.wants)(&row) {
                continue;
            }
            let mut words = words_under_a_lock(count as usize + 1);
            self.time(&format!("floor/commands/{count}"), ops, &mut words);
            let (rig, mut address) = (Rig::new(true), 0);
            self.time(&row, ops, |n| {
                for _ in 0..n {
                    black_box(commands(&rig, address, count));
                    address += count * 4096;
                }
            });
        }
        self.two_submitters();
        for (what, ranges) in [("range", true), ("by-page", false)] {
            for (name, bytes, ops) in [("64KiB", 64 * K, 200_000), ("2MiB", 2 * M, 20_000)] {
                let row = format!("commands/{what}/{name}");
                let rig = Rig::new(ranges);
                self.time(&row, ops, |n| {
                    for index in 0..u64::from(n) {
                        let Ok(range) = IovaRange::new(Iova::new(index * bytes), bytes) else {
                            return;
                        };
                        let what = dmakit_iommu::Invalidation {
                            range,
                            granule: Granule::K4,
                            leaf_height: Some(0),
                            leaf_shift: Some(12),
                            tables: false,
                        };
                        let queued = rig.smmu.invalidate(Tag::Asid(1), &what);
                        black_box(queued.and_then(|()| rig.smmu.sync()).is_ok());
                    }
                });
            }
        }
    }

    /// Both wait for their own.
    fn two_submitters(&mut self) {
        let lock = dmakit_platform::IrqMutex::<HostPlatform, _>::new(0_u64);
        self.on_two_cpus("floor/lock-pair/2threads", 400_000, &|_, run| {
            run(&mut |n| (0..n).for_each(|_| *lock.lock() += 1));
        });
        for (count, ops) in [(1, 200_000), (16, 100_000)] {
            let rig = Rig::new(true);
            let row = format!("commands/{count}/2threads");
            self.on_two_cpus(&row, ops, &|cpu, run| {
                let mut address = u64::from(cpu) << 40;
                run(&mut |n| {
                    for _ in 0..n {
                        black_box(commands(&rig, address, count));
                        address += count * 4096;
                    }
                });
            });
        }
    }
}

/// Commands of one submitter, each for an address of its own.
fn commands(rig: &Rig, address: u64, count: u64) -> bool {
    let pages = (0..count).map(|page| {
        let one = TlbiRange {
            address: address + page * 4096,
            num: 1,
            scale: 0,
            level_hint: 0,
            granule: 0,
            leaf: true,
        };
        one.of_asid(1)
    });
    rig.smmu.execute(pages).is_ok()
}

/// A lock pair, the words of `count` commands, and one word that tells of them.
fn words_under_a_lock(count: usize) -> impl FnMut(u32) {
    let lock = dmakit_platform::IrqMutex::<HostPlatform, _>::new(0_u64);
    let ring: Vec<AtomicU64> = (0..8192).map(|_| AtomicU64::new(0)).collect();
    let index = AtomicU64::new(0);
    move |n| {
        for _ in 0..n {
            let mut held = lock.lock();
            for _ in 0..count {
                let first = (*held as usize * 2) % 8192;
                ring[first].store(0x12, Relaxed);
                ring[first + 1].store(*held, Relaxed);
                *held += 1;
            }
            index.store(*held, Relaxed);
        }
    }
}

/// Maps and unmaps that are counted.
const OPERATIONS: u32 = 512;

/// Counted rows, those that `wants` wants.
pub fn counted(wants: &dyn Fn(&str) -> bool, rows: &mut Vec<CountedRow>) {
    let count = u64::from(OPERATIONS);
    for (policy, invalidation, syncs) in [
        ("strict", Invalidation::Strict, count),
        ("batched32", Invalidation::Batched, count / 32),
        ("lazy256", Invalidation::Lazy, count / 256),
    ] {
        for (name, len) in [
            ("4KiB", 4 * K),
            ("64KiB", 64 * K),
            ("1MiB", M),
            ("2MiB", 2 * M),
        ] {
            let row = |what: &str| format!("{what}_per_512/{policy}/{name}");
            if !wants(&row("commands")) && !wants(&row("syncs")) {
                continue;
            }
            let [before, after] = mapping::map_unmap(invalidation, len, OPERATIONS);
            let all = after.commands - before.commands;
            let done = after.syncs - before.syncs;
            for (what, count) in [("commands", all - done), ("syncs", done)] {
                // As many commands as syncs: neighbours are forgotten as one.
                if wants(&row(what)) {
                    rows.push(CountedRow {
                        row: row(what),
                        count,
                        bound: syncs,
                    });
                }
            }
        }
    }
    bookkeeping(wants, rows);
}

/// Memory for what is live.
fn bookkeeping(wants: &dyn Fn(&str) -> bool, rows: &mut Vec<CountedRow>) {
    let row = "iova_bytes_per_live/random/100k".to_owned();
    if wants(&row) {
        let platform = HostPlatform::new(1);
        let mix = Mix::new(space(0), &platform.enter_cpu(), 100_000, DmaMask::ALL, 9);
        rows.push(CountedRow {
            row,
            count: (mix.space.statistics().records as u64).div_ceil(100_000),
            // What Linux keeps for a live range.
            bound: 64,
        });
    }
    let row = "table_pages/1GiB-as-4KiB".to_owned();
    if wants(&row) {
        let memory = Memory::new(600);
        let table = table(&memory);
        let phys = PhysAddr::new((1 << 40) + G + 4096);
        if table.map(at(G, G), phys, Permissions::READ_WRITE).is_ok() {
            rows.push(CountedRow {
                row,
                count: table.statistics().used as u64,
                // The tables themselves, and one on each level above.
                bound: 512 + 3,
            });
        }
    }
}
