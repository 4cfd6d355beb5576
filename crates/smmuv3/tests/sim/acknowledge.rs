//! Two errors at once, each acknowledged by another CPU: what was read before is no ground to write. That both
//! are acknowledged under one lock, `tests/loom.rs` shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::DmaAddr;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::spec::registers::GERRORN;

use crate::intruder::intruded;
use crate::rig::{Mutant, Rig, Shape};

#[test]
fn a_lost_record_and_a_refused_command_are_acknowledged_each_once() {
    for seed in 0..16 {
        let rig = Rig::new(seed, Shape::default());
        let is_armed = Arc::new(AtomicBool::new(false));
        let armed = is_armed.clone();
        // Right after this CPU has read which errors were acknowledged, another meets an illegal command
        // and waits for its replacement.
        let driver = intruded(
            &rig,
            move |_, offset, _| offset == GERRORN && armed.swap(false, Ordering::Relaxed),
            |driver| driver.execute([[0xfe, 0]]).unwrap(),
        );
        let domain = rig.domain(&driver, Mutant::Nothing);
        rig.smmu.fail_record_write();
        assert!(rig.device.write(DmaAddr::new(0x10_0000), &[1; 64]).is_err());
        is_armed.store(true, Ordering::Relaxed);
        let count = driver.take_events(|_| ());
        assert!(count.lost, "seed {seed}");
        assert!(!is_armed.load(Ordering::Relaxed), "the moment came");
        // Neither is active any more: commands go on, and none is taken for refused.
        driver.execute([command::TLBI_NSNH_ALL]).unwrap();
        assert_eq!(driver.command_counts().refused, 1, "seed {seed}");
        assert_eq!(driver.take_events(|_| ()), Default::default());
        drop(domain);
    }
}
