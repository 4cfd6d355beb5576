//! Mappings of every kind at random on an adversarial SMMU, beside a model of every byte; and stacks
//! with one step missing, which must be found out.
//!
//! Some mappings end with a write in flight. If the SMMU translated it while the mapping was there,
//! it lands by the end of the sync and the CPU must see it. If not, it faults. It must be over before
//! its address is anybody else's: otherwise it is simply a write to whatever lies there by then, as
//! every device may do to its own mappings. So the model lets it end as soon as the sync is done.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the only seed to run.

use dmakit::addr::{Attributes, Bidirectional, DmaAddr, Iova, PhysRange};
use dmakit::dma::{Debt, DeviceInfo, DmaSegment, Mapping, ScatterList, Sealed, StrictDomain};
use dmakit::platform::{CpuBuffer, Segment};
use dmakit_sim::{Rng, Transfer};

use crate::rig::{BOTH, Mutant, Rig, Strict, TestDevice};

const NONE: Attributes = Attributes::NONE;
const SLOTS: usize = 12;
/// Every fourth on a machine where devices go past the CPU's caches.
const SEEDS: u64 = 4;
const LINE: usize = 64;
const STEPS: u64 = 120_000;
/// Within how many steps a missing one must be found.
const MUTANT_STEPS: u64 = 20_000;

type List = ScatterList<Vec<CpuBuffer>>;

enum State {
    Idle(List),
    Mapped(Mapping<Bidirectional, List>),
    Linked(Sealed<Bidirectional>, List),
    Owed(Debt<List>, Option<Late>),
    Taken,
}

/// A write of a line or less, in flight while its mapping ends, and where it is in the bytes.
struct Late {
    transfer: Transfer,
    at: usize,
    bytes: Vec<u8>,
}

struct Slot {
    state: State,
    /// Which of the devices has it.
    device: usize,
    segments: Vec<DmaSegment>,
    runs: Vec<PhysRange>,
    around: Vec<Segment>,
    bytes: Vec<u8>,
    /// Late writes that landed, and that were stopped.
    landed: u64,
    stopped: u64,
}

struct World<'r> {
    rig: &'r Rig,
    domain: &'r Strict<'r>,
    devices: [TestDevice<'r, Strict<'r>>; 2],
    slots: Vec<Slot>,
    rng: Rng,
}

fn new_slot(rig: &Rig, rng: &mut Rng) -> Slot {
    let (mut buffers, mut around, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    let count = 1 + rng.below(4);
    let is_ragged = rng.chance(128);
    for index in 0..count {
        // A request shares granules at its ends only.
        let offset = if is_ragged && index == 0 {
            rng.below(4096)
        } else {
            0
        };
        let less = if is_ragged && index + 1 == count {
            rng.below(4096)
        } else {
            0
        };
        let whole = (1 + rng.below(2)) * 4096;
        let len = whole.saturating_sub(offset + less).max(1);
        let mut piece = rig.buffer(len, offset, 0);
        runs.push(piece.run);
        buffers.push(piece.take());
        around.extend([piece.before, piece.after]);
    }
    let mut list = ScatterList::new(buffers).unwrap();
    let bytes = noise(rng, runs.iter().map(|run| run.len()).sum());
    dmakit::dma::DmaMemory::write(&mut list, 0, &bytes);
    Slot {
        state: State::Idle(list),
        device: 0,
        segments: Vec::new(),
        runs,
        around,
        bytes,
        landed: 0,
        stopped: 0,
    }
}

fn noise(rng: &mut Rng, len: u64) -> Vec<u8> {
    (0..len).map(|_| rng.bits() as u8).collect()
}

impl World<'_> {
    fn step(&mut self) {
        if self.rng.chance(48) {
            self.rig.machine.disturb();
        }
        let index = self.rng.below(SLOTS as u64) as usize;
        let slot = &mut self.slots[index];
        let rng = &mut self.rng;
        let state = core::mem::replace(&mut slot.state, State::Taken);
        slot.state = match state {
            State::Idle(list) => {
                slot.device = rng.below(2) as usize;
                slot.lend(self.rig, &self.devices[slot.device], list, rng)
            }
            State::Mapped(_) | State::Linked(..) if rng.chance(160) => {
                slot.transfer(self.rig, rng);
                state
            }
            State::Mapped(mapping) => {
                let late = slot.start_late(self.rig, rng);
                let debt = self.devices[slot.device].unmap(mapping).unwrap();
                slot.owe(self.rig, debt, late)
            }
            State::Linked(sealed, list) => {
                let late = slot.start_late(self.rig, rng);
                let device = &self.devices[slot.device];
                let debt = device.destroy(sealed, list, core::iter::empty()).unwrap();
                slot.owe(self.rig, debt, late)
            }
            State::Owed(debt, late) => {
                let device = &self.devices[slot.device];
                let proof = device.sync().unwrap();
                slot.forbid(self.rig);
                slot.end_late(self.rig, late);
                let list = device.redeem(debt, &proof).unwrap();
                slot.check(self.rig, self.domain, list, rng)
            }
            State::Taken => unreachable!("a step puts back what it takes"),
        };
    }

    /// Ends what is mapped, after which nothing is left.
    fn finish(self, steps: u64) {
        let Self { devices, slots, .. } = self;
        let landed: u64 = slots.iter().map(|slot| slot.landed).sum();
        let stopped: u64 = slots.iter().map(|slot| slot.stopped).sum();
        println!("late: {landed} landed, {stopped} stopped");
        let enough = if self.rig.coherent { steps / 500 } else { 0 };
        assert!(landed >= enough, "too few landed late to mean anything");
        assert!(stopped >= enough, "too few were stopped to mean anything");
        for slot in slots {
            let device = &devices[slot.device];
            let debt = match slot.state {
                State::Mapped(mapping) => device.unmap(mapping).unwrap(),
                State::Linked(sealed, list) => {
                    device.destroy(sealed, list, core::iter::empty()).unwrap()
                }
                State::Owed(debt, _) => debt,
                State::Idle(_) | State::Taken => continue,
            };
            device.redeem(debt, &device.sync().unwrap()).unwrap();
        }
        for device in devices {
            assert_eq!(device.remove().unwrap().lost, 0);
        }
    }

    /// Whether nothing was reached that should not have been.
    fn is_good(&self) -> bool {
        self.rig.driver.take_events(|_| ());
        self.rig.machine.take_violations().total == 0
    }
}

impl Slot {
    fn lend(
        &mut self,
        rig: &Rig,
        device: &TestDevice<'_, Strict<'_>>,
        list: List,
        rng: &mut Rng,
    ) -> State {
        self.permit(rig);
        if rng.chance(128) {
            let mut segments = [DmaSegment::default(); 8];
            let mapped = device.map_scatter::<Bidirectional, _>(list, NONE, &mut segments);
            let mapping = mapped.unwrap();
            self.segments = segments[..mapping.segment_count()].to_vec();
            return State::Mapped(mapping);
        }
        let len = self.bytes.len() as u64;
        let request = device.reserve(self.runs[0].start(), len, 1, NONE);
        let mut request = request.unwrap();
        let mut linker = device.linker(&mut request).unwrap();
        for buffer in list.buffers() {
            let run = buffer.runs().next().unwrap();
            linker.link(run, buffer).unwrap();
        }
        let sealed = device.seal(request).unwrap();
        self.segments = sealed.segment().into_iter().collect();
        State::Linked(sealed, list)
    }

    /// A place of the memory for the device, and where it is in the bytes.
    fn place(&self, rng: &mut Rng) -> (DmaAddr, usize, usize) {
        let picked = rng.below(self.segments.len() as u64) as usize;
        let before: u64 = self.segments[..picked].iter().map(|one| one.len).sum();
        let segment = self.segments[picked];
        let offset = rng.below(segment.len);
        let len = 1 + rng.below((segment.len - offset).min(200));
        let addr = DmaAddr::new(segment.addr.raw() + offset);
        (addr, (before + offset) as usize, len as usize)
    }

    fn transfer(&mut self, rig: &Rig, rng: &mut Rng) {
        let (addr, at, len) = self.place(rng);
        if rng.chance(128) {
            let news = noise(rng, len as u64);
            rig.sim.write(addr, &news).unwrap();
            self.bytes[at..at + len].copy_from_slice(&news);
        } else {
            let mut seen = vec![0; len];
            rig.sim.read(addr, &mut seen).unwrap();
            assert!(
                seen == self.bytes[at..at + len],
                "the device reads something else"
            );
        }
    }

    /// Begins, now and then, a write that is on its way while the mapping ends.
    fn start_late(&self, rig: &Rig, rng: &mut Rng) -> Option<Late> {
        let (addr, at, len) = self.place(rng);
        // All of it lands or nothing.
        let len = len.min(LINE - addr.raw() as usize % LINE);
        // Past the CPU's caches, lines are dropped as the mapping ends: the device has to be done.
        let may_be_late = rig.coherent && rng.chance(96);
        may_be_late.then(|| {
            let bytes = noise(rng, len as u64);
            let transfer = rig.sim.start_write(addr, &bytes);
            Late {
                transfer,
                at,
                bytes,
            }
        })
    }

    /// A mapping in slots has been synced when it has ended, and its addresses are free.
    fn owe(&mut self, rig: &Rig, debt: Debt<List>, late: Option<Late>) -> State {
        if debt.since().is_some() {
            return State::Owed(debt, late);
        }
        self.forbid(rig);
        self.end_late(rig, late);
        // Redeeming forbids it once more.
        self.permit(rig);
        State::Owed(debt, None)
    }

    fn permit(&self, rig: &Rig) {
        self.runs.iter().for_each(|run| rig.sim.grant(*run, BOTH));
    }

    fn forbid(&self, rig: &Rig) {
        self.runs.iter().for_each(|run| rig.sim.revoke(*run, BOTH));
    }

    /// What has not landed by the end of the sync never does.
    fn end_late(&mut self, rig: &Rig, late: Option<Late>) {
        let Some(Late {
            transfer,
            at,
            bytes,
        }) = late
        else {
            return;
        };
        if rig.sim.complete(transfer).is_ok() {
            self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
            self.landed += 1;
        } else {
            self.stopped += 1;
        }
    }

    /// Nobody else touches the memory any more.
    fn check(&mut self, rig: &Rig, domain: &Strict<'_>, mut list: List, rng: &mut Rng) -> State {
        let mut seen = vec![0; self.bytes.len()];
        dmakit::dma::DmaMemory::read(&list, 0, &mut seen);
        let wrong = seen.iter().zip(&self.bytes).position(|(a, b)| a != b);
        let (runs, device) = (&self.runs, self.device);
        assert_eq!(wrong, None, "of {runs:?}, device {device}");
        let is_kept = |piece: &Segment| {
            let mut seen = vec![0; piece.len() as usize];
            piece.window().read(&mut seen);
            seen.iter().all(|&byte| byte == 0xc5)
        };
        assert!(
            self.around.iter().all(is_kept),
            "the neighbours lost what they wrote"
        );
        self.bytes = noise(rng, self.bytes.len() as u64);
        dmakit::dma::DmaMemory::write(&mut list, 0, &self.bytes);
        // Where its address is nobody's by now, nothing may be reached there: what others have
        // unmapped meanwhile is to be forgotten first.
        StrictDomain::sync(domain).unwrap();
        let (addr, _, len) = self.place(rng);
        let ends = [0, len as u64 - 1].map(|offset| Iova::new(addr.raw() + offset));
        if ends.iter().all(|end| domain.lookup(*end).is_none()) {
            assert!(
                rig.sim.write(addr, &vec![0x99; len]).is_err(),
                "a stale hit"
            );
        }
        State::Idle(list)
    }
}

/// How many steps went well before one did not.
fn run(seed: u64, mutant: Mutant, steps: u64) -> u64 {
    let rig = if seed % 4 < 3 {
        Rig::coherent(seed)
    } else {
        Rig::non_coherent(seed)
    };
    let domain = rig.broken_domain(1 << 40, mutant);
    let infos: [DeviceInfo<'_>; 2] = [rig.info(), rig.untrusted()];
    let mut rng = Rng::new(seed ^ 0x10c5);
    let slots = (0..SLOTS).map(|_| new_slot(&rig, &mut rng)).collect();
    rig.sim.confine();
    rig.sim.grant(rig.pool_memory, BOTH);
    let mut world = World {
        rig: &rig,
        domain: &domain,
        devices: infos.map(|info| rig.device(info, &domain)),
        slots,
        rng,
    };
    for step in 0..steps {
        world.step();
        if !world.is_good() {
            return step;
        }
    }
    if mutant == Mutant::Nothing {
        world.finish(steps);
        rig.driver.take_events(|_| ());
        rig.close(domain);
    }
    steps
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect(name))
}

#[test]
fn every_byte_is_where_the_model_says() {
    let steps = number("DMAKIT_STEPS").unwrap_or(STEPS);
    let seeds = match number("DMAKIT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let each = steps / (seeds.end - seeds.start);
    for seed in seeds {
        println!("replay: DMAKIT_SEED={seed} DMAKIT_STEPS={each}");
        assert_eq!(run(seed, Mutant::Nothing, each), each, "seed {seed}");
    }
}

#[test]
fn a_stack_with_a_step_missing_is_found_out() {
    for mutant in [
        Mutant::NoSync,
        Mutant::EarlyRedemption,
        Mutant::NoInvalidation,
    ] {
        for seed in 0..SEEDS {
            let done = std::panic::catch_unwind(|| run(seed, mutant, MUTANT_STEPS));
            assert!(
                done.is_err() || done.is_ok_and(|done| done < MUTANT_STEPS),
                "{mutant:?}, {seed}"
            );
        }
    }
}
