//! What depends on QEMU's release: tried where the SMMU has it, else said why not.

mod rig;

use dmakit_addr::Granule;
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::Stage;
use dmakit_iommu::FaultReason;
use dmakit_platform::Mmio;
use dmakit_qemu::Version;
use dmakit_qemu::smmu::Part;
use dmakit_smmuv3::Features;
use dmakit_smmuv3::spec::registers::{CR0, CR0_SMMUEN, GBPA, GBPA_ABORT, GBPA_UPDATE};
use rig::{EDU, RAM, Rig, faults, rig};

/// Whether the SMMU has a part. Prints why not; a release that is known to have it must.
fn has(rig: &Rig, part: Part) -> bool {
    let features = Features::probe(&rig.regs()).unwrap();
    let (version, name) = (rig.machine.version(), part.name());
    let Some(why) = part.missing(version, &features) else {
        return true;
    };
    println!("skipped: {name}: {why}");
    assert!(part.since().is_none_or(|since| version < since), "{why}");
    false
}

/// What is mapped is reached, what is not faults, by the tables of a stage.
fn leads_where_it_says(rig: &Rig, stage: Stage) {
    let smmu = rig.smmu();
    let domain = rig.domain_of_stage(&smmu, stage, Granule::K4, 1);
    let context = domain.hardware().context();
    smmu.attach(EDU.raw().into(), context).unwrap();
    rig.arm(&domain, 0x5a);
    let frame = rig.frame(2, 0xee).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let iova = mapped.range().start().raw();
    rig.transfer(iova, 64, false);
    assert_eq!(faults(&smmu), [], "{stage:?}");
    assert_eq!(rig.first(2), [0x5a; 64], "{stage:?}");
    rig.unmap(&domain, mapped);
    rig.frame(2, 0xee);
    rig.transfer(iova, 64, false);
    let seen = faults(&smmu);
    assert!(
        seen.iter()
            .all(|fault| fault.reason == FaultReason::Unmapped)
    );
    assert!(!seen.is_empty() && rig.first(2) == [0xee; 64], "{stage:?}");
    smmu.detach(EDU.raw().into()).unwrap();
    rig.close(&smmu, domain);
    smmu.stop().unwrap();
}

#[test]
fn both_stages_lead_where_they_say_where_there_are_two() {
    let rig = rig();
    leads_where_it_says(&rig, Stage::One);
    if has(&rig, Part::Stage2) {
        leads_where_it_says(&rig, Stage::Two);
    }
}

#[test]
fn what_passes_an_smmu_that_is_off_is_aborted_where_it_can_be() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    rig.arm(&domain, 0x5a);
    drop(domain);
    smmu.stop().unwrap();
    let regs = rig.regs();
    assert_eq!(regs.read32(CR0) & CR0_SMMUEN, 0);
    regs.write32(GBPA, GBPA_UPDATE | GBPA_ABORT);
    rig.frame(2, 0xee);
    rig.transfer(RAM + 0x2000, 64, false);
    let is_aborted = rig.first(2) == [0xee; 64];
    assert!(is_aborted || rig.first(2) == [0x5a; 64]);
    if has(&rig, Part::AbortWhileOff) {
        assert!(is_aborted);
    } else if rig.machine.version() == Version::OLDEST {
        assert!(!is_aborted, "then the gap of a take-over can be shown here");
    }
}

#[test]
fn substreams_are_opened_where_there_are_any() {
    let rig = rig();
    let smmu = rig.smmu();
    let opened = smmu.open_substreams(EDU.raw().into(), 1, false);
    assert_eq!(opened.is_ok(), has(&rig, Part::Substreams));
}
