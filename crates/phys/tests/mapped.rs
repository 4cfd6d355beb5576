//! Frames that move while a device writes to them: no byte is lost, whatever step fails.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use dmakit_addr::{Pfn, PfnRange};
use dmakit_phys::{CpuMappings, DeviceMappings, Refusal, migrate_mapped};

/// A frame holds one word for each of two writers; a device and a processor write whenever they
/// can, each the next number.
struct World {
    frames: RefCell<BTreeMap<u64, [u32; 2]>>,
    /// Where the device's entry leads, and whether it may be written through.
    entry: Cell<(u64, bool)>,
    page: Cell<(u64, bool)>,
    /// The last numbers that landed.
    landed: Cell<[u32; 2]>,
    /// Which step fails, counted over both sides.
    fails: Option<u32>,
    step: Cell<u32>,
}

const DEVICE: usize = 0;
const PROCESSOR: usize = 1;

fn frame(number: u64) -> PfnRange {
    PfnRange::new(Pfn::new(number), 1).unwrap()
}

impl World {
    fn new(fails: Option<u32>) -> Self {
        Self {
            frames: RefCell::new(BTreeMap::from([(1, [0, 0]), (2, [0, 0])])),
            entry: Cell::new((1, true)),
            page: Cell::new((1, true)),
            landed: Cell::default(),
            fails,
            step: Cell::default(),
        }
    }

    /// Both write, as far as they are let, and the processor sees all that landed.
    fn run(&self) {
        let mut landed = self.landed.get();
        let writers = [(DEVICE, self.entry.get()), (PROCESSOR, self.page.get())];
        for (writer, (at, writable)) in writers {
            if writable {
                landed[writer] += 1;
                self.frames.borrow_mut().get_mut(&at).unwrap()[writer] = landed[writer];
            }
        }
        self.landed.set(landed);
        assert_eq!(
            self.frames.borrow()[&self.page.get().0],
            landed,
            "a write is lost"
        );
    }

    fn may_fail(&self) -> Result<(), Refusal> {
        self.run();
        let step = self.step.get();
        self.step.set(step + 1);
        if self.fails == Some(step) {
            return Err(Refusal::Busy);
        }
        Ok(())
    }
}

impl DeviceMappings for World {
    type Quiesced = ();

    fn quiesce(&self, frames: PfnRange) -> Result<(), Refusal> {
        self.may_fail()?;
        assert_eq!(frames, frame(1));
        self.entry.set((1, false));
        self.run();
        Ok(())
    }

    fn redirect(&self, _quiesced: &mut (), to: PfnRange) -> Result<(), Refusal> {
        self.may_fail()?;
        self.entry.set((to.start().raw(), false));
        self.run();
        Ok(())
    }

    fn resume(&self, _quiesced: ()) {
        self.run();
        self.entry.set((self.entry.get().0, true));
        self.run();
    }
}

impl CpuMappings for World {
    type Excluded = ();

    fn exclude_writers(&self, _frames: PfnRange) -> Result<(), Refusal> {
        self.may_fail()?;
        self.page.set((1, false));
        self.run();
        Ok(())
    }

    fn copy(&self, from: PfnRange, to: PfnRange) {
        self.run();
        let bytes = self.frames.borrow()[&from.start().raw()];
        self.frames.borrow_mut().insert(to.start().raw(), bytes);
        self.run();
    }

    fn redirect(&self, _excluded: (), to: PfnRange) {
        self.run();
        self.page.set((to.start().raw(), true));
        self.run();
    }

    fn readmit(&self, _excluded: ()) {
        self.run();
        self.page.set((1, true));
        self.run();
    }
}

#[test]
fn no_write_is_lost_at_any_step() {
    let world = World::new(None);
    migrate_mapped(&world, &world, frame(1), frame(2)).unwrap();
    world.run();
    assert_eq!(
        (world.entry.get(), world.page.get()),
        ((2, true), (2, true))
    );
    assert_eq!(world.frames.borrow()[&2], world.landed.get());
    assert!(world.landed.get().iter().all(|landed| *landed > 2));
}

#[test]
fn a_step_that_fails_leaves_both_sides_where_they_were() {
    for step in 0..3 {
        let world = World::new(Some(step));
        let refused = migrate_mapped(&world, &world, frame(1), frame(2));
        assert_eq!(refused, Err(Refusal::Busy));
        world.run();
        assert_eq!(
            (world.entry.get(), world.page.get()),
            ((1, true), (1, true))
        );
        assert_eq!(world.frames.borrow()[&1], world.landed.get());
    }
}

#[test]
#[should_panic(expected = "a write is lost")]
fn without_the_first_step_the_same_world_loses_a_write() {
    let world = World::new(None);
    world.copy(frame(1), frame(2));
    world.run();
    DeviceMappings::redirect(&world, &mut (), frame(2)).unwrap();
    CpuMappings::redirect(&world, (), frame(2));
}
