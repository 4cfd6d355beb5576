//! Every shape of hardware and tables, with a stack that does nothing wrong.

use dmakit_addr::{Direction, DmaAddr, DmaMask, Granule};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::{ContiguousHint, Stage};
use dmakit_iommu::FaultReason;
use dmakit_sim::SmmuConfig;
use dmakit_smmuv3::{Config, Tag};

use crate::rig::{Mutant, Rig, STREAM, Shape, faults};

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
    let rounds: u64 = std::env::var("DMAKIT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(300);
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
fn costs_of_map_and_unmap_are_those_of_the_table_in_the_documents() {
    for (len, commands) in [(4 << 10, 1), (64 << 10, 1), (1 << 20, 1), (2 << 20, 1)] {
        let rig = Rig::new(5, Shape::default());
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let buffer = rig.buffer(2 << 20, 0);
        let run = buffer.range().slice(0, len).unwrap();
        // Tables are there.
        for _ in 0..2 {
            let before = driver.command_counts();
            let mapped = rig.map(&domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
            let between = driver.command_counts();
            assert_eq!(
                between.commands, before.commands,
                "mapping asks for nothing"
            );
            let ticket = domain.unmap(mapped).unwrap();
            rig.redeem(&domain, ticket, &[run]);
            let after = driver.command_counts();
            assert_eq!(after.syncs - before.syncs, 1, "{len:#x}");
            assert_eq!(after.doorbells - before.doorbells, 1, "{len:#x}");
            assert_eq!(after.commands - before.commands, commands + 1, "{len:#x}");
        }
    }
}
