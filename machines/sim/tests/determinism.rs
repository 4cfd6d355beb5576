//! The seed decides everything.

use dmakit_addr::{DmaAddr, DmaMask};
use dmakit_platform::{CpuId, Platform, PoolMemory, SegmentRequest};
use dmakit_sim::{
    BUS_OFFSET, DeviceConfig, FaultPlan, MachineConfig, MachineMemory, PrivateAccess, Rng, Step,
};

/// A busy life: its log, counts and violations as text.
fn life(machine_seed: u64, load_seed: u64) -> String {
    let machine = MachineConfig::new(machine_seed)
        .non_coherent()
        .encrypted(PrivateAccess::Garbage)
        .record()
        .build()
        .unwrap();
    let memory = MachineMemory::new(&machine);
    let devices = [
        machine.add_device(DeviceConfig::new()),
        machine.add_device(DeviceConfig::new().ordered()),
    ];
    machine.inject(&FaultPlan::none().chance(Step::UNSHARE, 32, load_seed));
    let mut load = Rng::new(load_seed);
    let mut begun = Vec::new();
    for step in 0..400 {
        let request = SegmentRequest {
            len: 4096 << load.below(3),
            align: 4096,
            node: None,
            limit: DmaMask::ALL,
        };
        let segment = machine
            .on_cpu(CpuId::new(step % 4), || memory.allocate_pool(&request))
            .unwrap();
        let range = segment.range();
        machine.share(range).unwrap();
        segment.window().fill(load.bits() as u8);
        machine.clean(range);
        let addr = DmaAddr::new(range.start().raw() + BUS_OFFSET);
        let device = &devices[load.below(2) as usize];
        begun.push((device, device.start_write(addr, &[step as u8; 700])));
        let _ = device.read(addr, &mut [0; 333]);
        if load.chance(128) {
            let index = load.below(begun.len() as u64) as usize;
            let (device, transfer) = begun.swap_remove(index);
            let _ = device.complete(transfer);
        }
        machine.advance(std::time::Duration::from_nanos(load.below(1000)));
        machine.invalidate(range);
        if machine.unshare(range).is_ok() {
            segment.window().fill(0);
            memory.free_pool(segment);
        }
    }
    let mut text = String::new();
    for (at, event) in machine.log() {
        text += &format!("{at:?} {event}\n");
    }
    let violations = machine.take_violations();
    format!("{text}{:?}\n{violations}", machine.counts())
}

#[test]
fn the_same_seed_gives_the_same_log_byte_for_byte() {
    let (first, again) = (life(1, 2), life(1, 2));
    assert!(first.lines().count() > 5000, "{}", first.lines().count());
    assert!(first == again);
    assert!(first != life(3, 2), "the machine's seed matters");
    assert!(first != life(1, 4), "the load matters");
}

#[test]
fn nothing_is_listed_unless_asked_for() {
    let machine = MachineConfig::new(0).build().unwrap();
    machine.disturb();
    let device = machine.add_device(DeviceConfig::new());
    device.write(DmaAddr::new(0), &[0]).unwrap_err();
    assert!(machine.log().is_empty());
    assert_eq!(machine.counts().faults, 1);
}
