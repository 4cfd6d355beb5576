//! What invalidation costs, counted.

use dmakit_addr::{Direction, DmaMask};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::{Batch, BatchConfig, Lazy, LazyConfig};
use dmakit_platform::Platform;

use crate::rig::{Mutant, Rig, Shape};

const OPERATIONS: u64 = 512;

/// Commands without syncs, syncs and doorbells of 512 maps and unmaps.
type Costs = (u64, u64, u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Policy {
    Strict,
    /// So many unmaps to a sync.
    Batched(usize),
    /// 256 unmaps to a flush.
    Lazy,
}

fn costs(policy: Policy, len: u64) -> Costs {
    let mut shape = Shape::default();
    shape.driver.command_shift = 10;
    let rig = Rig::new(5, shape);
    let driver = rig.driver();
    let domain = rig.domain(&driver, Mutant::Nothing);
    let buffer = rig.buffer(2 << 20, 0);
    let run = buffer.range().slice(0, len).unwrap();
    let map = |domain: &_| rig.map(domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
    let before = driver.command_counts();
    match policy {
        Policy::Strict => {
            for _ in 0..OPERATIONS {
                let ticket = domain.unmap(map(&domain)).unwrap();
                rig.redeem(&domain, ticket, &[run]);
            }
        }
        Policy::Batched(debts) => {
            let config = BatchConfig {
                debts,
                ..BatchConfig::default()
            };
            let mut batch = Batch::new(domain.id(), config).unwrap();
            let give = |run| rig.device.revoke(run, Direction::Bidirectional);
            for _ in 0..OPERATIONS {
                let mapped = map(&domain);
                let cpu = rig.machine.enter_cpu();
                let now = rig.machine.now();
                batch.unmap(&domain, &cpu, now, mapped, run, give).unwrap();
            }
        }
        Policy::Lazy => {
            let config = LazyConfig::default();
            let Ok(lazy) = Lazy::new(domain, rig.machine.clone(), config) else {
                panic!("no memory for the queues");
            };
            for _ in 0..OPERATIONS {
                let mapped = map(lazy.domain());
                let cpu = rig.machine.enter_cpu();
                lazy.unmap(&cpu, mapped).unwrap();
            }
            lazy.flush(&rig.machine.enter_cpu()).unwrap();
        }
    }
    let after = driver.command_counts();
    let syncs = after.syncs - before.syncs;
    let commands = after.commands - before.commands - syncs;
    (commands, syncs, after.doorbells - before.doorbells)
}

#[test]
fn commands_syncs_and_doorbells_are_those_that_the_documents_state() {
    for len in [4 << 10, 64 << 10, 1 << 20, 2 << 20] {
        assert_eq!(costs(Policy::Strict, len), (512, 512, 512), "{len:#x}");
        assert_eq!(costs(Policy::Lazy, len), (2, 2, 2), "{len:#x}");
        for debts in [1, 8, 32, 128] {
            let (commands, syncs, doorbells) = costs(Policy::Batched(debts), len);
            let closed = OPERATIONS / debts as u64;
            println!("{len:#x} batch {debts}: {commands} commands, {syncs} syncs");
            assert_eq!((syncs, doorbells), (closed, closed), "{len:#x} by {debts}");
            assert!(commands <= OPERATIONS, "{len:#x} by {debts}: {commands}");
        }
    }
}
