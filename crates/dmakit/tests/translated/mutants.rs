//! Stacks with one step missing, which must be found out; and the whole one, which must not.

use dmakit::addr::{Attributes, FromDevice};
use dmakit_sim::Rng;

use crate::rig::{BOTH, Mutant, Rig};

const NONE: Attributes = Attributes::NONE;
const ROUNDS: u64 = 300;
const SEEDS: u64 = 6;

/// How many rounds went well before a device reached what it should not have: pages and requests in
/// turn, each tried at its old address after it was redeemed.
fn rounds(seed: u64, mutant: Mutant) -> u64 {
    let rig = Rig::coherent(seed);
    let domain = rig.broken_domain(1 << 40, mutant);
    let device = rig.device(rig.info(), &domain);
    let mut rng = Rng::new(seed ^ 0x10c5);
    rig.sim.confine();
    let mut buffer = rig.buffer(4096, 0, 0).take();
    let run = buffer.runs().next().unwrap();
    for round in 0..ROUNDS {
        rig.sim.grant(run, BOTH);
        let (addr, debt) = if rng.chance(128) {
            let mapping = device.map::<FromDevice>(buffer, NONE).unwrap();
            let addr = mapping.dma_addr();
            rig.sim.write(addr, &[round as u8; 64]).unwrap();
            (addr, device.unmap(mapping).unwrap())
        } else {
            let mut request = device
                .reserve::<FromDevice>(run.start(), 4096, 1, NONE)
                .unwrap();
            device.link(&mut request, run, &buffer).unwrap();
            let sealed = device.seal(request).unwrap();
            let addr = sealed.segment().unwrap().addr;
            rig.sim.write(addr, &[round as u8; 64]).unwrap();
            let none = core::iter::empty();
            (addr, device.destroy(sealed, buffer, none).unwrap())
        };
        buffer = device.redeem(debt, &device.sync().unwrap()).unwrap();
        rig.sim.revoke(run, BOTH);
        let stale = rig.sim.write(addr, &[0x99; 64]).is_ok();
        rig.driver.take_events(|_| ());
        if stale || rig.machine.take_violations().total > 0 {
            return round;
        }
    }
    ROUNDS
}

#[test]
fn the_whole_stack_goes_well_on_every_seed() {
    for seed in 0..SEEDS {
        assert_eq!(rounds(seed, Mutant::Nothing), ROUNDS, "seed {seed}");
    }
}

#[test]
fn a_stack_with_a_step_missing_is_found_out_on_every_seed() {
    for mutant in [
        Mutant::NoSync,
        Mutant::EarlyRedemption,
        Mutant::NoInvalidation,
    ] {
        for seed in 0..SEEDS {
            assert!(
                rounds(seed, mutant) < ROUNDS,
                "{mutant:?} survives seed {seed}"
            );
        }
    }
}
