//! The sequences' times beside their floors, and the probes that searches took.
//!
//! Each row: one warm-up pass, then seven timed ones, each going on from the state that the one
//! before left. Nanoseconds for an operation, the least and the median.

#[path = "../benches/sequences.rs"]
mod sequences;
#[path = "../benches/subjects.rs"]
mod subjects;

use std::hint::black_box;
use std::time::Instant;

use dmakit_platform::IrqMutex;
use dmakit_platform::host::HostPlatform;
use sequences::SIZES;
use subjects::{buffers, pool, set, slots};

fn time(name: &str, count: u32, mut body: impl FnMut(u32)) -> f64 {
    body(count);
    let mut passes: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            body(count);
            start.elapsed().as_nanos() as f64 / f64::from(count)
        })
        .collect();
    passes.sort_by(f64::total_cmp);
    println!("{name:44} {:9.1} {:9.1}", passes[0], passes[3]);
    passes[0]
}

fn floors() {
    let lock = IrqMutex::<HostPlatform, u64>::new(0);
    time("floor: lock pair", 4_000_000, |count| {
        for _ in 0..count {
            *black_box(&lock).lock() += 1;
        }
    });
    for size in [512, 4096] {
        let from = vec![1_u8; size];
        let mut to = vec![0_u8; size];
        time(&format!("floor: memcpy {size} in L1"), 1_000_000, |count| {
            for _ in 0..count {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
            }
        });
    }
    let mut draws = sequences::Draws::default();
    let table = vec![0_u32; 1 << 20];
    time("floor: draw and index 1M", 4_000_000, |count| {
        for _ in 0..count {
            black_box(table[draws.below(table.len())]);
        }
    });
}

fn searches() {
    for areas in [1, 2] {
        for (size, count, _) in SIZES {
            for percent in [0, 50, 90] {
                let pool = pool(32768, areas);
                let mut sequence = slots(&pool, 0);
                sequence.fill(size, percent);
                let name = format!("slots, areas {areas}, {size} B, {percent} % full");
                time(&format!("{name}, pair"), count, |n| {
                    assert_eq!(sequence.pairs(size, n), 0);
                });
                if percent > 0 {
                    time(&format!("{name}, random"), count, |n| {
                        assert_eq!(sequence.random(size, n), 0);
                    });
                }
            }
        }
        let pool = pool(32768, areas);
        let mut sequence = slots(&pool, 0);
        sequence.fill(4096, 50);
        let name = format!("slots, areas {areas}, failing 64 KiB");
        time(&name, 2000, |n| assert_eq!(sequence.failures(65536, n), n));
    }
}

fn copies() {
    for (size, _, count) in SIZES {
        let mut from = vec![1_u8; 64 * (size as usize + 128)];
        let mut slot = vec![0_u8; size as usize];
        let mut op = 0;
        time(
            &format!("floor: both copies of {size}, slot warm"),
            count,
            |n| {
                for _ in 0..n {
                    let at = (op % 64) * (size as usize + 128);
                    slot.copy_from_slice(black_box(&from[at..at + size as usize]));
                    from[at..at + size as usize].copy_from_slice(black_box(&slot));
                    op += 1;
                }
            },
        );
        for percent in [0, 50, 90] {
            let set = set(2);
            let mut sequence = buffers(&set, size);
            sequence.fill(size, percent);
            let name = format!("copies, areas 2, {size} B, {percent} % full");
            time(&format!("{name}, pair"), count, |n| {
                assert_eq!(sequence.pairs(size, n), 0);
            });
            if percent > 0 {
                time(&format!("{name}, random"), count, |n| {
                    assert_eq!(sequence.random(size, n), 0);
                });
            }
        }
    }
}

/// Short passes, and the least of many: a machine that is shared takes threads off their CPUs, and
/// a pass that this happens to says nothing.
fn two_threads() {
    let pool = pool(32768, 2);
    for (size, count) in [(512, 20_000), (4096, 20_000), (65536, 20_000)] {
        let alone = time(
            &format!("slots, areas 2, {size} B, pair, 1 thread"),
            count,
            |n| {
                slots(&pool, 0).pairs(size, n);
            },
        );
        let passes: Vec<f64> = (0..50)
            .map(|_| {
                let barrier = std::sync::Barrier::new(2);
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..2)
                        .map(|cpu| {
                            let (pool, barrier) = (&pool, &barrier);
                            scope.spawn(move || {
                                let mut sequence = slots(pool, cpu);
                                sequence.pairs(size, count);
                                barrier.wait();
                                let start = Instant::now();
                                sequence.pairs(size, count);
                                start.elapsed().as_nanos() as f64 / f64::from(count)
                            })
                        })
                        .collect();
                    let each = threads.into_iter().map(|thread| thread.join().unwrap());
                    each.fold(0.0, f64::max)
                })
            })
            .collect();
        let least = passes.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "slots, areas 2, {size} B, pair, 2 threads (slower) {least:9.1}  ratio {:.2}",
            least / alone
        );
    }
}

fn probes() {
    for slots_count in [512, 524_288] {
        for percent in [0, 50, 90, 99] {
            for size in [512, 4096, 65536, 1 << 20] {
                let pool = pool(slots_count, 1);
                let mut sequence = slots(&pool, 0);
                sequence.fill(4096, percent);
                let before = pool.probes().0;
                let failed = sequence.pairs(size, 1000);
                let (all, most) = pool.probes();
                println!(
                    "probes, {} MiB, {percent} % full, {size} B: {:.2} mean, {most} most, {failed} failed",
                    slots_count / 512,
                    (all - before) as f64 / 1000.0
                );
            }
        }
        let bytes = pool(slots_count, 1).metadata_bytes();
        println!(
            "metadata, {} MiB: {bytes} bytes, {:.2} a slot",
            slots_count / 512,
            bytes as f64 / f64::from(slots_count)
        );
    }
}

fn main() {
    println!(
        "{:44} {:>9} {:>9}",
        "row (ns for an operation)", "least", "median"
    );
    floors();
    searches();
    copies();
    two_threads();
    probes();
}
