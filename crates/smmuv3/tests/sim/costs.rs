//! What invalidation costs, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use dmakit_addr::{Direction, DmaAddr, DmaMask, PAGE_BYTES, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, Lazy, LazyConfig, Mapped};
use dmakit_platform::{Instant, Platform, Segment};
use dmakit_sim::SimSmmu;

use crate::rig::{Mutant, Rig, Shape, TestDomain};

const OPERATIONS: u64 = 512;

/// What 512 maps and unmaps cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Costs {
    /// Commands without syncs.
    commands: u64,
    syncs: u64,
    doorbells: u64,
    /// Entries of page tables that changed, those that lead to new tables not counted.
    stores: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    Strict,
    /// So many unmaps to a sync.
    Batched(usize),
    /// 256 unmaps to a flush.
    Lazy,
}

/// Page tables as memory has them: how many entries change from look to look.
#[derive(Default)]
struct Tables {
    words: BTreeMap<u64, Vec<u64>>,
    changed: u64,
}

impl Tables {
    fn look(&mut self, rig: &Rig) {
        for given in rig.memory.outstanding() {
            // All else is longer, or stays as it is.
            if given.range.len() != PAGE_BYTES {
                continue;
            }
            let mut bytes = [0; PAGE_BYTES as usize];
            assert!(rig.machine.peek(given.range.start(), &mut bytes));
            let words: Vec<u64> = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                .collect();
            let zeroes = vec![0; words.len()];
            let start = given.range.start().raw();
            let before = self.words.get(&start).unwrap_or(&zeroes);
            self.changed += before.iter().zip(&words).filter(|(a, b)| a != b).count() as u64;
            self.words.insert(start, words);
        }
    }
}

fn shape() -> Shape {
    let mut shape = Shape::default();
    // The ring and the event queue are no single pages, and no message changes one.
    shape.driver.command_shift = 10;
    shape.driver.event_shift = 10;
    shape.driver.messages = false;
    shape
}

fn map(rig: &Rig, domain: &TestDomain<'_, SimSmmu>, run: PhysRange) -> Mapped {
    rig.map(domain, &[run], Permissions::READ_WRITE, DmaMask::ALL)
}

fn costs(policy: Policy, len: u64) -> Costs {
    let rig = Rig::new(5, shape());
    let driver = rig.driver();
    let domain = rig.domain(&driver, Mutant::Nothing);
    let buffer = rig.buffer(2 << 20, 0);
    let run = buffer.range().slice(0, len).unwrap();
    let before = driver.command_counts();
    let mut tables = Tables::default();
    tables.look(&rig);
    tables.changed = 0;
    let made = match policy {
        Policy::Strict => {
            for _ in 0..OPERATIONS {
                let mapped = map(&rig, &domain, run);
                tables.look(&rig);
                let ticket = domain.unmap(mapped).unwrap();
                rig.redeem(&domain, ticket, &[run]);
                tables.look(&rig);
            }
            domain.table().statistics().used
        }
        Policy::Batched(debts) => {
            let config = BatchConfig {
                debts,
                ..BatchConfig::default()
            };
            let mut batch = Batch::new(domain.id(), config).unwrap();
            let give = |run| rig.device.revoke(run, Direction::Bidirectional);
            for _ in 0..OPERATIONS {
                let mapped = map(&rig, &domain, run);
                tables.look(&rig);
                let cpu = rig.machine.enter_cpu();
                let now = rig.machine.now();
                batch.unmap(&domain, &cpu, now, mapped, run, give).unwrap();
                drop(cpu);
                tables.look(&rig);
            }
            domain.table().statistics().used
        }
        Policy::Lazy => {
            let config = LazyConfig::default();
            let Ok(lazy) = Lazy::new(domain, rig.machine.clone(), config) else {
                panic!("no memory for the queues");
            };
            for _ in 0..OPERATIONS {
                let mapped = map(&rig, lazy.domain(), run);
                tables.look(&rig);
                let cpu = rig.machine.enter_cpu();
                lazy.unmap(&cpu, mapped).unwrap();
                drop(cpu);
                tables.look(&rig);
            }
            lazy.flush(&rig.machine.enter_cpu()).unwrap();
            lazy.domain().table().statistics().used
        }
    };
    let after = driver.command_counts();
    let syncs = after.syncs - before.syncs;
    Costs {
        commands: after.commands - before.commands - syncs,
        syncs,
        doorbells: after.doorbells - before.doorbells,
        // Each table but the root was entered once.
        stores: tables.changed - (made as u64 - 1),
    }
}

#[test]
fn stores_commands_syncs_and_doorbells_are_those_that_the_documents_state() {
    for (len, entries) in [(4 << 10, 1), (64 << 10, 16), (1 << 20, 256), (2 << 20, 1)] {
        // Each entry is made once and cleared once.
        let stores = OPERATIONS * entries * 2;
        for (policy, each) in [(Policy::Strict, 512), (Policy::Lazy, 2)] {
            let expected = Costs {
                commands: each,
                syncs: each,
                doorbells: each,
                stores,
            };
            assert_eq!(costs(policy, len), expected, "{policy:?}, {len:#x}");
        }
        for debts in [1, 8, 32, 128] {
            let costs = costs(Policy::Batched(debts), len);
            let closed = OPERATIONS / debts as u64;
            let expected = Costs {
                // Neighbours, as those of a ring are, are forgotten as one.
                commands: closed,
                syncs: closed,
                doorbells: closed,
                stores,
            };
            assert_eq!(costs, expected, "{len:#x} by {debts}");
        }
    }
}

/// How long the device takes for a request; it has as many in hand as the ring is deep.
const REQUEST: Duration = Duration::from_micros(10);

/// What holding back costs a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Delay {
    syncs: u64,
    /// Between the completion of a request and its buffer's return.
    half: Duration,
    most_of_100: Duration,
    pages: u64,
}

/// A ring that is always `depth` requests deep, each of a page; batches of 32, 50 us at most, closed
/// when nothing is in flight.
fn ring(depth: u64, debts: usize) -> Delay {
    let rig = Rig::new(9, Shape::default());
    let driver = rig.driver();
    let domain = rig.domain(&driver, Mutant::Nothing);
    let config = BatchConfig {
        debts,
        ..BatchConfig::default()
    };
    let mut batch: Batch<(Segment, Instant)> = Batch::new(domain.id(), config).unwrap();
    let mut flying = std::collections::VecDeque::new();
    let mut waited: Vec<Duration> = Vec::new();
    let before = driver.command_counts().syncs;
    for _ in 0..OPERATIONS {
        while (flying.len() as u64) < depth {
            let page = rig.buffer(PAGE_BYTES, 0);
            let mapped = map(&rig, &domain, page.range());
            flying.push_back((page, mapped));
        }
        rig.machine.advance(REQUEST / depth as u32);
        let (page, mapped) = flying.pop_front().unwrap();
        let target = DmaAddr::new(mapped.range().start().raw());
        rig.device.write(target, &[0x5a; 64]).unwrap();
        let given = waited.len();
        let mut give = |(page, completed): (Segment, Instant)| {
            waited.push(rig.machine.now().saturating_since(completed));
            rig.device.revoke(page.range(), Direction::Bidirectional);
            rig.memory.free(page);
        };
        let cpu = rig.machine.enter_cpu();
        let now = rig.machine.now();
        batch
            .unmap(&domain, &cpu, now, mapped, (page, now), &mut give)
            .unwrap();
        // The driver of a ring that is 1 deep has nothing else to wait for.
        if depth == 1 || batch.is_due(rig.machine.now()) {
            batch.close(&domain, &cpu, &mut give).unwrap();
        }
        drop(cpu);
        if waited.len() > given {
            let stale = rig.device.write(target, &[0x99; 64]);
            assert!(stale.is_err(), "a stale hit at depth {depth}");
        }
    }
    let cpu = rig.machine.enter_cpu();
    batch
        .close(&domain, &cpu, |(page, _)| {
            rig.device.revoke(page.range(), Direction::Bidirectional);
        })
        .unwrap();
    driver.take_events(|_| ());
    assert_eq!(rig.machine.take_violations().total, 0);
    waited.sort_unstable();
    Delay {
        syncs: driver.command_counts().syncs - before,
        half: waited[waited.len() / 2],
        most_of_100: waited[waited.len() * 99 / 100],
        pages: batch.held().bytes_max / PAGE_BYTES,
    }
}

#[test]
fn a_batch_of_32_needs_a_32nd_of_the_syncs_and_holds_back_32_pages_for_50_us_at_most() {
    for depth in [1, 8, 32, 128] {
        let (strict, batched) = (ring(depth, 1), ring(depth, 32));
        println!("depth {depth}: strict {strict:?}");
        println!("depth {depth}: batched {batched:?}");
        assert_eq!(strict.syncs, OPERATIONS);
        let closed = if depth == 1 {
            OPERATIONS
        } else {
            OPERATIONS / 32
        };
        assert_eq!(batched.syncs, closed, "at depth {depth}");
        assert_eq!(batched.pages, if depth == 1 { 1 } else { 32 });
        let bound = BatchConfig::default().age_max + REQUEST;
        assert!(
            batched.most_of_100 <= strict.most_of_100 + bound,
            "{batched:?}"
        );
    }
}
