//! Commands queued and waited for, in the sequences on which command queues are compared: 4096
//! entries, the SMMU takes no time, completion is polled.
//!
//! `cargo bench -p dmakit-smmuv3 [-- PART-OF-A-ROW'S-NAME]`. The incumbent's least time, measured on
//! the same kind of machine, stands in the program; its ratio means something on such a machine
//! only, the ratio to the floor anywhere.

mod instant;
#[path = "../../iova/benches/passes.rs"]
mod passes;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dmakit_addr::{Granule, Iova, IovaRange};
use dmakit_iommu::Invalidation;
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{CpuId, IrqMutex};
use dmakit_smmuv3::Tag;
use dmakit_smmuv3::spec::command::{Command, TlbiRange};
use instant::{Driver, Rig, SHIFT, with_consumer};
use passes::{Rows, measure_pair, measure_slices};

const TAG: Tag = Tag::Asid(1);

fn main() {
    let rows = Rows::chosen();
    HostPlatform::bind_thread(CpuId::new(0));
    one_cpu(&rows);
    ranges(&rows);
    two_cpus(&rows);
    consumer(&rows);
}

/// The command that forgets one page.
fn page(address: u64) -> Command {
    let one = TlbiRange {
        address,
        num: 1,
        scale: 0,
        level_hint: 0,
        granule: 0,
        leaf: true,
    };
    one.of_asid(1)
}

/// A lock pair, the words of `count` commands, and one word that tells of them: what any queue
/// behind one lock does at least.
fn floor(count: usize) -> impl FnMut(usize) {
    let lock = IrqMutex::<HostPlatform, _>::new(0_u64);
    let ring: Vec<AtomicU64> = (0..2 << SHIFT).map(|_| AtomicU64::new(0)).collect();
    let index = AtomicU64::new(0);
    move |n| {
        for _ in 0..n {
            let mut held = lock.lock();
            let mut at = *held;
            for _ in 0..count {
                let first = (at as usize * 2) & (ring.len() - 1);
                if let Some([low, high]) = ring.get(first..first + 2) {
                    low.store(0x12, Relaxed);
                    high.store(at, Relaxed);
                }
                at += 1;
            }
            *held = at;
            index.store(at, Relaxed);
        }
    }
}

/// Commands of `count` pages from `address` on, with one sync.
fn batch(smmu: &Driver, address: &mut u64, count: usize) {
    let pages = (0..count as u64).map(|index| page(*address + index * 4096));
    smmu.execute(pages).unwrap();
    *address += count as u64 * 4096;
}

fn one_cpu(rows: &Rows) {
    for (name, count, ops, peer) in [
        ("1 command + sync", 1, 400_000, 66.2),
        ("16 commands + sync", 16, 200_000, 148.0),
        ("64 commands + sync", 64, 100_000, 440.0),
    ] {
        if rows.has(name) {
            let rig = Rig::new(true);
            let mut address = 0;
            let (floor, figures) = measure_pair(ops, floor(count + 1), |n| {
                for _ in 0..n {
                    batch(&rig.smmu, &mut address, count);
                }
            });
            rows.print("floor: its words under a lock", floor, None, None);
            rows.print(name, figures, Some(floor), Some(peer));
        }
    }
}

/// What a domain asks for: a range of pages forgotten, then a sync.
fn ranges(rows: &Rows) {
    for (name, ranges, bytes, ops, peer) in [
        ("64K by page", false, 64 << 10, 200_000, 151.0),
        ("64K by range", true, 64 << 10, 400_000, 69.0),
        ("2M by page", false, 2 << 20, 20_000, 3039.0),
        ("2M by range", true, 2 << 20, 400_000, 69.3),
    ] {
        let name = format!("{name}, invalidate, sync");
        if rows.has(&name) {
            let rig = Rig::new(ranges);
            let commands = if ranges { 1 } else { bytes as usize >> 12 };
            let mut address = 0;
            let (floor, figures) = measure_pair(ops, floor(commands + 1), |n| {
                for _ in 0..n {
                    let what = Invalidation {
                        range: IovaRange::new(Iova::new(address), bytes).unwrap(),
                        granule: Granule::K4,
                        leaf_height: Some(0),
                        leaf_shift: Some(12),
                        tables: false,
                    };
                    rig.smmu.invalidate(TAG, &what).unwrap();
                    rig.smmu.sync().unwrap();
                    address = (address + bytes) % (1 << 40);
                }
            });
            rows.print("floor: its words under a lock", floor, None, None);
            rows.print(&name, figures, Some(floor), Some(peer));
        }
    }
}

/// Two CPUs at once, each waiting for its own.
fn two_cpus(rows: &Rows) {
    for (name, count, ops, peer) in [
        ("1 command + sync, two CPUs", 1, 200_000, 184.0),
        ("16 commands + sync, two CPUs", 16, 100_000, 389.0),
    ] {
        if rows.has(name) {
            let rig = Rig::new(true);
            let lock = IrqMutex::<HostPlatform, _>::new(0_u64);
            let (floor, figures) = measure_slices(
                ops,
                20,
                |n| on_both(|_| (0..n).for_each(|_| *lock.lock() += 1)),
                |n| {
                    on_both(|cpu| {
                        let mut address = u64::from(cpu) << 40;
                        for _ in 0..n {
                            batch(&rig.smmu, &mut address, count);
                        }
                    });
                },
            );
            rows.print("floor: lock pair, two CPUs", floor, None, None);
            rows.print(name, figures, Some(floor), Some(peer));
        }
    }
}

fn on_both(run: impl Fn(u32) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            HostPlatform::bind_thread(CpuId::new(1));
            run(1);
        });
        run(0);
    });
}

/// An SMMU that takes another CPU, which sees the index and says so.
fn consumer(rows: &Rows) {
    for (name, count, ops, peer) in [
        ("1 command + sync, consumer", 1, 200_000, 149.0),
        ("16 commands + sync, consumer", 16, 100_000, 256.0),
    ] {
        if rows.has(name) {
            with_consumer(|smmu, told| {
                let mut address = 0;
                let (floor, figures) = measure_slices(
                    ops,
                    20,
                    |n| (0..n).for_each(|_| told()),
                    |n| {
                        for _ in 0..n {
                            batch(smmu, &mut address, count);
                        }
                    },
                );
                rows.print("floor: told and answered", floor, None, None);
                rows.print(name, figures, Some(floor), Some(peer));
            });
        }
    }
}
