//! The sequences under criterion.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

mod sequences;
mod subjects;

use criterion::{Criterion, criterion_group, criterion_main};
use sequences::SIZES;
use subjects::{buffers, pool, set, slots};

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    for areas in [1, 2] {
        for (size, _, _) in SIZES {
            for percent in [0, 50, 90] {
                let pool = pool(32768, areas);
                let mut sequence = slots(&pool, 0);
                sequence.fill(size, percent);
                let name = format!("areas{areas}/{size}/full{percent}");
                group.bench_function(format!("{name}/pair"), |b| {
                    b.iter(|| sequence.pairs(size, 1));
                });
                if percent > 0 {
                    group.bench_function(format!("{name}/random"), |b| {
                        b.iter(|| sequence.random(size, 1));
                    });
                }
            }
        }
        let pool = pool(32768, areas);
        let mut sequence = slots(&pool, 0);
        sequence.fill(4096, 50);
        group.bench_function(format!("areas{areas}/failing64K"), |b| {
            b.iter(|| sequence.failures(65536, 1));
        });
    }
    group.finish();
}

fn copies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copies");
    for (size, _, _) in SIZES {
        let set = set(2);
        let mut sequence = buffers(&set, size);
        group.bench_function(format!("areas2/{size}/full0/pair"), |b| {
            b.iter(|| sequence.pairs(size, 1));
        });
    }
    group.finish();
}

criterion_group!(benches, search, copies);
criterion_main!(benches);
