//! A full ring, an illegal command, and another CPU at the worst moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dmakit_platform::Mmio;
use dmakit_smmuv3::Tag;
use dmakit_smmuv3::spec::command;
use dmakit_smmuv3::spec::registers::{GERROR, GERRORN};

use crate::intruder::intruded;
use crate::rig::{Rig, Shape};

const DONE: u32 = 0;
const ARMED: u32 = 1;
const NEXT: u32 = 2;

#[test]
fn room_is_looked_for_anew_after_others_had_the_queue() {
    for seed in 0..400 {
        let rig = Rig::new(seed, Shape::default());
        let state = Arc::new(AtomicU32::new(DONE));
        let moment = state.clone();
        // Another CPU fills the ring when errors are read once more after one was seen: the queue was
        // let go of then, so that the illegal command can be replaced.
        let driver = intruded(
            &rig,
            move |smmu, offset, value| {
                if offset != GERROR {
                    return false;
                }
                let before = moment.load(Ordering::Relaxed);
                let is_stopped = (value ^ smmu.read32(GERRORN)) & 1 != 0;
                if before == ARMED && is_stopped {
                    moment.store(NEXT, Ordering::Relaxed);
                }
                let comes = before == NEXT;
                if comes {
                    moment.store(DONE, Ordering::Relaxed);
                }
                comes
            },
            |driver| (0..64).for_each(|_| driver.invalidate_all(Tag::Asid(1)).unwrap()),
        );
        let before = rig.smmu.consumed(0x30);
        // The ring is full behind a command at which the SMMU stops.
        let mut commands = vec![command::TLBI_NSNH_ALL; 65];
        commands[0] = [0xfe, 0];
        state.store(ARMED, Ordering::Relaxed);
        driver.execute(commands).unwrap();
        assert_eq!(state.load(Ordering::Relaxed), DONE, "the moment came");
        assert_eq!(rig.smmu.consumed(0x11), 64, "seed {seed}");
        assert_eq!(rig.smmu.consumed(0x30) - before, 64, "seed {seed}");
    }
}
