//! Every shape of hardware and tables, with a stack that does nothing wrong.

use dmakit_addr::{Direction, DmaAddr, DmaMask, Granule, NodeId};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::{ContiguousHint, Stage};
use dmakit_iommu::FaultReason;
use dmakit_platform::CpuId;
use dmakit_sim::SmmuConfig;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::{Config, Tag};

use crate::rig::{Mutant, Rig, STREAM, Shape, faults};

/// Addresses of 52 bits, both those that are translated and those of all memory, tables and queues
/// included.
fn wide(stage: Stage) -> Shape {
    let mut shape = Shape::default();
    shape.smmu.output_bits = 52;
    Shape {
        granule: Granule::K64,
        stage,
        ..shape
    }
}

fn shapes() -> Vec<Shape> {
    let plain = Shape::default();
    let smmu = SmmuConfig::default();
    vec![
        plain,
        Shape {
            smmu: SmmuConfig {
                messages: false,
                ranges: false,
                two_levels: false,
                wide_tags: false,
                stream_bits: 10,
                ..smmu
            },
            ..plain
        },
        Shape {
            smmu: SmmuConfig {
                coherent: false,
                ..smmu
            },
            ..plain
        },
        Shape {
            stage: Stage::Two,
            ..plain
        },
        Shape {
            granule: Granule::K16,
            ..plain
        },
        Shape {
            granule: Granule::K64,
            stage: Stage::Two,
            ..plain
        },
        wide(Stage::One),
        wide(Stage::Two),
        Shape {
            hint: ContiguousHint::WhereAligned,
            driver: Config {
                two_levels: false,
                ..plain.driver
            },
            ..plain
        },
    ]
}

#[test]
fn no_stale_hit_on_any_shape_of_hardware() {
    // Nine shapes, four seeds.
    let rounds: u64 = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(54_000)
        / 36;
    for (index, shape) in shapes().into_iter().enumerate() {
        for seed in 0..4 {
            let rig = Rig::new(seed, shape);
            let done = rig.rounds(Mutant::Nothing, rounds);
            assert_eq!(done, rounds, "seed {seed}, shape {index}: {shape:?}");
        }
    }
}

#[test]
fn blocks_and_pages_of_every_granule_lead_where_they_say() {
    for (index, shape) in shapes().into_iter().enumerate() {
        let rig = Rig::new(7, shape);
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(4 << 20, 1);
        let mapped = rig.map(
            &domain,
            &[buffer.range()],
            Permissions::READ_WRITE,
            DmaMask::ALL,
        );
        let iova = mapped.range().start().raw();
        for offset in [0, 0x1_2340, 0x1f_ffc0, 0x20_0000, 0x3f_ff00] {
            let mark = [offset as u8 ^ 0x3c; 64];
            rig.device
                .write(DmaAddr::new(iova + offset), &mark)
                .unwrap();
            let mut bytes = [0; 64];
            let phys = buffer.range().slice(offset, 64).unwrap().start();
            assert!(rig.machine.peek(phys, &mut bytes));
            assert_eq!(bytes, mark, "shape {index}, {offset:#x}");
        }
        assert_eq!(faults(&driver), [], "shape {index}");
        let ticket = domain.unmap(mapped).unwrap();
        rig.redeem(&domain, ticket, &[buffer.range()]);
        rig.machine.check().unwrap();
    }
}

#[test]
fn faults_name_the_stream_the_address_and_the_reason() {
    for stage in [Stage::One, Stage::Two] {
        let shape = Shape {
            stage,
            ..Shape::default()
        };
        let rig = Rig::new(3, shape);
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let tag = domain.hardware().inner.context().tag();
        assert_eq!(matches!(tag, Tag::Vmid(_)), stage == Stage::Two);
        let buffer = rig.buffer(4096, 0);
        let mapped = rig.map(&domain, &[buffer.range()], Permissions::READ, DmaMask::ALL);
        let start = mapped.range().start();
        let at = DmaAddr::new(start.raw());
        let mut bytes = [0; 64];
        rig.device.read(at, &mut bytes).unwrap();
        assert!(rig.device.write(at, &[1; 64]).is_err());
        let fault = faults(&driver)[0];
        assert_eq!(fault.reason, FaultReason::Permission);
        assert_eq!((fault.stream, fault.is_write), (STREAM, Some(true)));
        assert_eq!(fault.iova, Some(start));
        assert!(rig.device.read(DmaAddr::new(0x1000), &mut bytes).is_err());
        let fault = faults(&driver)[0];
        assert_eq!(fault.reason, FaultReason::Unmapped);
        assert_eq!(fault.is_write, Some(false));
        driver.detach(STREAM).unwrap();
        assert!(rig.device.read(at, &mut bytes).is_err());
        assert_eq!(faults(&driver), [], "aborted in silence");
        driver.bypass(STREAM).unwrap();
        rig.device.grant(buffer.range(), Direction::Bidirectional);
        let phys = DmaAddr::new(buffer.range().start().raw());
        rig.device.read(phys, &mut bytes).unwrap();
    }
}

#[test]
fn a_stream_goes_from_one_context_to_another_without_a_stop() {
    for seed in 0..16 {
        let rig = Rig::new(seed, Shape::default());
        let driver = rig.driver();
        let domains = [0, 1].map(|_| rig.domain(&driver, Mutant::Nothing));
        let buffers = [0, 1].map(|node| rig.buffer(64 << 10, node));
        let mut at = [DmaAddr::new(0); 2];
        for index in 0..2 {
            let run = buffers[index].range();
            let mapped = rig.map(
                &domains[index],
                &[run],
                Permissions::READ_WRITE,
                DmaMask::ALL,
            );
            at[index] = DmaAddr::new(mapped.range().start().raw());
        }
        assert_eq!(at[0], at[1], "the same addresses in both");
        for round in 0..8 {
            let transfer = rig.device.start_write(at[0], &[1; 4096]);
            let context = domains[round % 2].hardware().inner.context();
            driver.attach(STREAM, context).unwrap();
            rig.device.complete(transfer).unwrap();
            // What comes after goes where it should.
            let mark = [round as u8 + 2; 64];
            rig.device.write(at[0], &mark).unwrap();
            let mut bytes = [0; 64];
            assert!(
                rig.machine
                    .peek(buffers[round % 2].range().start(), &mut bytes)
            );
            assert_eq!(bytes, mark, "seed {seed}, round {round}");
        }
        assert_eq!(faults(&driver), [], "seed {seed}");
    }
}

#[test]
fn queues_and_tables_lie_on_the_node_that_was_asked_for() {
    let mut shape = Shape::default();
    shape.driver.node = Some(NodeId::new(1));
    let rig = Rig::new(1, shape);
    let driver = rig.driver();
    let given = rig.memory.outstanding();
    assert!(given.len() >= 4, "{given:?}");
    assert!(given.iter().all(|given| given.node == NodeId::new(1)));
    driver.stop().unwrap();
}

#[test]
fn cpus_that_fill_one_small_queue_lose_no_command() {
    const CPUS: u32 = 4;
    let mut shape = Shape::default();
    shape.smmu.ranges = false;
    let rig = Rig::new(1, shape);
    let driver = rig.driver();
    let before = driver.command_counts();
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (driver, machine) = (&driver, &rig.machine);
            scope.spawn(move || {
                machine.on_cpu(CpuId::new(cpu), || {
                    for round in 0..50 {
                        // More than the ring holds at once, and one that stops it.
                        let mut commands = vec![command::tlbi_nh_asid(7); 40];
                        commands[round % 40] = [0xfe, 0];
                        driver.execute(commands).unwrap();
                    }
                });
            });
        }
    });
    let after = driver.command_counts();
    let syncs = after.syncs - before.syncs;
    let commands = u64::from(CPUS) * 50 * 40;
    assert_eq!(after.commands - before.commands - syncs, commands);
    assert!(syncs <= u64::from(CPUS) * 50, "syncs are shared: {syncs}");
    // All but the illegal ones, which a sync replaced.
    assert_eq!(after.refused, u64::from(CPUS) * 50);
    assert_eq!(rig.smmu.consumed(0x11), u64::from(CPUS) * 50 * 39);
}

#[test]
fn addresses_of_52_bits_lead_to_memory_and_not_to_what_has_their_lower_48() {
    for stage in [Stage::One, Stage::Two] {
        let rig = Rig::new(3, wide(stage));
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        for given in rig.memory.outstanding() {
            assert_eq!(given.range.start().raw() >> 48, 0xd, "{given}");
        }
        let buffer = rig.buffer(1 << 20, 1);
        let run = [buffer.range()];
        let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
        let iova = mapped.range().start().raw();
        assert_eq!(iova >> 48, 0xf, "from the top of 52 bits");
        rig.device
            .write(DmaAddr::new(iova + 0x8_0040), &[7; 64])
            .unwrap();
        let mut bytes = [0; 64];
        let at = buffer.range().slice(0x8_0040, 64).unwrap().start();
        assert!(rig.machine.peek(at, &mut bytes));
        assert_eq!(bytes, [7; 64]);
        let below = rig
            .device
            .write(DmaAddr::new(iova & ((1 << 48) - 1)), &[8; 64]);
        assert!(below.is_err(), "nothing is mapped there");
        assert!(!faults(&driver).is_empty());
    }
}
