//! A stack with one step missing must be found out.

use dmakit_addr::{DmaAddr, DmaMask};
use dmakit_io_pgtable::Permissions;
use dmakit_platform::Mmio;
use dmakit_sim::{SimSmmu, SmmuConfig};
use dmakit_smmuv3::spec::command;

use crate::rig::{Mutant, Rig, STREAM, Shape};

const ROUNDS: u64 = 300;
const SEEDS: u64 = 6;

fn is_killed_on_every_seed(mutant: Mutant) {
    for seed in 0..SEEDS {
        let done = Rig::new(seed, Shape::default()).rounds(mutant, ROUNDS);
        assert!(done < ROUNDS, "{mutant:?} survives seed {seed}");
    }
}

#[test]
fn unmapping_without_invalidation_is_found() {
    is_killed_on_every_seed(Mutant::NoInvalidation);
}

#[test]
fn redeeming_without_a_sync_is_found() {
    is_killed_on_every_seed(Mutant::NoSync);
}

#[test]
fn redeeming_by_an_older_sync_is_found() {
    is_killed_on_every_seed(Mutant::EarlyRedemption);
}

#[test]
fn forgetting_only_leaves_when_a_table_was_freed_is_found() {
    is_killed_on_every_seed(Mutant::LeafOnly);
}

#[test]
fn a_wrong_level_is_found() {
    is_killed_on_every_seed(Mutant::WrongLevel);
}

/// Registers behind which the command queue's index runs one ahead of its commands.
#[derive(Clone)]
struct Eager(SimSmmu);

impl Mmio for Eager {
    fn read32(&self, offset: u64) -> u32 {
        self.0.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.0.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        let is_producer = offset == 0x98 && value != 0;
        self.0.write32(offset, value + u32::from(is_producer));
    }

    fn write64(&self, offset: u64, value: u64) {
        self.0.write64(offset, value);
    }
}

#[test]
fn publishing_a_command_before_it_is_there_is_found() {
    let rig = Rig::new(1, Shape::default());
    let started = dmakit_smmuv3::Smmu::start(
        rig.machine.clone(),
        Eager(rig.smmu.clone()),
        rig.memory.clone(),
        rig.shape.driver,
    );
    let found = started.map_or(true, |driver| {
        let forgets = (0..48).map(|_| driver.execute([command::tlbi_nh_asid(1)]));
        let failed = forgets.filter(Result::is_err).count();
        failed > 0 || driver.command_counts().refused > 0
    });
    assert!(found);
}

/// Uses every ASID twice, and never invalidates an address: how often a device reached what an
/// earlier life of one had mapped.
fn stale_hits_of_earlier_lives(ignored: Option<u8>) -> u64 {
    let shape = Shape {
        smmu: SmmuConfig {
            wide_tags: false,
            ..SmmuConfig::default()
        },
        ..Shape::default()
    };
    let rig = Rig::new(2, shape);
    let driver = rig.driver();
    if let Some(opcode) = ignored {
        rig.smmu.ignore(opcode);
    }
    let frame = rig.buffer(4096, 0);
    let run = [frame.range()];
    let mut stale = 0;
    let mut at = DmaAddr::new(0);
    for life in 0..2 * 255 {
        let domain = rig.domain(&driver, Mutant::NoInvalidation);
        if life < 255 {
            let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
            at = DmaAddr::new(mapped.range().start().raw());
            rig.device.write(at, &[1; 64]).unwrap();
            let ticket = domain.unmap(mapped).unwrap();
            rig.redeem(&domain, ticket, &run);
        } else {
            stale += u64::from(rig.device.write(at, &[2; 64]).is_ok());
        }
        driver.detach(STREAM).unwrap();
        let Ok((hardware, _table)) = domain.close() else {
            panic!("the domain has debts");
        };
        driver
            .release_context(hardware.inner.into_context())
            .unwrap();
    }
    stale
}

#[test]
fn a_tag_used_again_before_it_was_forgotten_is_found() {
    assert_eq!(stale_hits_of_earlier_lives(None), 0);
    assert!(stale_hits_of_earlier_lives(Some(0x11)) > 0);
}

#[test]
fn an_entry_changed_without_telling_is_found() {
    // (command that does nothing, whether a device still reaches what it was detached from)
    for (ignored, expected) in [(None, false), (Some(0x03), true)] {
        let mut shape = Shape::default();
        shape.smmu.messages = false;
        let rig = Rig::new(4, shape);
        let driver = rig.driver();
        let domain = rig.domain(&driver, Mutant::Nothing);
        let frame = rig.buffer(4096, 0);
        let run = [frame.range()];
        let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
        let at = DmaAddr::new(mapped.range().start().raw());
        rig.device.write(at, &[1; 64]).unwrap();
        if let Some(opcode) = ignored {
            rig.smmu.ignore(opcode);
        }
        driver.detach(STREAM).unwrap();
        assert_eq!(rig.device.write(at, &[1; 64]).is_ok(), expected);
    }
}
