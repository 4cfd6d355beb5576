//! Many contexts behind one stream, in linear and in two-level tables of descriptors.

use dmakit_addr::{DmaAddr, DmaMask};
use dmakit_io_pgtable::Permissions;
use dmakit_iommu::FaultReason;
use dmakit_sim::{DeviceConfig, SimDevice, SmmuConfig};
use dmakit_smmuv3::{AttachError, ReleaseFailure};

use crate::rig::{Mutant, Rig, STREAM, Shape, faults};

/// Substreams in different tables of 64, and in one.
const NUMBERS: [u32; 4] = [1, 5, 70, 200];

fn shapes() -> [(Shape, bool); 4] {
    let plain = Shape::default();
    let with = |smmu| Shape { smmu, ..plain };
    let smmu = SmmuConfig::default();
    let not_coherent = SmmuConfig {
        coherent: false,
        ..smmu
    };
    let one_level = SmmuConfig {
        two_level_contexts: false,
        ..smmu
    };
    [
        (plain, true),
        (plain, false),
        (with(not_coherent), true),
        (with(one_level), true),
    ]
}

fn device(rig: &Rig, substream: u32) -> SimDevice {
    let config = DeviceConfig::new().coherent(true);
    let config = config.stream(rig.smmu.id(), STREAM).substream(substream);
    rig.machine.add_device(config)
}

#[test]
fn each_substream_sees_its_own_memory_at_the_same_address() {
    for (shape, two_levels) in shapes() {
        for seed in 0..8 {
            separate(seed, shape, two_levels);
        }
    }
}

fn separate(seed: u64, shape: Shape, two_levels: bool) {
    let rig = Rig::new(seed, shape);
    let driver = rig.driver();
    let before = rig.memory.outstanding().len();
    let mut table = driver.open_substreams(STREAM, 8, two_levels).unwrap();
    let can = shape.smmu.two_level_contexts;
    assert_eq!(table.has_two_levels(), two_levels && can);
    let devices = NUMBERS.map(|number| device(&rig, number));
    let domains = NUMBERS.map(|_| rig.detached_domain(&driver, Mutant::Nothing));
    let buffers = NUMBERS.map(|_| rig.buffer(4096, 0));
    let mapped = [0, 1, 2, 3].map(|at| {
        let run = [buffers[at].range()];
        rig.map(&domains[at], &run, Permissions::READ_WRITE, DmaMask::ALL)
    });
    let target = DmaAddr::new(mapped[0].range().start().raw());
    for at in 0..NUMBERS.len() {
        assert_eq!(mapped[at].range(), mapped[0].range());
        let run = buffers[at].range();
        devices[at].grant(run, dmakit_addr::Direction::Bidirectional);
        assert!(
            devices[at].write(target, &[1; 64]).is_err(),
            "not attached yet"
        );
        let context = domains[at].hardware().inner.context();
        driver
            .set_substream(&mut table, NUMBERS[at], Some(context))
            .unwrap();
        let mark = [at as u8 + 1; 64];
        devices[at].write(target, &mark).unwrap();
        let mut bytes = [0; 64];
        assert!(rig.machine.peek(run.start(), &mut bytes));
        assert_eq!(bytes, mark, "seed {seed}, substream {}", NUMBERS[at]);
    }
    // Not attached: a record with its number, and nothing else.
    let mut seen = std::collections::BTreeSet::new();
    driver.take_events(|event| seen.extend([event.substream]));
    assert!(seen.iter().eq(NUMBERS.map(Some).iter()), "{seen:?}");
    assert!(rig.device.write(target, &[9; 64]).is_err(), "number 0");
    assert!(!faults(&driver).is_empty());
    // From one context to another, and to none.
    let context = domains[1].hardware().inner.context();
    driver
        .set_substream(&mut table, NUMBERS[0], Some(context))
        .unwrap();
    devices[0].grant(buffers[1].range(), dmakit_addr::Direction::Bidirectional);
    devices[0].write(target, &[0x77; 64]).unwrap();
    let mut bytes = [0; 64];
    assert!(rig.machine.peek(buffers[1].range().start(), &mut bytes));
    assert_eq!(bytes, [0x77; 64], "seed {seed}");
    driver.set_substream(&mut table, NUMBERS[0], None).unwrap();
    assert!(
        devices[0].write(target, &[0x99; 64]).is_err(),
        "a stale hit"
    );
    assert_eq!(faults(&driver)[0].reason, FaultReason::Device);
    driver.close_substreams(table).unwrap();
    assert!(
        devices[1].write(target, &[0x99; 64]).is_err(),
        "a stale hit"
    );
    assert_eq!(rig.machine.take_violations().total, 0);
    let kept = rig.memory.outstanding().len();
    // The part of the stream table that has the stream stays, and what the contexts use.
    assert!(kept > before);
    for ((domain, mapped), buffer) in domains.into_iter().zip(mapped).zip(&buffers) {
        let ticket = domain.unmap(mapped).unwrap();
        rig.redeem(&domain, ticket, &[buffer.range()]);
        let Ok((hardware, table)) = domain.close() else {
            panic!("the domain has debts");
        };
        driver
            .release_context(hardware.inner.into_context())
            .unwrap();
        drop(table);
    }
    buffers
        .into_iter()
        .for_each(|buffer| rig.memory.free(buffer));
    assert_eq!(rig.memory.outstanding().len(), before + 1, "seed {seed}");
}

#[test]
fn what_substreams_use_is_not_released_and_their_stream_is_not_attached_anew() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    let domain = rig.detached_domain(&driver, Mutant::Nothing);
    let mut table = driver.open_substreams(STREAM, 7, true).unwrap();
    let context = domain.hardware().inner.context();
    driver
        .set_substream(&mut table, 100, Some(context))
        .unwrap();
    let busy = AttachError::Substreams { stream: STREAM };
    assert_eq!(driver.attach(STREAM, context), Err(busy));
    assert_eq!(driver.open_substreams(STREAM, 7, true).err(), Some(busy));
    let unknown = driver.set_substream(&mut table, 128, None);
    let (substream, bits) = (128, 7);
    assert_eq!(
        unknown,
        Err(AttachError::UnknownSubstream { substream, bits })
    );
    let Ok((hardware, _table)) = domain.close() else {
        panic!("the domain has debts");
    };
    let refused = driver.release_context(hardware.inner.into_context());
    let Err(ReleaseFailure::InUse { context, stream }) = refused else {
        panic!("released under a substream: {refused:?}");
    };
    assert_eq!(stream, STREAM);
    driver.close_substreams(table).unwrap();
    driver.release_context(context).unwrap();
}

#[test]
fn a_descriptor_that_the_smmu_was_not_told_to_forget_is_seen_as_a_stale_hit() {
    let rig = Rig::new(1, Shape::default());
    let driver = rig.driver();
    let domain = rig.detached_domain(&driver, Mutant::Nothing);
    let (device, buffer) = (device(&rig, 3), rig.buffer(4096, 0));
    let mut table = driver.open_substreams(STREAM, 8, true).unwrap();
    let context = domain.hardware().inner.context();
    driver.set_substream(&mut table, 3, Some(context)).unwrap();
    let run = [buffer.range()];
    let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
    device.grant(buffer.range(), dmakit_addr::Direction::Bidirectional);
    let target = DmaAddr::new(mapped.range().start().raw());
    device.write(target, &[1; 64]).unwrap();
    // CMD_CFGI_CD.
    rig.smmu.ignore(0x05);
    driver.set_substream(&mut table, 3, None).unwrap();
    assert!(device.write(target, &[2; 64]).is_ok());
}
