//! Sharing with an untrusted host.

use dmakit_addr::{NodeId, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_platform::{Platform, Segment};
use dmakit_sim::{
    FaultPlan, Machine, MachineConfig, PrivateAccess, Step, Violation, for_each_failure,
};

fn machine(seed: u64) -> (Machine, Segment) {
    let machine = MachineConfig::new(seed)
        .encrypted(PrivateAccess::Garbage)
        .build()
        .unwrap();
    let segment = machine.take_ram(NodeId::new(1)).pop().unwrap();
    let (segment, _) = segment.split_at(16 * PAGE_BYTES).unwrap();
    (machine, segment)
}

fn frames(segment: &Segment, first: u64, count: u64) -> PhysRange {
    let range = segment.range();
    range.slice(first * PAGE_BYTES, count * PAGE_BYTES).unwrap()
}

fn why(machine: &Machine) -> Vec<&'static str> {
    let violations = machine.take_violations().first;
    let why = violations.into_iter().map(|violation| match violation {
        Violation::Conversion { why, .. } => why,
        other => panic!("{other}"),
    });
    why.collect()
}

#[test]
fn conversion_destroys_what_was_there() {
    let (machine, segment) = machine(0);
    let survives = |byte: u8| {
        let mut bytes = vec![0; segment.window().len()];
        segment.window().read(&mut bytes);
        bytes.contains(&byte) || bytes.contains(&0)
    };
    segment.window().fill(0x42);
    machine.share(segment.range()).unwrap();
    assert!(!survives(0x42));
    assert_eq!(machine.shared(), [segment.range()]);
    segment.window().fill(0x42);
    machine.unshare(segment.range()).unwrap();
    assert!(!survives(0x42));
    assert_eq!(machine.shared(), []);
    machine.check().unwrap();
}

#[test]
fn conversions_that_make_no_sense_are_refused_and_noticed() {
    let (machine, segment) = machine(1);
    machine.share(frames(&segment, 0, 4)).unwrap();
    machine.share(frames(&segment, 2, 4)).unwrap_err();
    machine.unshare(frames(&segment, 3, 2)).unwrap_err();
    let part = segment.range().slice(0, 100).unwrap();
    machine.unshare(part).unwrap_err();
    let nowhere = PhysRange::new(PhysAddr::new(0), PAGE_BYTES).unwrap();
    machine.share(nowhere).unwrap_err();
    assert_eq!(
        why(&machine),
        [
            "shared already",
            "not shared",
            "not whole frames",
            "not RAM"
        ]
    );
    assert_eq!(machine.shared(), [frames(&segment, 0, 4)]);
}

#[test]
fn a_failed_conversion_leaves_frames_that_nobody_can_use_again() {
    let mut prefixes = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let (machine, segment) = machine(seed);
        machine.inject(&FaultPlan::none().after(Step::SHARE, 1));
        machine.share(frames(&segment, 0, 4)).unwrap();
        machine.share(frames(&segment, 4, 4)).unwrap_err();
        machine.share(frames(&segment, 8, 4)).unwrap();
        assert_eq!(machine.unknown(), [frames(&segment, 4, 4)]);
        let shared: u64 = machine.shared().iter().map(|range| range.len()).sum();
        prefixes.insert(shared / PAGE_BYTES - 8);
        machine.check().unwrap();
        machine.unshare(frames(&segment, 4, 4)).unwrap_err();
        assert_eq!(
            why(&machine),
            ["its state is unknown since a conversion failed"]
        );
    }
    assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn every_conversion_of_a_run_fails_once() {
    let mut failed = Vec::new();
    let runs = for_each_failure(|plan| {
        let (machine, segment) = machine(3);
        machine.inject(plan);
        let outcomes = [
            machine.share(segment.range()).is_ok(),
            machine.unshare(segment.range()).is_ok(),
        ];
        failed.push(outcomes);
    });
    assert_eq!(runs, 2);
    assert_eq!(failed, [[false, false], [true, false], [true, true]]);
}

#[test]
fn without_an_untrusted_host_conversion_does_nothing() {
    let machine = MachineConfig::new(4).build().unwrap();
    let segment = machine.take_ram(NodeId::new(0)).pop().unwrap();
    let window = segment.window().slice(0, 8).unwrap();
    window.fill(7);
    machine.inject(&FaultPlan::none().step_after(0));
    machine.share(segment.range()).unwrap();
    let mut bytes = [0; 8];
    window.read(&mut bytes);
    assert_eq!(bytes, [7; 8]);
    assert_eq!(machine.shared(), []);
}
