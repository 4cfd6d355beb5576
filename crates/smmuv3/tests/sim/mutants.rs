//! A stack with one step missing must be found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{DmaAddr, DmaMask};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::Stage;
use dmakit_platform::Mmio;
use dmakit_sim::{SimSmmu, SmmuConfig};
use dmakit_smmuv3::Tag;
use dmakit_smmuv3::spec::registers::CMDQ_PROD;

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

/// Registers behind which the command queue's index runs one ahead of its commands, once it is told
/// to.
#[derive(Clone)]
struct Eager {
    inner: SimSmmu,
    is_ahead: Arc<AtomicBool>,
}

impl Mmio for Eager {
    fn read32(&self, offset: u64) -> u32 {
        self.inner.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.inner.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        let is_ahead = offset == CMDQ_PROD && self.is_ahead.load(Ordering::Relaxed);
        let index = value + u32::from(is_ahead);
        // Six bits of a ring of 64, and the one that says how often round.
        let index = if offset == CMDQ_PROD {
            index & 0x7f
        } else {
            index
        };
        self.inner.write32(offset, index);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.inner.write64(offset, value);
    }
}

/// An SMMU that is told of a command before it is there takes what the slot held before, which is as
/// legal: no error says so, and what was to be forgotten is not.
#[test]
fn publishing_a_command_before_it_is_there_is_found_by_what_it_breaks() {
    for seed in 0..SEEDS {
        let rig = Rig::new(seed, Shape::default());
        let (inner, is_ahead) = (rig.smmu.clone(), Arc::<AtomicBool>::default());
        let driver = rig.driver_over(Eager {
            inner,
            is_ahead: is_ahead.clone(),
        });
        let domain = rig.domain(&driver, Mutant::Nothing);
        let frame = rig.buffer(4096, 0);
        let run = [frame.range()];
        let is_stale = |()| {
            let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
            let at = DmaAddr::new(mapped.range().start().raw());
            rig.device.write(at, &[1; 64]).unwrap();
            let ticket = domain.unmap(mapped).unwrap();
            rig.redeem(&domain, ticket, &run);
            rig.device.write(at, &[2; 64]).is_ok()
        };
        // Once round the ring and more, so that every slot has had a command.
        assert!(![(); 64].into_iter().any(is_stale), "seed {seed}");
        is_ahead.store(true, Ordering::Relaxed);
        assert!([(); 16].into_iter().any(is_stale), "seed {seed}");
        assert_eq!(driver.command_counts().refused, 0, "seed {seed}");
    }
}

/// Uses every ASID, or VMID, twice, and never invalidates an address: how often a device reached
/// what an earlier life of one had mapped.
fn stale_hits_of_earlier_lives(stage: Stage, ignored: Option<u8>) -> u64 {
    let shape = Shape {
        stage,
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
    for life in 0..2 * 255_u16 {
        let domain = rig.domain(&driver, Mutant::NoInvalidation);
        let number = life % 255 + 1;
        let tag = match stage {
            Stage::One => Tag::Asid(number),
            Stage::Two => Tag::Vmid(number),
        };
        assert_eq!(domain.hardware().inner.context().tag(), tag);
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
    for (stage, forget) in [(Stage::One, 0x11), (Stage::Two, 0x28)] {
        assert_eq!(stale_hits_of_earlier_lives(stage, None), 0);
        assert!(stale_hits_of_earlier_lives(stage, Some(forget)) > 0);
    }
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

#[test]
fn a_new_table_of_streams_of_which_the_smmu_knows_that_it_was_not_there_is_found() {
    // As if only the entry were to be forgotten (Leaf), and not what leads to its table.
    let only_entry = |[low, high]: [u64; 2]| [low, high | 1];
    for (is_mutant, seed) in [(false, 5), (true, 5), (false, 6), (true, 6)] {
        let rig = Rig::new(seed, Shape::default());
        let driver = rig.driver();
        let nowhere = rig.device.write(DmaAddr::new(0x1000), &[1; 64]);
        assert!(nowhere.is_err(), "it has looked for the stream's table");
        if is_mutant {
            rig.smmu.misread(0x03, only_entry);
        }
        let domain = rig.domain(&driver, Mutant::Nothing);
        let frame = rig.buffer(4096, 0);
        let run = [frame.range()];
        let mapped = rig.map(&domain, &run, Permissions::READ_WRITE, DmaMask::ALL);
        let at = DmaAddr::new(mapped.range().start().raw());
        assert_eq!(rig.device.write(at, &[1; 64]).is_err(), is_mutant);
    }
}
