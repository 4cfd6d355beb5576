//! The providers of memory, and their book.

use dmakit_addr::{Address, Direction, DmaMask, NodeId, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_platform::{Platform, PoolMemory, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{
    DeviceConfig, FaultPlan, Machine, MachineConfig, MachineMemory, PrivateAccess, Rng, Step,
    Violation,
};

fn range(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

const NODE0: [(u64, u64); 2] = [(0x1000_0000, 1 << 20), (0x8_0000_0000, 1 << 20)];
const NODE1: [(u64, u64); 1] = [(0x20_0000_0000, 1 << 20)];

fn config(seed: u64) -> MachineConfig {
    MachineConfig::new(seed)
        .node(&NODE0.map(|(start, len)| range(start, len)))
        .node(&NODE1.map(|(start, len)| range(start, len)))
}

fn request(len: u64) -> SegmentRequest {
    SegmentRequest {
        len,
        align: PAGE_BYTES,
        node: None,
        limit: DmaMask::ALL,
    }
}

fn why(machine: &Machine) -> Vec<&'static str> {
    let violations = machine.take_violations().first;
    let why = violations.into_iter().map(|violation| match violation {
        Violation::Freed { why, .. } => why,
        other => panic!("{other}"),
    });
    why.collect()
}

#[test]
fn node_alignment_and_limit_are_honoured() {
    let machine = config(0).build().unwrap();
    let memory = MachineMemory::new(&machine);
    let on_node_1 = SegmentRequest {
        node: Some(NodeId::new(1)),
        ..request(0x3000)
    };
    let segment = memory.allocate(&on_node_1).unwrap();
    assert_eq!(segment.range(), range(NODE1[0].0, 0x3000));
    let aligned = SegmentRequest {
        align: 0x8000,
        ..on_node_1
    };
    let next = memory.allocate(&aligned).unwrap();
    assert_eq!(next.range(), range(NODE1[0].0 + 0x8000, 0x3000));
    let low = SegmentRequest {
        limit: DmaMask::up_to(NODE0[0].0 + 0x4fff),
        ..on_node_1
    };
    let low_segment = memory.allocate(&low).unwrap();
    assert_eq!(
        low_segment.range(),
        range(NODE0[0].0, 0x3000),
        "another node will do"
    );
    let refused = memory.allocate(&low).unwrap_err();
    assert_eq!(refused.largest_free, Some(0x2000));
    assert_eq!(memory.outstanding_bytes(), 0x9000);
    assert_eq!(memory.outstanding().len(), 3);
    for segment in [segment, next, low_segment] {
        memory.free(segment);
    }
    assert_eq!(memory.outstanding(), []);
    let all = memory.allocate(&request(1 << 20)).unwrap();
    assert_eq!(
        all.range().start(),
        PhysAddr::new(NODE0[0].0),
        "joined again"
    );
    machine.check().unwrap();
}

#[test]
fn impossible_requests_are_refused() {
    let machine = config(0).build().unwrap();
    let memory = MachineMemory::new(&machine);
    memory.allocate(&request(0)).unwrap_err();
    let crooked = SegmentRequest {
        align: 3,
        ..request(1)
    };
    memory.allocate(&crooked).unwrap_err();
    let refused = memory.allocate(&request((1 << 20) + 1)).unwrap_err();
    assert_eq!(refused.largest_free, Some(1 << 20));
}

#[test]
fn memory_given_in_random_order_never_overlaps_and_comes_together_again() {
    for seed in 0..32 {
        let machine = config(seed).build().unwrap();
        let memory = MachineMemory::new(&machine);
        let mut rng = Rng::new(seed);
        let mut live: Vec<Segment> = Vec::new();
        for _ in 0..300 {
            if rng.chance(144) {
                let wanted = SegmentRequest {
                    len: 1 + rng.below(0x8000),
                    align: 1 << rng.below(15),
                    node: rng.chance(128).then(|| NodeId::new(rng.below(2) as u16)),
                    limit: DmaMask::ALL,
                };
                if let Ok(segment) = memory.allocate(&wanted) {
                    assert!(segment.is_aligned(wanted.align), "seed {seed}");
                    assert_eq!(segment.len(), wanted.len, "seed {seed}");
                    let overlaps = |other: &Segment| other.range().overlaps(&segment.range());
                    assert!(!live.iter().any(overlaps), "seed {seed}");
                    live.push(segment);
                }
            } else if !live.is_empty() {
                let index = rng.below(live.len() as u64) as usize;
                memory.free(live.swap_remove(index));
            }
        }
        live.drain(..).for_each(|segment| memory.free(segment));
        for _ in 0..3 {
            live.push(memory.allocate(&request(1 << 20)).unwrap());
        }
        machine.check().unwrap();
    }
}

#[test]
fn tables_come_zeroed_and_cleaned_and_pools_full_of_dirty_garbage() {
    let machine = config(1).non_coherent().build().unwrap();
    let memory = MachineMemory::new(&machine);
    let look = |segment: &Segment| {
        let (mut cpu, mut below) = (vec![0; 64], vec![0; 64]);
        segment.window().read(&mut cpu);
        assert!(machine.peek(segment.range().start(), &mut below));
        (cpu, below)
    };
    let pool = memory.allocate_pool(&request(PAGE_BYTES)).unwrap();
    let (cpu, below) = look(&pool);
    assert!(cpu.iter().all(|&byte| byte != 0));
    assert_ne!(cpu, below);
    pool.window().fill(0);
    machine.clean(pool.range());
    memory.free_pool(pool);

    let littered = memory.allocate(&request(PAGE_BYTES)).unwrap();
    machine.clean(littered.range());
    memory.free(littered);
    let table = memory.allocate_table(&request(PAGE_BYTES)).unwrap();
    assert_eq!(look(&table), (vec![0; 64], vec![0; 64]));
    machine.check().unwrap();
}

#[test]
fn what_comes_back_wrong_is_named() {
    let machine = config(2).encrypted(PrivateAccess::Fault).build().unwrap();
    let memory = MachineMemory::new(&machine);
    let device = machine.add_device(DeviceConfig::new());
    let pool = || {
        let segment = memory.allocate_pool(&request(PAGE_BYTES)).unwrap();
        segment.window().fill(0);
        segment
    };

    let dirty = pool();
    dirty.window().slice(4095, 1).unwrap().fill(1);
    memory.free_pool(dirty);
    assert_eq!(why(&machine), ["not zeroed"]);

    let shared = pool();
    let range = shared.range();
    machine.share(range).unwrap();
    shared.window().fill(0);
    memory.free_pool(shared);
    assert_eq!(why(&machine), ["still shared with the host"]);
    machine.unshare(range).unwrap();

    let lent = pool();
    device.grant(lent.range(), Direction::ToDevice);
    let range = lent.range();
    memory.free_pool(lent);
    assert_eq!(why(&machine), ["still lent to a device"]);
    device.revoke(range, Direction::ToDevice);

    memory.free_table(pool());
    assert_eq!(why(&machine), ["given as something else"]);

    machine.inject(&FaultPlan::none().after(Step::SHARE, 0));
    let unknown = pool();
    machine.share(unknown.range()).unwrap_err();
    unknown.window().fill(0);
    memory.free_pool(unknown);
    assert_eq!(
        why(&machine),
        ["its state is unknown since a conversion failed"]
    );
}

#[test]
fn parts_and_foreign_memory_are_not_taken_back() {
    let machine = config(3).build().unwrap();
    let other_node = machine.take_ram(NodeId::new(1));
    let memory = MachineMemory::new(&machine);
    let other = MachineMemory::of_segments(&machine, NodeId::new(1), other_node);
    let foreign = other.allocate(&request(PAGE_BYTES)).unwrap();
    memory.free(foreign);
    let whole = memory.allocate(&request(2 * PAGE_BYTES)).unwrap();
    let (low, high) = whole.split_at(PAGE_BYTES).unwrap();
    memory.free(low);
    memory.free(high);
    assert_eq!(why(&machine), ["not given whole by this provider"; 3]);
    assert_eq!(memory.outstanding_bytes(), 2 * PAGE_BYTES);
    assert_eq!(other.outstanding_bytes(), PAGE_BYTES);
}

#[test]
fn allocations_fail_when_the_plan_says_so_and_change_nothing() {
    let machine = config(4).build().unwrap();
    let memory = MachineMemory::new(&machine);
    let plan = FaultPlan::none()
        .after(Step::ALLOCATE_POOL, 0)
        .after(Step::ALLOCATE_TABLE, 1);
    machine.inject(&plan);
    memory.allocate_pool(&request(64)).unwrap_err();
    memory.free_table(memory.allocate_table(&request(64)).unwrap());
    memory.allocate_table(&request(64)).unwrap_err();
    let fired: Vec<Step> = plan.fired().iter().map(|fired| fired.step).collect();
    assert_eq!(fired, [Step::ALLOCATE_POOL, Step::ALLOCATE_TABLE]);
    assert_eq!(memory.outstanding(), []);
    assert!(PhysAddr::new(NODE0[0].0).is_aligned(PAGE_BYTES));
}
