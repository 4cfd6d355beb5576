//! Nodes, what lies on them, and what distance costs.

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_platform::{Mmio, Platform, Segment, SegmentRequest};
use dmakit_sim::{
    DeviceConfig, Machine, MachineConfig, MachineError, MachineMemory, SimSmmu, SmmuConfig,
};

const MIB: u64 = 1 << 20;

fn node(index: u16) -> NodeId {
    NodeId::new(index)
}

/// `MiB` of RAM for each node, in 64 GiB of addresses of its own; 0 is a node without memory.
fn machine(mib: &[u64]) -> MachineConfig {
    let starts = (1_u64..).map(|index| index << 36);
    mib.iter()
        .zip(starts)
        .fold(MachineConfig::new(1), |config, (&mib, start)| match mib {
            0 => config.node(&[]),
            _ => config.node(&[PhysRange::new(PhysAddr::new(start), mib * MIB).unwrap()]),
        })
}

fn frame_on(memory: &MachineMemory, wanted: u16) -> Segment {
    let request = SegmentRequest {
        len: 4096,
        align: 4096,
        node: Some(node(wanted)),
        limit: DmaMask::ALL,
    };
    memory.allocate(&request).unwrap()
}

/// Queues `count` syncs, one after the other, and waits for each as a driver would.
fn sync(machine: &Machine, smmu: &SimSmmu, queue: &Segment, count: u32) {
    const SYNC: u64 = 0x46;
    let words = queue.window().words64().unwrap();
    words[0].store(SYNC, std::sync::atomic::Ordering::Relaxed);
    words[2].store(SYNC, std::sync::atomic::Ordering::Relaxed);
    // Two commands; CMDQEN.
    smmu.write64(0x90, queue.range().start().raw() | 1);
    smmu.write32(0x20, 1 << 3);
    for index in 1..=count {
        let prod = index % 4;
        smmu.write32(0x98, prod);
        while smmu.read32(0x9c) != prod {
            machine.disturb();
        }
    }
}

#[test]
fn a_sync_takes_as_long_as_its_queue_is_far() {
    // The figures of seed measurements: 240 ns on the node, 550 ns off it.
    for (at, ns, local) in [(2, 240, 7), (0, 550, 0)] {
        let machine = machine(&[4, 4, 4, 4]).build().unwrap();
        let memory = MachineMemory::new(&machine);
        let on_node = SmmuConfig {
            node: Some(node(2)),
            ..SmmuConfig::default()
        };
        let smmu = machine.add_smmu(on_node);
        let queue = frame_on(&memory, at);
        sync(&machine, &smmu, &queue, 7);
        let waits = smmu.sync_waits();
        assert_eq!((waits.syncs, waits.local), (7, local));
        assert_eq!(waits.total_ns, 7 * ns);
        assert!(machine.now().as_nanos() >= 7 * ns, "the clock has moved");
    }
}

#[test]
fn an_smmu_without_a_node_has_syncs_that_take_no_time() {
    let machine = machine(&[4]).build().unwrap();
    let memory = MachineMemory::new(&machine);
    let smmu = machine.add_smmu(SmmuConfig::default());
    sync(&machine, &smmu, &frame_on(&memory, 0), 3);
    assert_eq!(smmu.sync_waits().total_ns, 0);
}

#[test]
fn a_distance_that_was_said_counts_both_ways_and_costs_what_lies_on_the_line() {
    let machine = machine(&[4, 4, 0, 4])
        .distance(node(0), node(3), 30)
        .build()
        .unwrap();
    let far = [(0, 3), (3, 0)].map(|(from, to)| machine.distance(node(from), node(to)));
    assert_eq!(far, [30, 30]);
    assert_eq!(machine.distance(node(0), node(2)), 20);
    assert_eq!(machine.distance(node(2), node(2)), 10);
    let memory = MachineMemory::new(&machine);
    let smmu = machine.add_smmu(SmmuConfig {
        node: Some(node(3)),
        ..SmmuConfig::default()
    });
    sync(&machine, &smmu, &frame_on(&memory, 0), 2);
    assert_eq!(smmu.sync_waits().total_ns, 2 * 860);
}

#[test]
fn a_node_may_have_no_memory_and_devices_all_the_same() {
    let machine = machine(&[4, 0]).build().unwrap();
    assert_eq!(machine.nodes(), 2);
    assert!(machine.take_ram(node(1)).is_empty());
    let device = machine.add_device(DeviceConfig::new().node(node(1)));
    assert_eq!(device.node(), Some(node(1)));
    assert_eq!(machine.add_device(DeviceConfig::new()).node(), None);
    let start = machine.ram().next().unwrap().1.start();
    assert_eq!(machine.node_of(start), Some(node(0)));
    assert_eq!(machine.node_of(PhysAddr::new(start.raw() - 1)), None);
}

#[test]
fn distances_that_cannot_be_are_refused() {
    for (from, to, distance) in [(0, 1, 9), (0, 0, 11), (0, 2, 20)] {
        let refused = machine(&[4, 4])
            .distance(node(from), node(to), distance)
            .build();
        let error = refused.err().unwrap();
        assert!(matches!(error, MachineError::Distance(..)), "{error}");
        assert!(error.to_string().contains("is no distance from"), "{error}");
    }
}
