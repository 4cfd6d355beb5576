//! Memory that moves under a request while its device writes to it.

use std::cell::{Cell, RefCell};

use dmakit::addr::{Address, Attributes, Bidirectional, DmaAddr, Iova, IovaRange, PfnRange};
use dmakit::dma::{Moving, PeerList, PeerMemory, Sealed, StaysPut, WithholdError};
use dmakit::io_pgtable::Gather;
use dmakit::iommu::{Hardware, Invalidation};
use dmakit::phys::{CpuMappings, DeviceMappings, Refusal, migrate_mapped};
use dmakit::platform::Segment;
use dmakit_sim::{Rng, Transfer};

use crate::rig::{Rig, Strict, TestDevice};

const NONE: Attributes = Attributes::NONE;
/// Frames that move together.
const BYTES: u64 = 0x4000;
/// Places of eight bytes that the device writes to, spread over the frames.
const SLOTS: usize = 64;

/// What the migration does for the device's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// As it should.
    Right,
    /// Entries are made invalid and hardware is told, and nobody waits until it has forgotten them.
    NoSync,
    /// It waits, and hardware was not told to forget.
    NoInvalidate,
    /// Entries lead to the new frames before they were invalid, after the copy.
    MakeBeforeBreak,
}

/// A device that writes to its slots whenever it can, each time the next number, and again what
/// faulted; and the processors' side, which nobody writes from.
struct World<'a> {
    rig: &'a Rig,
    domain: &'a Strict<'a>,
    device: &'a TestDevice<'a, Strict<'a>>,
    sealed: &'a Sealed<Bidirectional>,
    order: Order,
    addr: u64,
    /// Where the frames are, and where they may go.
    memory: RefCell<[Segment; 2]>,
    here: Cell<usize>,
    rng: RefCell<Rng>,
    flying: RefCell<Vec<Option<(u64, Transfer)>>>,
    landed: RefCell<Vec<u64>>,
    next: Cell<u64>,
    faults: Cell<u64>,
}

fn offset(slot: usize) -> u64 {
    slot as u64 * (BYTES / SLOTS as u64)
}

impl World<'_> {
    fn begin(&self, slot: usize, number: u64) {
        let at = DmaAddr::new(self.addr + offset(slot));
        let transfer = self.rig.sim.start_write(at, &number.to_le_bytes());
        self.flying.borrow_mut()[slot] = Some((number, transfer));
    }

    /// The device writes for a while.
    fn run(&self, steps: u32) {
        for _ in 0..steps {
            let slot = self.rng.borrow_mut().below(SLOTS as u64) as usize;
            self.step(slot);
            self.rig.machine.disturb();
        }
    }

    fn step(&self, slot: usize) {
        let flying = self.flying.borrow_mut()[slot].take();
        let Some((number, transfer)) = flying else {
            self.next.set(self.next.get() + 1);
            return self.begin(slot, self.next.get());
        };
        match self.rig.sim.complete(transfer) {
            Ok(_) => self.landed.borrow_mut()[slot] = number,
            Err(_) => {
                self.faults.set(self.faults.get() + 1);
                self.begin(slot, number);
            }
        }
    }

    /// Lets everything land, and counts the slots whose last number is not there.
    fn lost(&self) -> usize {
        for slot in 0..SLOTS {
            while self.flying.borrow()[slot].is_some() {
                self.step(slot);
            }
        }
        let memory = self.memory.borrow();
        let is_there = |slot: &usize| {
            let mut bytes = [0; 8];
            let whole = memory[self.here.get()].window();
            let part = whole.slice(offset(*slot), 8).unwrap();
            part.read(&mut bytes);
            u64::from_le_bytes(bytes) == self.landed.borrow()[*slot]
        };
        (0..SLOTS).filter(|slot| !is_there(slot)).count()
    }

    fn part(&self) -> IovaRange {
        let start = Iova::new(self.addr);
        IovaRange::new(start, BYTES).unwrap()
    }

    /// Clears the entries as the broken orders do.
    fn clear(&self) -> Gather {
        let mut gather = Gather::new();
        self.domain
            .table()
            .withhold(self.part(), &mut gather)
            .unwrap();
        gather
    }

    fn invalidate(&self) {
        let what = Invalidation {
            range: self.part(),
            granule: self.domain.space().granule(),
            leaf_height: Some(0),
            leaf_shift: Some(12),
            tables: false,
        };
        self.domain.hardware().invalidate(&what).unwrap();
    }

    fn forget(&self) {
        self.invalidate();
        self.domain.sync().unwrap();
    }
}

/// What is kept of a device that is kept out.
enum Out<'a> {
    Right(Moving<'a>),
    Broken { to: u64 },
}

impl<'a> DeviceMappings for World<'a> {
    type Quiesced = Out<'a>;

    fn quiesce(&self, _: PfnRange) -> Result<Out<'a>, Refusal> {
        self.run(8);
        let from = self.memory.borrow()[self.here.get()].range().start();
        let broken = Out::Broken { to: from.raw() };
        let out = match self.order {
            Order::Right => {
                let moving = self.device.withhold(self.sealed, 0, BYTES);
                Out::Right(moving.map_err(|reason| match reason {
                    StaysPut::Domain(WithholdError::Hardware(_)) => Refusal::Busy,
                    _ => Refusal::Pinned,
                })?)
            }
            Order::NoSync => {
                let _ = self.clear();
                self.invalidate();
                broken
            }
            Order::NoInvalidate => {
                let _ = self.clear();
                self.domain.sync().unwrap();
                broken
            }
            Order::MakeBeforeBreak => broken,
        };
        self.run(8);
        Ok(out)
    }

    fn redirect(&self, out: &mut Out<'a>, to: PfnRange) -> Result<(), Refusal> {
        self.run(8);
        let to = to.start().phys().unwrap();
        match out {
            Out::Right(moving) => moving.redirect(to).map_err(|_| Refusal::Pinned)?,
            Out::Broken { to: place } => {
                if self.order == Order::MakeBeforeBreak {
                    let from = self.memory.borrow()[self.here.get()].range().start();
                    let _ = self.clear();
                    self.domain.table().restore(self.part(), from, to);
                    self.run(8);
                    self.forget();
                }
                *place = to.raw();
            }
        }
        self.run(8);
        Ok(())
    }

    fn resume(&self, out: Out<'a>) {
        match out {
            Out::Right(moving) => self.device.readmit(moving).unwrap().unwrap(),
            Out::Broken { .. } if self.order == Order::MakeBeforeBreak => {}
            Out::Broken { to } => {
                // The processors have moved already.
                let from = self.memory.borrow()[1 - self.here.get()].range().start();
                let to = dmakit::addr::PhysAddr::new(to);
                self.domain.table().restore(self.part(), from, to);
                self.forget();
            }
        }
        self.run(8);
    }
}

impl CpuMappings for World<'_> {
    type Excluded = ();

    fn exclude_writers(&self, _: PfnRange) -> Result<(), Refusal> {
        self.run(8);
        Ok(())
    }

    fn copy(&self, _: PfnRange, _: PfnRange) {
        let memory = self.memory.borrow();
        let (from, to) = (&memory[self.here.get()], &memory[1 - self.here.get()]);
        let mut bytes = [0; 256];
        for at in (0..BYTES).step_by(256) {
            from.window().slice(at, 256).unwrap().read(&mut bytes);
            to.window().slice(at, 256).unwrap().write(&bytes);
            self.run(1);
        }
    }

    fn redirect(&self, (): (), _: PfnRange) {
        self.here.set(1 - self.here.get());
        self.run(8);
    }

    fn readmit(&self, (): ()) {
        self.run(8);
    }
}

/// Moves frames there and back several times: how many writes are lost, and how many faulted.
fn moves(seed: u64, order: Order) -> (usize, u64) {
    let rig = Rig::coherent(seed);
    let domain = rig.strict();
    let device = rig.device(rig.info(), &domain);
    let memory = [rig.segment(BYTES), rig.segment(BYTES)];
    memory[0].window().fill(0);
    let run = memory[0].range();
    let mut request = device
        .reserve::<Bidirectional>(run.start(), BYTES, 1, NONE)
        .unwrap();
    let linked = vec![0_u8; BYTES as usize];
    device.link(&mut request, run, &linked[..]).unwrap();
    let sealed = device.seal(request).unwrap();
    let world = World {
        rig: &rig,
        domain: &domain,
        device: &device,
        sealed: &sealed,
        order,
        addr: sealed.segment().unwrap().addr.raw(),
        memory: RefCell::new(memory),
        here: Cell::new(0),
        rng: RefCell::new(Rng::new(seed)),
        flying: RefCell::new((0..SLOTS).map(|_| None).collect()),
        landed: RefCell::new(vec![0; SLOTS]),
        next: Cell::new(0),
        faults: Cell::new(0),
    };
    let mut lost = 0;
    for _ in 0..4 {
        let frames = |segment: &Segment| segment.range().frames();
        let [from, to] = [world.here.get(), 1 - world.here.get()];
        let [from, to] = [from, to].map(|i| frames(&world.memory.borrow()[i]));
        migrate_mapped(&world, &world, from, to).unwrap();
        lost += world.lost();
        // Nobody's now: what still got there would be lost too.
        let old = 1 - world.here.get();
        world.memory.borrow()[old].window().fill(0xee);
    }
    let faults = world.faults.get();
    if order == Order::Right {
        let debt = device.destroy(sealed, nothing(), core::iter::empty());
        let proof = device.sync().unwrap();
        let PeerList([]) = device.redeem(debt.unwrap(), &proof).unwrap();
        rig.close(domain);
    }
    (lost, faults)
}

#[test]
fn no_write_is_lost_while_frames_move_under_a_device_that_writes() {
    let mut faulted = 0;
    for seed in 0..24 {
        let (lost, faults) = moves(seed, Order::Right);
        assert_eq!(lost, 0, "seed {seed}");
        faulted += faults;
    }
    println!("{faulted} writes faulted and were tried again");
    assert!(faulted > 0, "the device wrote while it was kept out");
}

#[test]
fn every_step_left_out_loses_writes() {
    for order in [Order::NoSync, Order::NoInvalidate, Order::MakeBeforeBreak] {
        let lost: usize = (0..24).map(|seed| moves(seed, order).0).sum();
        println!("{order:?}: {lost} lost");
        assert!(lost > 0, "{order:?}");
    }
}

#[test]
fn what_has_to_stay_says_why_and_stays_mapped() {
    let rig = Rig::coherent(70);
    let domain = rig.strict();
    let device = rig.device(rig.untrusted(), &domain);
    let mut around = rig.buffer(0x1800, 0x800, 0x5a);
    let (run, buffer) = (around.run, around.take());
    let mut request = device
        .reserve::<Bidirectional>(run.start(), run.len(), 1, NONE)
        .unwrap();
    device.link(&mut request, run, &buffer).unwrap();
    let sealed = device.seal(request).unwrap();
    let bounced = device.withhold(&sealed, 0, 0x2000).unwrap_err();
    assert_eq!(bounced, StaysPut::Bounced);
    let debt = device.destroy(sealed, buffer, core::iter::empty()).unwrap();
    device.redeem(debt, &device.sync().unwrap()).unwrap();

    let device = rig.device(rig.info(), &domain);
    let memory = rig.segment(BYTES);
    let mut request = device
        .reserve::<Bidirectional>(memory.range().start(), BYTES, 1, NONE)
        .unwrap();
    let bytes = vec![0_u8; BYTES as usize];
    device
        .link(&mut request, memory.range(), &bytes[..])
        .unwrap();
    let sealed = device.seal(request).unwrap();
    let addr = sealed.segment().unwrap().addr;
    let outside = device.withhold(&sealed, 0, BYTES + 0x1000).unwrap_err();
    assert!(matches!(outside, StaysPut::Request(_)), "{outside}");
    let part = device.withhold(&sealed, 0, 0x1800).unwrap_err();
    let shape = matches!(part, StaysPut::Domain(WithholdError::Table(_)));
    assert!(shape, "{part}");
    // Hardware that does not answer: nothing has changed.
    rig.smmu.stick(true);
    let stuck = device.withhold(&sealed, 0, BYTES).unwrap_err();
    let hardware = matches!(stuck, StaysPut::Domain(WithholdError::Hardware(_)));
    assert!(hardware, "{stuck}");
    rig.smmu.stick(false);
    rig.sim.write(addr, &[1; 64]).unwrap();

    let mut moving = device.withhold(&sealed, 0x1000, 0x2000).unwrap();
    rig.sim.write(addr, &[2; 64]).unwrap();
    let kept_out = DmaAddr::new(addr.raw() + 0x1000);
    assert!(rig.sim.write(kept_out, &[2; 64]).is_err());
    let aside = memory.range().start().checked_add(0x800).unwrap();
    let misplaced = moving.redirect(aside).unwrap_err();
    let domains = matches!(misplaced, StaysPut::Domain(WithholdError::Misplaced { .. }));
    assert!(domains, "{misplaced}");
    device.readmit(moving).unwrap().unwrap();
    rig.sim.write(kept_out, &[3; 64]).unwrap();
    let debt = device.destroy(sealed, nothing(), core::iter::empty());
    let proof = device.sync().unwrap();
    let PeerList([]) = device.redeem(debt.unwrap(), &proof).unwrap();
    rig.close(domain);
}

/// The memory of these requests is the test's, so they own none.
fn nothing() -> PeerList<[PeerMemory; 0]> {
    PeerList([])
}
