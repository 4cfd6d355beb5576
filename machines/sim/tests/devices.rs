//! What devices do with addresses, order and memory that is not theirs.

use dmakit_addr::{BoundaryMask, Direction, DmaAddr, DmaMask, DmaRange, PhysAddr, PhysRange};
use dmakit_platform::Platform;
use dmakit_sim::{
    Access, BUS_OFFSET, BeyondWires, BusWindow, DeviceConfig, DmaFault, Machine, MachineConfig,
    PrivateAccess, SimDevice, Violation,
};

const LOW: u64 = 0x4000_0000;
const HIGH: u64 = 0x12_0000_0000;
const LEN: u64 = 1 << 20;

fn phys(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

fn bus(start: u64, len: u64) -> DmaRange {
    DmaRange::new(DmaAddr::new(start), len).unwrap()
}

fn machine(seed: u64) -> Machine {
    MachineConfig::new(seed)
        .node(&[phys(LOW, LEN), phys(HIGH, LEN)])
        .build()
        .unwrap()
}

fn peek<const N: usize>(machine: &Machine, start: u64) -> [u8; N] {
    let mut bytes = [0; N];
    assert!(machine.peek(PhysAddr::new(start), &mut bytes));
    bytes
}

#[test]
fn a_physical_address_is_no_device_address() {
    let machine = machine(0);
    let device = machine.add_device(DeviceConfig::new());
    let mixed_up = DmaAddr::new(LOW);
    assert_eq!(
        device.write(mixed_up, b"lost"),
        Err(DmaFault::NoWindow(mixed_up))
    );
    device
        .write(DmaAddr::new(LOW + BUS_OFFSET), b"here")
        .unwrap();
    assert_eq!(&peek(&machine, LOW), b"here");
}

#[test]
fn a_transfer_goes_through_windows_that_meet_on_the_bus_but_not_in_memory() {
    let machine = machine(1);
    let config = DeviceConfig::new()
        .window(BusWindow {
            bus: bus(0x1_0000, 0x1000),
            memory: PhysAddr::new(LOW),
        })
        .window(BusWindow {
            bus: bus(0x1_1000, 0x1000),
            memory: PhysAddr::new(HIGH),
        });
    let device = machine.add_device(config);
    device.write(DmaAddr::new(0x1_0ffc), b"low!high").unwrap();
    assert_eq!(&peek(&machine, LOW + 0xffc), b"low!");
    assert_eq!(&peek(&machine, HIGH), b"high");
    let pieces = device.memory_behind(bus(0x1_0ffc, 8)).unwrap();
    assert_eq!(pieces, [phys(LOW + 0xffc, 4), phys(HIGH, 4)]);
    let past = device.memory_behind(bus(0x1_1ffc, 8));
    assert_eq!(past, Err(DmaFault::NoWindow(DmaAddr::new(0x1_2000))));
}

#[test]
fn a_window_onto_a_hole_faults_there_and_lands_before() {
    let machine = machine(2);
    let device = machine.add_device(DeviceConfig::new().identity());
    let end = LOW + LEN;
    assert_eq!(
        device.write(DmaAddr::new(end - 4), b"goodlost"),
        Err(DmaFault::NoRam(PhysAddr::new(end)))
    );
    assert_eq!(&peek(&machine, end - 4), b"good");
    assert_eq!(device.faults(), [DmaFault::NoRam(PhysAddr::new(end))]);
}

#[test]
fn an_address_beyond_the_wires_hits_something_else_and_is_noticed() {
    let machine = machine(3);
    let wires = DmaMask::bits(36).unwrap();
    let config = DeviceConfig::new().identity();
    let device = machine.add_device(config.clone().wires(wires, BeyondWires::Truncate));
    let addr = DmaAddr::new((1 << 36) + LOW);
    device.write(addr, b"oops").unwrap();
    assert_eq!(&peek(&machine, LOW), b"oops");
    let noticed = machine.take_violations();
    assert_eq!(
        noticed.first,
        [Violation::BeyondWires {
            device: device.id(),
            addr,
            wires: wires.last()
        }]
    );
    let device = machine.add_device(config.wires(wires, BeyondWires::Fault));
    assert_eq!(
        device.write(addr, b"gone"),
        Err(DmaFault::BeyondWires(addr))
    );
    assert_eq!(machine.take_violations().total, 1);
    device.write(DmaAddr::new(LOW), b"fine").unwrap();
    machine.check().unwrap();
}

#[test]
fn a_segment_over_the_devices_limits_is_cut_or_wraps() {
    let machine = machine(4);
    let config = DeviceConfig::new()
        .identity()
        .segment_bytes_max(0x2000)
        .boundary(BoundaryMask::of_size(0x1_0000).unwrap());
    let device = machine.add_device(config);
    device.write(DmaAddr::new(LOW), &[1; 0x2001]).unwrap();
    assert_eq!(peek(&machine, LOW + 0x1fff), [1, 0]);
    device.write(DmaAddr::new(LOW + 0xfffe), b"abcd").unwrap();
    assert_eq!(&peek(&machine, LOW + 0xfffe), b"ab\0\0");
    assert_eq!(&peek(&machine, LOW), b"cd\x01\x01", "the counter wrapped");
    let noticed = machine.take_violations().first;
    assert!(
        matches!(
            noticed[..],
            [
                Violation::SegmentTooLong {
                    len: 0x2001,
                    max: 0x2000,
                    ..
                },
                Violation::BoundaryCrossed { len: 4, .. }
            ]
        ),
        "{noticed:?}"
    );
    device.write(DmaAddr::new(LOW + 0xfffe), b"ab").unwrap();
    machine.check().unwrap();
}

/// Polls, as a CPU does, for the last byte of a burst; says whether the first had landed.
fn last_before_first(machine: &Machine, device: &SimDevice, is_fenced: bool) -> bool {
    let start = DmaAddr::new(LOW + BUS_OFFSET);
    let flag = DmaAddr::new(LOW + BUS_OFFSET + 0x1000);
    let body = device.start_write(start, &[7; 512]);
    if is_fenced {
        device.fence();
    }
    let done = device.start_write(flag, &[1]);
    while peek::<1>(machine, LOW + 0x1000) == [0] {
        machine.disturb();
    }
    let reordered = peek::<512>(machine, LOW) != [7; 512];
    device.complete(body).unwrap();
    device.complete(done).unwrap();
    assert_eq!(peek::<512>(machine, LOW), [7; 512], "completed");
    reordered
}

#[test]
fn writes_pass_each_other_unless_fenced_or_completed() {
    let count = |is_fenced, config: DeviceConfig| {
        (0..64)
            .filter(|&seed| {
                let machine = machine(seed);
                let device = machine.add_device(config.clone());
                last_before_first(&machine, &device, is_fenced)
            })
            .count()
    };
    let reordered = count(false, DeviceConfig::new());
    assert!(reordered > 48, "{reordered} of 64 seeds");
    assert_eq!(count(true, DeviceConfig::new()), 0);
    assert_eq!(count(false, DeviceConfig::new().ordered()), 0);
}

#[test]
fn a_read_in_flight_sees_what_memory_holds_when_it_lands() {
    let mut new_seen = 0;
    for seed in 0..32 {
        let machine = machine(seed);
        let ram = machine.take_ram(dmakit_addr::NodeId::new(0));
        let device = machine.add_device(DeviceConfig::new());
        let read = device.start_read(DmaAddr::new(LOW + BUS_OFFSET), 1024);
        // Reuse before completion: the mistake that a completion is for.
        ram[0].window().slice(0, 1024).unwrap().fill(9);
        let bytes = device.complete(read).unwrap();
        new_seen += usize::from(bytes.contains(&9));
    }
    assert!(new_seen > 30, "{new_seen} of 32 seeds");
}

#[test]
fn a_device_that_was_cut_off_writes_nothing_more() {
    let machine = machine(5);
    let device = machine.add_device(DeviceConfig::new());
    let other = machine.add_device(DeviceConfig::new());
    let addr = DmaAddr::new(LOW + BUS_OFFSET);
    let first = device.start_write(addr, &[1; 4096]);
    let foreign = device.start_write(addr, &[1; 64]);
    let others = [(); 2].map(|()| other.start_write(addr, &[]));
    assert!(device.parts_in_flight() > 0);
    device.abort();
    let before = peek::<4096>(&machine, LOW);
    let again = device.start_write(addr, &[]);
    assert_eq!(device.complete(first), Err(DmaFault::Aborted));
    assert_eq!(other.complete(foreign), Err(DmaFault::Aborted));
    for own in others {
        other.complete(own).unwrap();
    }
    device.complete(again).unwrap();
    (0..100).for_each(|_| machine.disturb());
    assert_eq!(peek::<4096>(&machine, LOW), before);
}

#[test]
fn a_confined_device_is_caught_at_the_first_byte_that_is_not_lent() {
    let machine = machine(6);
    let device = machine.add_device(DeviceConfig::new());
    let addr = |offset| DmaAddr::new(LOW + BUS_OFFSET + offset);
    device.write(addr(0x5000), b"free").unwrap();
    machine.check().unwrap();

    let lent = bus(addr(0x1000).raw(), 0x20);
    device.grant_bus(lent, Direction::FromDevice).unwrap();
    device.write(addr(0x1000), &[1; 0x20]).unwrap();
    machine.check().unwrap();
    device.write(addr(0x1000), &[2; 0x21]).unwrap();
    device.read(addr(0x1000), &mut [0; 4]).unwrap();
    let device_id = device.id();
    let reached = |access, at| Violation::NotGranted {
        device: device_id,
        access,
        at: PhysAddr::new(at),
    };
    assert_eq!(
        machine.take_violations().first,
        [
            reached(Access::Write, LOW + 0x1020),
            reached(Access::Read, LOW + 0x1000)
        ]
    );
    assert_eq!(peek(&machine, LOW + 0x1020), [2], "hardware does not care");
}

#[test]
fn memory_lent_twice_is_lent_until_revoked_twice_and_late_writes_show() {
    let machine = machine(7);
    let device = machine.add_device(DeviceConfig::new());
    let memory = phys(LOW, 0x1000);
    let addr = DmaAddr::new(LOW + BUS_OFFSET);
    device.grant(memory, Direction::Bidirectional);
    device.grant(memory, Direction::ToDevice);
    device.revoke(memory, Direction::Bidirectional);
    device.read(addr, &mut [0; 64]).unwrap();
    machine.check().unwrap();

    device.grant(memory, Direction::FromDevice);
    let late = device.start_write(addr, &[3; 0x1000]);
    device.revoke(memory, Direction::FromDevice);
    device.complete(late).unwrap();
    let violations = machine.take_violations();
    assert!(violations.total > 32, "{violations}");
}

#[test]
fn long_transfers_arrive_whole() {
    let machine = machine(8);
    let device = machine.add_device(DeviceConfig::new());
    let bytes: Vec<u8> = (0..500_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let addr = DmaAddr::new(HIGH + BUS_OFFSET + 0x123);
    device.write(addr, &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    device.read(addr, &mut back).unwrap();
    assert!(back == bytes);
    let counts = machine.counts();
    assert_eq!(counts.device_written_bytes, 500_000);
    assert_eq!(counts.device_read_bytes, 500_000);
}

#[test]
fn a_private_frame_gives_a_device_garbage_or_a_fault() {
    for private in [PrivateAccess::Fault, PrivateAccess::Garbage] {
        let machine = MachineConfig::new(9).encrypted(private).build().unwrap();
        let segments = machine.take_ram(dmakit_addr::NodeId::new(0));
        let window = segments[0].window().slice(0, 64).unwrap();
        window.fill(0x11);
        let device = machine.add_device(DeviceConfig::new());
        let start = segments[0].range().start();
        let addr = DmaAddr::new(start.raw() + BUS_OFFSET);
        let mut seen = [0; 64];
        let read = device.read(addr, &mut seen);
        let wrote = device.write(addr, &[0x22; 64]);
        let mut after = [0; 64];
        window.read(&mut after);
        match private {
            PrivateAccess::Fault => {
                assert_eq!(read, Err(DmaFault::Private(start)));
                assert_eq!(wrote, Err(DmaFault::Private(start)));
                assert_eq!(after, [0x11; 64]);
            }
            PrivateAccess::Garbage => {
                assert!(seen.iter().all(|&byte| byte != 0x11), "{seen:?}");
                assert!(after.iter().all(|&byte| byte != 0x22), "{after:?}");
            }
        }
        assert_eq!(machine.take_violations().total, 2);
    }
}

#[test]
fn frames_are_private_or_shared_each_by_itself_however_the_bus_cuts_them() {
    let machine = MachineConfig::new(10)
        .node(&[phys(LOW, LEN)])
        .encrypted(PrivateAccess::Garbage)
        .build()
        .unwrap();
    let device = machine.add_device(DeviceConfig::new().window(BusWindow {
        bus: bus(0x800, LEN),
        memory: PhysAddr::new(LOW),
    }));
    machine.share(phys(LOW + 0x1000, 0x1000)).unwrap();
    device.write(DmaAddr::new(0x800), &[0x33; 0x8000]).unwrap();
    let clear: Vec<bool> = peek::<0x8000>(&machine, LOW).map(|b| b == 0x33).into();
    assert!(clear[0x1000..0x2000].iter().all(|&clear| clear));
    assert!(!clear[..0x1000].iter().any(|&clear| clear));
    assert!(!clear[0x2000..].iter().any(|&clear| clear));
}
