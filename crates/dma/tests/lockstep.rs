//! Devices and drivers at random, beside a model that knows what every byte must be.
//!
//! `DMAKIT_STEPS` sets the number of steps, `DMAKIT_SEED` the only seed to run.

mod rig;

use dmakit_addr::{Attributes, Bidirectional, Direction, DmaAddr, FromDevice, ToDevice};
use dmakit_dma::{
    Coherence, CpuMapping, Debt, Device, DmaSegment, MapError, Mapping, Proof, Trust,
};
use dmakit_platform::{CpuBuffer, Segment};
use dmakit_sim::{Rng, SimDevice};
use rig::{Forgetful, PathKind, Rig, bytes_of};

const BUFFERS: usize = 40;
const SEEDS: u64 = 8;
const STEPS: u64 = 200_000;
/// Every so many steps everything is compared.
const WHOLE: u64 = 2_500;

/// A mapping of whichever direction.
enum Any {
    To(Mapping<ToDevice>),
    From(Mapping<FromDevice>),
    Both(Mapping<Bidirectional>),
}

enum State {
    Idle(CpuBuffer),
    Device(Any),
    CpuFrom(CpuMapping<FromDevice>),
    CpuBoth(CpuMapping<Bidirectional>),
    Owed(Debt<CpuBuffer>, Proof),
    /// While a step works on it.
    Taken,
}

/// A buffer, and what the model knows of it.
struct Slot {
    state: State,
    device: usize,
    segments: Vec<DmaSegment>,
    is_bounced: bool,
    /// What the CPU must read.
    cpu: Vec<u8>,
    /// What the device must read.
    dev: Vec<u8>,
    /// The memory around the buffer, and what its owners wrote there last.
    around: Vec<Segment>,
    news: u8,
}

struct Party<'r> {
    sim: SimDevice,
    device: Device<'r, Forgetful>,
    mapped: u64,
    live: u64,
}

struct World<'r> {
    rig: &'r Rig,
    rng: Rng,
    parties: Vec<Party<'r>>,
    slots: Vec<Slot>,
}

impl<'r> World<'r> {
    fn new(rig: &'r Rig, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let kinds = [
            (Coherence::Coherent, PathKind::Needed, 64, Trust::Trusted),
            (Coherence::NonCoherent, PathKind::Needed, 64, Trust::Trusted),
            (
                Coherence::NonCoherent,
                PathKind::Needed,
                32,
                Trust::Untrusted,
            ),
            (Coherence::Coherent, PathKind::Always, 64, Trust::Untrusted),
            (Coherence::NonCoherent, PathKind::Always, 64, Trust::Trusted),
            (Coherence::Coherent, PathKind::Direct, 64, Trust::Trusted),
        ];
        let parties = kinds
            .into_iter()
            .enumerate()
            .map(|(i, (coherence, path, bits, trust))| {
                let (sim, mut info) = rig.device(i as u64, bits, coherence);
                info.trust = trust;
                info.min_align = rig::align([1, 64, 4096][i % 3]);
                info.limits.max_bytes = [u64::MAX, 0x3000, 0x1_0000][i % 3];
                let device = rig.attach(info, path);
                Party {
                    sim,
                    device,
                    mapped: 0,
                    live: 0,
                }
            });
        let parties = parties.collect();
        let slots = (0..BUFFERS).map(|_| Slot::new(rig, &mut rng)).collect();
        Self {
            rig,
            rng,
            parties,
            slots,
        }
    }

    fn step(&mut self) {
        if self.rng.chance(24) {
            self.rig.machine.disturb();
        }
        let index = self.rng.below(self.slots.len() as u64) as usize;
        if self.rng.chance(16) {
            self.slots[index].neighbours_write(self.rng.bits() as u8);
        }
        let slot = &mut self.slots[index];
        let state = std::mem::replace(&mut slot.state, State::Taken);
        let rng = &mut self.rng;
        slot.state = match state {
            State::Idle(buffer) if rng.chance(64) => slot.cpu_writes_idle(buffer, rng),
            State::Idle(buffer) => {
                slot.device = rng.below(self.parties.len() as u64) as usize;
                slot.map(buffer, &mut self.parties[slot.device], rng)
            }
            State::Device(any) => slot.with_device(any, &mut self.parties[slot.device], rng),
            State::CpuFrom(mapping) => {
                assert!(slot.cpu_reads(rng, |at, bytes| mapping.read(at, bytes)));
                State::Device(Any::From(mapping.resubmit()))
            }
            State::CpuBoth(mut mapping) => {
                assert!(slot.cpu_reads(rng, |at, bytes| mapping.read(at, bytes)));
                slot.cpu_writes(rng, |at, bytes| mapping.write(at, bytes));
                slot.dev.clone_from(&slot.cpu);
                let device = &self.parties[slot.device].device;
                State::Device(Any::Both(device.sync_for_device(mapping).unwrap()))
            }
            State::Owed(debt, early) => {
                let device = &self.parties[slot.device].device;
                let debt = device.redeem(debt, &early).unwrap_err().debt;
                let buffer = device.redeem(debt, &device.sync().unwrap()).unwrap();
                slot.check_idle(&buffer);
                State::Idle(buffer)
            }
            State::Taken => unreachable!("a step puts back what it takes"),
        };
    }

    fn check(&self) {
        let mut bounced = 0;
        for slot in &self.slots {
            if let State::Idle(buffer) = &slot.state {
                slot.check_idle(buffer);
            }
            let is_mapped = !matches!(slot.state, State::Idle(_) | State::Owed(..));
            bounced += u64::from(is_mapped && slot.is_bounced);
            assert!(slot.has_neighbours());
        }
        for party in &self.parties {
            let stats = party.device.stats();
            assert_eq!((stats.mapped, stats.live()), (party.mapped, party.live));
        }
        assert_eq!(self.rig.pool.used() > 0, bounced > 0);
        self.rig.machine.check().unwrap();
    }
}

/// A random part of `len` bytes, now and then all of it.
fn part(rng: &mut Rng, len: usize) -> (usize, usize) {
    if rng.chance(32) {
        return (0, len);
    }
    let offset = rng.below(len as u64) as usize;
    let most = (len - offset).min(300);
    (offset, 1 + rng.below(most as u64) as usize)
}

fn random_bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.bits() as u8).collect()
}

impl Slot {
    fn new(rig: &Rig, rng: &mut Rng) -> Self {
        let count = rng.pick(&[1, 1, 1, 2, 3]);
        let is_aligned = rng.chance(96);
        let mut around = Vec::new();
        let mut body = Vec::new();
        for _ in 0..count {
            let most = rng.pick(&[80, 3000, 20_000]);
            let (len, offset) = if is_aligned {
                (rng.pick(&[64, 512, 4096, 8192]), rng.pick(&[0, 64, 2048]))
            } else {
                (1 + rng.below(most), rng.below(4096))
            };
            let whole = rig.segment((offset + len).next_multiple_of(4096), rng.chance(96));
            let (before, rest) = whole.split_at(offset).unwrap();
            let (segment, after) = rest.split_at(len).unwrap();
            body.push(segment);
            around.extend([before, after]);
        }
        let len: u64 = body.iter().map(Segment::len).sum();
        let mut buffer = CpuBuffer::from_segments(body, len).unwrap();
        let cpu = random_bytes(rng, len as usize);
        buffer.write(0, &cpu);
        let mut slot = Self {
            state: State::Idle(buffer),
            device: 0,
            segments: Vec::new(),
            is_bounced: false,
            dev: cpu.clone(),
            cpu,
            around,
            news: 0,
        };
        slot.neighbours_write(0x77);
        slot
    }

    fn neighbours_write(&mut self, byte: u8) {
        self.news = byte;
        self.around
            .iter()
            .for_each(|segment| segment.window().fill(byte));
    }

    fn has_neighbours(&self) -> bool {
        self.around.iter().all(|segment| {
            let mut bytes = vec![0; segment.len() as usize];
            segment.window().read(&mut bytes);
            bytes.iter().all(|byte| *byte == self.news)
        })
    }

    fn check_idle(&self, buffer: &CpuBuffer) {
        let seen = bytes_of(buffer);
        let wrong = seen
            .iter()
            .zip(&self.cpu)
            .position(|(seen, known)| seen != known);
        let Self {
            device, is_bounced, ..
        } = self;
        assert_eq!(
            wrong, None,
            "{buffer:?}: device {device}, bounced: {is_bounced}"
        );
        assert!(self.has_neighbours(), "the neighbours lost what they wrote");
    }

    fn cpu_writes_idle(&mut self, mut buffer: CpuBuffer, rng: &mut Rng) -> State {
        self.cpu_writes(rng, |at, bytes| buffer.write(at, bytes));
        State::Idle(buffer)
    }

    fn cpu_writes(&mut self, rng: &mut Rng, write: impl FnOnce(u64, &[u8]) -> usize) {
        let (offset, len) = part(rng, self.cpu.len());
        let bytes = random_bytes(rng, len);
        assert_eq!(write(offset as u64, &bytes), len);
        self.cpu[offset..offset + len].copy_from_slice(&bytes);
    }

    fn cpu_reads(&self, rng: &mut Rng, read: impl FnOnce(u64, &mut [u8]) -> usize) -> bool {
        let (offset, len) = part(rng, self.cpu.len());
        let mut bytes = vec![0; len];
        read(offset as u64, &mut bytes) == len && bytes == self.cpu[offset..offset + len]
    }

    fn map(&mut self, buffer: CpuBuffer, party: &mut Party<'_>, rng: &mut Rng) -> State {
        let way = rng.pick(&[
            Direction::ToDevice,
            Direction::FromDevice,
            Direction::Bidirectional,
        ]);
        let mapped = match way {
            Direction::ToDevice => self.map_as(buffer, party).map(Any::To),
            Direction::FromDevice => self.map_as(buffer, party).map(Any::From),
            Direction::Bidirectional => self.map_as(buffer, party).map(Any::Both),
        };
        match mapped {
            Ok(any) => {
                self.dev.clone_from(&self.cpu);
                let hides = party.device.info().trust == Trust::Untrusted && self.is_bounced;
                if hides && way == Direction::FromDevice {
                    self.dev.fill(0);
                }
                State::Device(any)
            }
            Err(buffer) => {
                self.check_idle(&buffer);
                State::Idle(buffer)
            }
        }
    }

    fn map_as<D: dmakit_addr::DirectionType>(
        &mut self,
        buffer: CpuBuffer,
        party: &mut Party<'_>,
    ) -> Result<Mapping<D>, CpuBuffer> {
        let mut segments = [DmaSegment::default(); 24];
        let mapped = party
            .device
            .map_scatter::<D, _>(buffer, Attributes::NONE, &mut segments);
        let mapping = mapped.map_err(|failure| {
            let is_full = matches!(failure.error, MapError::Bounce { .. });
            assert!(is_full, "{failure}");
            failure.memory
        })?;
        self.segments = segments[..mapping.segment_count()].to_vec();
        let whole: u64 = self.segments.iter().map(|segment| segment.len).sum();
        assert_eq!(whole, self.cpu.len() as u64);
        let max = party.device.info().limits.max_bytes;
        assert!(self.segments.iter().all(|segment| segment.len <= max));
        self.is_bounced = mapping.is_bounced();
        party.mapped += 1;
        party.live += 1;
        Ok(mapping)
    }

    /// The parts of the segments that `len` bytes from `offset` touch: address, and place in the
    /// bytes.
    fn each_piece(&self, offset: usize, len: usize, mut visit: impl FnMut(DmaAddr, usize, usize)) {
        let mut start = 0;
        for segment in &self.segments {
            let end = start + segment.len as usize;
            let (from, to) = (offset.max(start), (offset + len).min(end));
            if from < to {
                let addr = DmaAddr::new(segment.addr.raw() + (from - start) as u64);
                visit(addr, from - offset, to - from);
            }
            start = end;
        }
    }

    fn device_reads(&self, sim: &SimDevice, rng: &mut Rng) {
        let (offset, len) = part(rng, self.dev.len());
        let mut bytes = vec![0; len];
        self.each_piece(offset, len, |addr, at, len| {
            sim.read(addr, &mut bytes[at..at + len]).unwrap();
        });
        assert!(
            bytes == self.dev[offset..offset + len],
            "the device reads something else"
        );
    }

    fn device_writes(&mut self, sim: &SimDevice, rng: &mut Rng) {
        let (offset, len) = part(rng, self.dev.len());
        let bytes = random_bytes(rng, len);
        self.each_piece(offset, len, |addr, at, len| {
            sim.write(addr, &bytes[at..at + len]).unwrap();
        });
        self.dev[offset..offset + len].copy_from_slice(&bytes);
    }

    fn with_device(&mut self, any: Any, party: &mut Party<'_>, rng: &mut Rng) -> State {
        let what = rng.below(6);
        let any = match any {
            Any::To(mapping) => match what {
                0 | 1 => {
                    self.device_reads(&party.sim, rng);
                    Any::To(mapping)
                }
                2 => {
                    let mut cpu = mapping.withdraw();
                    self.cpu_writes(rng, |at, bytes| cpu.write(at, bytes));
                    self.dev.clone_from(&self.cpu);
                    Any::To(party.device.sync_for_device(cpu).unwrap())
                }
                3 => Any::To(self.withdraw_part(mapping, party, rng)),
                _ => return self.unmap(mapping, party, rng),
            },
            Any::From(mapping) => match what {
                0 | 1 => {
                    self.device_writes(&party.sim, rng);
                    Any::From(mapping)
                }
                2 => {
                    self.cpu.clone_from(&self.dev);
                    return State::CpuFrom(party.device.sync_for_cpu(mapping).unwrap());
                }
                3 => Any::From(self.look_at_part(mapping, party, rng)),
                _ => return self.unmap(mapping, party, rng),
            },
            Any::Both(mapping) => match what {
                0 => {
                    self.device_reads(&party.sim, rng);
                    Any::Both(mapping)
                }
                1 => {
                    self.device_writes(&party.sim, rng);
                    Any::Both(mapping)
                }
                2 => {
                    self.cpu.clone_from(&self.dev);
                    return State::CpuBoth(party.device.sync_for_cpu(mapping).unwrap());
                }
                3 => Any::Both(self.change_part(mapping, party, rng)),
                _ => return self.unmap(mapping, party, rng),
            },
        };
        State::Device(any)
    }

    fn withdraw_part(
        &mut self,
        mut mapping: Mapping<ToDevice>,
        party: &Party<'_>,
        rng: &mut Rng,
    ) -> Mapping<ToDevice> {
        let (offset, len) = part(rng, self.cpu.len());
        let device = &party.device;
        let mut view = device
            .withdraw_part(&mut mapping, offset as u64, len as u64)
            .unwrap();
        let bytes = random_bytes(rng, len);
        assert_eq!(view.write(0, &bytes), len);
        device.sync_part_for_device(view).unwrap();
        self.cpu[offset..offset + len].copy_from_slice(&bytes);
        self.dev[offset..offset + len].copy_from_slice(&bytes);
        mapping
    }

    fn look_at_part(
        &mut self,
        mut mapping: Mapping<FromDevice>,
        party: &Party<'_>,
        rng: &mut Rng,
    ) -> Mapping<FromDevice> {
        let (offset, len) = part(rng, self.cpu.len());
        let view = party
            .device
            .sync_part_for_cpu(&mut mapping, offset as u64, len as u64)
            .unwrap();
        let mut bytes = vec![0; len];
        assert_eq!(view.read(0, &mut bytes), len);
        assert!(
            bytes == self.dev[offset..offset + len],
            "the CPU reads something else"
        );
        self.cpu[offset..offset + len].copy_from_slice(&bytes);
        mapping
    }

    fn change_part(
        &mut self,
        mut mapping: Mapping<Bidirectional>,
        party: &Party<'_>,
        rng: &mut Rng,
    ) -> Mapping<Bidirectional> {
        let (offset, len) = part(rng, self.cpu.len());
        let device = &party.device;
        let mut view = device
            .sync_part_for_cpu(&mut mapping, offset as u64, len as u64)
            .unwrap();
        let mut seen = vec![0; len];
        view.read(0, &mut seen);
        assert!(
            seen == self.dev[offset..offset + len],
            "the CPU reads something else"
        );
        let bytes = random_bytes(rng, len);
        assert_eq!(view.write(0, &bytes), len);
        device.sync_part_for_device(view).unwrap();
        self.cpu[offset..offset + len].copy_from_slice(&bytes);
        self.dev[offset..offset + len].copy_from_slice(&bytes);
        mapping
    }

    fn unmap<D: dmakit_addr::DirectionType>(
        &mut self,
        mapping: Mapping<D>,
        party: &mut Party<'_>,
        rng: &mut Rng,
    ) -> State {
        let whole = self.cpu.len();
        let len = if rng.chance(64) {
            rng.below(whole as u64 + 1) as usize
        } else {
            whole
        };
        if D::DIRECTION.device_writes() {
            // Where the device works on the memory itself, what it wrote is there.
            let back = if self.is_bounced { len } else { whole };
            self.cpu[..back].copy_from_slice(&self.dev[..back]);
        }
        party.live -= 1;
        let early = party.device.sync().unwrap();
        let debt = party.device.unmap_validated(mapping, len as u64).unwrap();
        if rng.chance(64) {
            return State::Owed(debt, early);
        }
        let buffer = party
            .device
            .redeem(debt, &party.device.sync().unwrap())
            .unwrap();
        self.check_idle(&buffer);
        State::Idle(buffer)
    }
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
        let rig = Rig::tight(seed);
        let mut world = World::new(&rig, seed);
        for step in 0..each {
            let run = std::panic::AssertUnwindSafe(|| {
                world.step();
                if step % WHOLE == WHOLE - 1 {
                    world.check();
                }
            });
            if let Err(panic) = std::panic::catch_unwind(run) {
                eprintln!(
                    "seed {seed}, step {step}; replay: DMAKIT_SEED={seed} DMAKIT_STEPS={each}"
                );
                std::panic::resume_unwind(panic);
            }
        }
        let total: u64 = world.parties.iter().map(|party| party.mapped).sum();
        let failed: u64 = world
            .parties
            .iter()
            .map(|party| party.device.stats().failed.total())
            .sum();
        println!("seed {seed}: {total} mappings, {failed} refused");
        assert!(total > each / 20, "too few mappings to mean anything");
        assert!(failed > each / 5000, "too few refusals to mean anything");
    }
}
