//! Writes that are in flight when their mapping ends.

use dmakit::addr::{Attributes, Bidirectional, DmaAddr};
use dmakit::dma::{Debt, DeviceInfo};
use dmakit::platform::{CpuBuffer, Platform};

use crate::rig::{Around, Rig, Strict, TestDevice, bytes_of};

const NONE: Attributes = Attributes::NONE;
const SEEDS: u64 = 200;
const OLD: u8 = 0x11;
const NEW: u8 = 0x22;

/// Maps a buffer, lets `act` use it at the address that it gets, and ends it.
fn round(
    device: &TestDevice<'_, Strict<'_>>,
    around: &mut Around,
    is_linked: bool,
    act: impl FnOnce(DmaAddr),
) -> Debt<CpuBuffer> {
    let buffer = around.take();
    if !is_linked {
        let mapping = device.map::<Bidirectional>(buffer, NONE).unwrap();
        act(mapping.dma_addr());
        return device.unmap(mapping).unwrap();
    }
    let run = around.run;
    let request = device.reserve::<Bidirectional>(run.start(), run.len(), 1, NONE);
    let mut request = request.unwrap();
    device.link(&mut request, run, &buffer).unwrap();
    let sealed = device.seal(request).unwrap();
    act(sealed.segment().unwrap().addr);
    let none = core::iter::empty();
    device.destroy(sealed, buffer, none).unwrap()
}

/// How many late writes landed of those to the first line of a buffer: whichever did is in the memory
/// that the CPU gets back, and whichever did not is not.
fn landed(build: fn(u64) -> Rig, info: fn(&Rig) -> DeviceInfo<'static>, is_linked: bool) -> u64 {
    let mut landed = 0;
    for seed in 0..SEEDS {
        let rig = build(seed);
        let domain = rig.strict();
        let device = rig.device(info(&rig), &domain);
        let mut around = rig.buffer(0x1800, 0x800, OLD);
        let mut late = None;
        let debt = round(&device, &mut around, is_linked, |addr| {
            late = Some(rig.sim.start_write(addr, &[NEW; 64]));
        });
        // Meanwhile the CPU fetches lines that nobody asked it for.
        rig.machine.disturb();
        let proof = device.sync().unwrap();
        let has_landed = rig.sim.complete(late.unwrap()).is_ok();
        landed += u64::from(has_landed);
        let buffer = device.redeem(debt, &proof).unwrap();
        let first = if has_landed { NEW } else { OLD };
        assert_eq!(bytes_of(&buffer)[..64], [first; 64], "seed {seed}");
        rig.driver.take_events(|_| ());
        device.remove().unwrap();
        rig.close(domain);
    }
    landed
}

#[test]
fn what_was_translated_in_time_is_in_the_memory_and_nothing_else_is() {
    for build in [Rig::coherent, Rig::non_coherent] {
        for info in [Rig::info, Rig::untrusted] {
            for is_linked in [false, true] {
                let landed = landed(build, info, is_linked);
                assert!(0 < landed && landed < SEEDS, "{landed} of {SEEDS}");
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drop {
    BeforeSync,
    AfterSync,
}

/// How many late writes past the CPU's caches it does not see, where it drops its lines by itself.
fn unseen(drop: Drop) -> u64 {
    let mut unseen = 0;
    for seed in 0..SEEDS {
        let rig = Rig::non_coherent(seed);
        let domain = rig.strict();
        let device = rig.device(rig.info(), &domain);
        let mut around = rig.buffer(4096, 0, OLD);
        let run = around.run;
        rig.machine.clean_invalidate(run);
        let mapping = device.map::<Bidirectional>(around.take(), Attributes::SKIP_CPU_SYNC);
        let mapping = mapping.unwrap();
        let late = rig.sim.start_write(mapping.dma_addr(), &[NEW; 64]);
        let debt = device.unmap(mapping).unwrap();
        if drop == Drop::BeforeSync {
            rig.machine.invalidate(run);
            rig.machine.disturb();
        }
        let proof = device.sync().unwrap();
        if drop == Drop::AfterSync {
            rig.machine.invalidate(run);
        }
        let buffer = device.redeem(debt, &proof).unwrap();
        let seen = bytes_of(&buffer)[0];
        let has_landed = rig.sim.complete(late).is_ok();
        unseen += u64::from(has_landed && seen != NEW);
        rig.driver.take_events(|_| ());
        device.remove().unwrap();
        rig.close(domain);
    }
    unseen
}

#[test]
fn lines_dropped_before_hardware_forgot_hide_what_lands_after() {
    assert!(unseen(Drop::BeforeSync) > 0);
    assert_eq!(unseen(Drop::AfterSync), 0);
}

/// Nothing ties a write that has not been translated to the mapping for which it was meant.
#[test]
fn what_was_not_translated_in_time_goes_where_its_address_leads_then() {
    let mut strayed = 0;
    for seed in 0..SEEDS {
        let rig = Rig::coherent(seed);
        let domain = rig.strict();
        let device = rig.device(rig.untrusted(), &domain);
        let [mut one, mut other] = [OLD; 2].map(|byte| rig.buffer(0x1800, 0x800, byte));
        let (mut late, mut was) = (None, None);
        let debt = round(&device, &mut one, false, |addr| {
            late = Some(rig.sim.start_write(addr, &[NEW; 64]));
            was = Some(addr);
        });
        assert_eq!(debt.since(), None, "edges are synced for at once");
        let proof = device.sync().unwrap();
        let first = device.redeem(debt, &proof).unwrap();
        let in_time = bytes_of(&first)[..64] == [NEW; 64];
        let mut result = None;
        let debt = round(&device, &mut other, false, |addr| {
            assert_eq!(Some(addr), was, "the address is free again");
            result = late.take().map(|late| rig.sim.complete(late));
        });
        let second = device.redeem(debt, &device.sync().unwrap()).unwrap();
        let is_there = bytes_of(&second)[..64] == [NEW; 64];
        let has_landed = result.is_some_and(|result| result.is_ok());
        assert_eq!(
            u64::from(in_time) + u64::from(is_there),
            u64::from(has_landed),
            "seed {seed}"
        );
        strayed += u64::from(is_there);
        rig.driver.take_events(|_| ());
        device.remove().unwrap();
        rig.close(domain);
    }
    assert!(0 < strayed && strayed < SEEDS, "{strayed} of {SEEDS}");
}
