//! Addresses taken and given back, in the sequences on which allocators of them are compared.
//!
//! `cargo bench -p dmakit-iova [-- PART-OF-A-ROW'S-NAME]`. The incumbent's least time, measured on
//! the same kind of machine, stands in the program; its ratio means something on such a machine
//! only, the ratio to the floor anywhere.

mod mix;
mod passes;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use dmakit_addr::DmaMask;
use dmakit_platform::host::{HostPlatform, ThreadCpu};
use dmakit_platform::{CpuId, IrqMutex, Platform};
use mix::{BITS_32, BITS_48, Mix, Touches, request, space};
use passes::{Draws, Rows, measure, measure_pair, measure_slices};

fn main() {
    let rows = Rows::chosen();
    let platform = HostPlatform::new(2);
    HostPlatform::bind_thread(CpuId::new(0));
    let cpu = platform.enter_cpu();
    cached(&rows, &cpu);
    for (pages, peer) in [(64, Some(19.1)), (2048, None)] {
        let name = format!("large_pair {pages}");
        if rows.has(&name) {
            let space = space(2);
            let figures = measure(200_000, |n| {
                for _ in 0..n {
                    let got = space.alloc(&cpu, &request(pages, BITS_48)).unwrap();
                    space.free(&cpu, black_box(got));
                }
            });
            rows.print(&name, figures, None, peer);
        }
    }
    threads(&rows);
    for (live, name, peers) in [
        (1_000, "1k", [631.0, 997.0]),
        (10_000, "10k", [861.0, 12_500.0]),
        (100_000, "100k", [961.0, 49_000.0]),
        (1_000_000, "1M", [7_818.0, 1_060_000.0]),
    ] {
        mixed(&rows, &cpu, live, name, BITS_48, 9, peers);
    }
    mixed(
        &rows,
        &cpu,
        10_000,
        "10k 32-bit",
        BITS_32,
        9,
        [2565.0, 20_700.0],
    );
    mixed(
        &rows,
        &cpu,
        100_000,
        "100k 32-bit k0-3",
        BITS_32,
        4,
        [22_600.0, 936_000.0],
    );
    full(&rows, &cpu);
}

fn cached(rows: &Rows, cpu: &ThreadCpu) {
    let lock = IrqMutex::<HostPlatform, _>::new(0_u64);
    for (pages, peer) in [(1, 9.1), (8, 8.1)] {
        let name = format!("cached_pair {pages}");
        if rows.has(&name) {
            let space = space(2);
            let (floor, figures) = measure_pair(
                2_000_000,
                |n| (0..n).for_each(|_| *lock.lock() += 1),
                |n| {
                    for _ in 0..n {
                        let got = space.alloc(cpu, &request(pages, BITS_48)).unwrap();
                        space.free(cpu, black_box(got));
                    }
                },
            );
            rows.print("floor: lock pair", floor, None, None);
            rows.print(&name, figures, Some(floor), Some(peer));
        }
    }
    for window in [64, 256, 1024, 16384] {
        let name = format!("cached_window {window}");
        if rows.has(&name) {
            let space = space(2);
            let mut live: Vec<_> = (0..window)
                .map(|_| space.alloc(cpu, &request(1, BITS_48)).ok())
                .collect();
            let mut hand = 0;
            let figures = measure(2_000_000, |n| {
                // In a register, and without a division: neither is the allocator's.
                let mut at = hand;
                for _ in 0..n {
                    if let Some(old) = live[at].take() {
                        space.free(cpu, old);
                    }
                    live[at] = space.alloc(cpu, &request(1, BITS_48)).ok();
                    at = if at + 1 == window { 0 } else { at + 1 };
                }
                hand = at;
            });
            rows.print(&name, figures, None, Some(9.1));
        }
    }
}

/// A queue between two threads, with a place of its own for each value.
struct Ring<T> {
    places: Vec<IrqMutex<HostPlatform, Option<T>>>,
    pushed: Line,
    popped: Line,
}

#[repr(align(128))]
struct Line(AtomicUsize);

const RING: usize = 1024;

impl<T> Ring<T> {
    fn new() -> Self {
        Self {
            places: (0..RING)
                .map(|_| IrqMutex::<HostPlatform, _>::new(None))
                .collect(),
            pushed: Line(AtomicUsize::new(0)),
            popped: Line(AtomicUsize::new(0)),
        }
    }

    /// Passes `ops` values from `make`, on CPU 0, to `end`, on CPU 1: nanoseconds for each.
    fn pass(
        &self,
        ops: usize,
        mut make: impl FnMut(&ThreadCpu) -> T,
        mut end: impl FnMut(&ThreadCpu, T) + Send,
    ) where
        T: Send,
    {
        let first = self.popped.0.load(Ordering::Relaxed);
        let platform = HostPlatform::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                HostPlatform::bind_thread(CpuId::new(1));
                let cpu = platform.enter_cpu();
                let mut known = first;
                for at in first..first + ops {
                    while known == at {
                        known = self.pushed.0.load(Ordering::Acquire);
                    }
                    let value = self.places[at % RING].lock().take().unwrap();
                    self.popped.0.store(at + 1, Ordering::Release);
                    end(&cpu, value);
                }
            });
            let cpu = platform.enter_cpu();
            let mut known = first;
            for at in first..first + ops {
                let value = make(&cpu);
                while at - known == RING {
                    known = self.popped.0.load(Ordering::Acquire);
                }
                *self.places[at % RING].lock() = Some(value);
                self.pushed.0.store(at + 1, Ordering::Release);
            }
        });
    }
}

/// Rows of two threads on two CPUs.
fn threads(rows: &Rows) {
    if rows.has("hand_over") {
        let (plain, ring) = (Ring::new(), Ring::new());
        let space = space(2);
        let mut word = 0;
        let (floor, figures) = measure_slices(
            400_000,
            40,
            |n| plain.pass(n, |_| [n as u64; 3], |_, value| word ^= black_box(value)[0]),
            |n| {
                ring.pass(
                    n,
                    |cpu| space.alloc(cpu, &request(1, BITS_48)).unwrap(),
                    |cpu, value| space.free(cpu, value),
                );
            },
        );
        rows.print("floor: ring alone", floor, None, None);
        rows.print("hand_over", figures, Some(floor), Some(55.2));
        rows.print(
            "hand_over less the ring",
            figures.less(floor),
            None,
            Some(46.6),
        );
    }
    for (name, pages, peer) in [
        ("two_cpus_pair 1", 1, 13.4),
        ("two_cpus_pair 64", 64, 172.0),
    ] {
        if rows.has(name) {
            let space = space(2);
            let pairs = |n: usize| {
                let pairs = |cpu: u32| {
                    HostPlatform::bind_thread(CpuId::new(cpu));
                    let cpu = HostPlatform::new(2).enter_cpu();
                    for _ in 0..n {
                        let got = space.alloc(&cpu, &request(pages, BITS_48)).unwrap();
                        space.free(&cpu, black_box(got));
                    }
                };
                std::thread::scope(|scope| {
                    scope.spawn(move || pairs(1));
                    pairs(0);
                });
            };
            // Long slices: each starts a thread.
            let (_, figures) = measure_slices(2_000_000, 10, |_| {}, pairs);
            rows.print(name, figures, None, Some(peer));
        }
    }
}

/// A million and fewer live blocks of random sizes; a random one goes, another comes.
fn mixed(
    rows: &Rows,
    cpu: &ThreadCpu,
    live: usize,
    name: &str,
    limit: DmaMask,
    sizes: usize,
    [fifo_peer, random_peer]: [f64; 2],
) {
    for (cpus, way) in [(2, "cached"), (0, "tree")] {
        for (is_random, order, peer) in [(false, "fifo", fifo_peer), (true, "random", random_peer)]
        {
            let row = format!("mixed_{way} {order} {name}");
            if rows.has(&row) {
                let mut mix = Mix::new(space(cpus), cpu, live, limit, sizes);
                let mut floor = Touches::of(&mix);
                let ops = 200_000;
                let (floor, figures) = measure_pair(
                    ops,
                    |n| floor.replay(n, is_random),
                    |n| mix.run(cpu, n, is_random),
                );
                rows.print(&format!("floor: touches of {name}"), floor, None, None);
                rows.print(&row, figures, Some(floor), Some(peer));
                let state = mix.space.statistics().records;
                println!("  {} bytes of records for each live range", state / live);
            }
        }
    }
}

/// A 32-bit space full but for a few pages.
fn full(rows: &Rows, cpu: &ThreadCpu) {
    for (cpus, way) in [(2, "cached"), (0, "tree")] {
        for (percent, peers) in [(90, [470_000.0, 81.54e6]), (99, [64_800.0, 121.33e6])] {
            let one = format!("full_{way} {percent} alloc 1");
            let eight = format!("full_{way} {percent} fail 8");
            if rows.has(&one) || rows.has(&eight) {
                let mut draws = Draws::default();
                let space = space(cpus);
                let mut live = Vec::new();
                while live.len() < (1 << 20) - 1 {
                    match space.alloc(cpu, &request(1, BITS_32)) {
                        Ok(got) => live.push(got),
                        Err(_) => space.maintain().unwrap(),
                    }
                }
                while live.len() > ((1 << 20) - 1) * percent / 100 {
                    space.free(cpu, live.swap_remove(draws.below(live.len())));
                }
                let again = |draws: &mut Draws, live: &mut Vec<_>, n: usize, pages: Option<u64>| {
                    for _ in 0..n {
                        let victim = draws.below(live.len());
                        space.free(cpu, live.swap_remove(victim));
                        if let Some(pages) = pages {
                            assert!(space.alloc(cpu, &request(pages, BITS_32)).is_err());
                        }
                        live.push(space.alloc(cpu, &request(1, BITS_32)).unwrap());
                    }
                };
                let figures = measure(5000, |n| again(&mut draws, &mut live, n, None));
                rows.print(&one, figures, None, Some(peers[0]));
                // Few, as in the compared sequence: in time holes gather where nobody allocates.
                let figures = measure(500, |n| again(&mut draws, &mut live, n, Some(8)));
                rows.print(&eight, figures, None, Some(peers[1]));
                let figures = measure(200_000, |n| {
                    for _ in 0..n {
                        assert!(space.alloc(cpu, &request(8, BITS_32)).is_err());
                    }
                });
                rows.print(
                    &format!("{eight}, the request alone"),
                    figures,
                    None,
                    Some(peers[1]),
                );
            }
        }
    }
}
