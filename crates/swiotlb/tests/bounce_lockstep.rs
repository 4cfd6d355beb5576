//! A growing set of pools against originals and what devices wrote to them, with parts of the
//! machine failing: every byte is where it should be, whatever comes and goes.

#[path = "lockstep/machine.rs"]
mod machine;
#[path = "lockstep/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use dmakit_addr::{AlignMask, Bidirectional, BoundaryMask, FromDevice, PhysAddr, ToDevice};
use dmakit_platform::host::HostRam;
use dmakit_swiotlb::{
    BounceBuffer, BounceConfig, BouncePool, DeviceId, DeviceLimits, Lifetime, MapError, MapRequest,
    Sharing, Trust,
};
use machine::{Blocks, Machine, at_ms, device_bytes, device_writes, growth, machine};
use random::{Random, steps};

enum Mapped {
    To(BounceBuffer<ToDevice>),
    From(BounceBuffer<FromDevice>),
    Both(BounceBuffer<Bidirectional>),
}

macro_rules! each {
    ($mapped:expr, $buffer:ident => $body:expr) => {
        match $mapped {
            Mapped::To($buffer) => $body,
            Mapped::From($buffer) => $body,
            Mapped::Both($buffer) => $body,
        }
    };
}

struct Live {
    mapped: Mapped,
    /// All slots, padding and tail included.
    slots: (u64, u64),
    original: Vec<u8>,
    offset: usize,
    /// What the bounced bytes should be.
    bounced: Vec<u8>,
}

struct Episode<'a> {
    set: BouncePool<Machine, &'a Blocks>,
    ram: HostRam,
    machine: Machine,
    devices: Vec<(DeviceId, DeviceLimits)>,
    live: Vec<Live>,
    /// Live slots by start: their end.
    taken: BTreeMap<u64, u64>,
    now: u64,
    sizes: Vec<u32>,
    faults: bool,
    made: u64,
    ended: u64,
}

fn limits(random: &mut Random) -> DeviceLimits {
    let untrusted = random.chance(30);
    DeviceLimits {
        min_align: AlignMask::new(random.pick(&[0, 0, 511, 4095, 4095, 65535])).unwrap(),
        boundary: random.pick(&[BoundaryMask::NONE, BoundaryMask::new(0xffff).unwrap()]),
        dma_offset: random.pick(&[0, 0, 0x1000_0000]),
        trust: if untrusted {
            Trust::Untrusted
        } else {
            Trust::Trusted
        },
        ..DeviceLimits::default()
    }
}

impl Episode<'_> {
    fn map(&mut self, random: &mut Random) {
        let (device, limits) = random.pick(&self.devices);
        let len = 1 + u64::from({
            let most = random.pick(&self.sizes);
            random.below(most)
        });
        let offset = u64::from(random.below(64));
        let original: Vec<u8> = {
            let seed = random.next();
            (0..offset + len + 16)
                .map(|i| (seed >> (i % 8 * 8)) as u8 ^ i as u8)
                .collect()
        };
        let request = MapRequest {
            original: PhysAddr::new(random.next() & 0xff_ffff),
            offset,
            len,
            align: AlignMask::new(random.pick(&[0, 0, 0, 4095])).unwrap(),
            lifetime: random.pick(&[Lifetime::Brief, Lifetime::Brief, Lifetime::Long]),
        };
        let cpu = u64::from(random.below(4));
        self.machine.faults.cpu.store(cpu, Ordering::Relaxed);
        let kind = random.below(3);
        let (set, source) = (&self.set, &original[..]);
        let mapped = match kind {
            0 => set.map(device, &limits, source, &request).map(Mapped::To),
            1 => set.map(device, &limits, source, &request).map(Mapped::From),
            _ => set.map(device, &limits, source, &request).map(Mapped::Both),
        };
        match mapped {
            Ok(mapped) => {
                self.made += 1;
                let zeroed = kind == 1 && limits.trust == Trust::Untrusted;
                let part = &original[offset as usize..(offset + len) as usize];
                let bounced = if zeroed {
                    vec![0; len as usize]
                } else {
                    part.to_vec()
                };
                let slots = self.check_slots(&mapped, &limits, &request);
                self.live.push(Live {
                    mapped,
                    slots,
                    original,
                    offset: offset as usize,
                    bounced,
                });
            }
            Err(MapError::Full(_) | MapError::Quota(_) | MapError::TooLarge { .. }) => {}
            Err(error) => panic!("{error}: {request:?} {limits:?}"),
        }
    }

    /// The slots are nobody else's, suit the device, and are zero around the mapped bytes.
    fn check_slots(
        &mut self,
        mapped: &Mapped,
        limits: &DeviceLimits,
        request: &MapRequest,
    ) -> (u64, u64) {
        let start = each!(mapped, buffer => buffer.start().raw());
        let count = u64::from(self.set.slots_of(limits, request).unwrap());
        let keep = limits.min_align.raw();
        assert_eq!(start & keep, request.original.raw() & keep);
        let edge = request.align.raw() | 2047;
        let first = start - (start & keep & edge);
        let end = first + count * 2048;
        assert_eq!(
            (first & request.align.raw(), end & request.align.raw()),
            (0, 0)
        );
        let device = |address: u64| (address + limits.dma_offset) & !limits.boundary.raw();
        assert_eq!(device(start), device(start + request.len - 1));
        assert!(
            self.taken
                .range(..end)
                .next_back()
                .is_none_or(|(_, past)| *past <= first)
        );
        self.taken.insert(first, end);
        let padding = device_bytes(&self.ram, PhysAddr::new(first), start - first);
        let past = start + request.len;
        let tail = device_bytes(&self.ram, PhysAddr::new(past), end - past);
        assert!(
            padding.iter().chain(&tail).all(|byte| *byte == 0),
            "stale bytes"
        );
        (first, end)
    }

    fn pick(&self, random: &mut Random) -> Option<usize> {
        (!self.live.is_empty()).then(|| random.below(self.live.len() as u32) as usize)
    }

    /// A part of a mapping: its offset and length.
    fn part(live: &Live, random: &mut Random) -> (usize, usize) {
        let len = live.bounced.len() as u32;
        let offset = random.below(len);
        (offset as usize, random.below(len - offset + 1) as usize)
    }

    fn device_writes(&mut self, random: &mut Random) {
        let Some(index) = self.pick(random) else {
            return;
        };
        let live = &mut self.live[index];
        if matches!(live.mapped, Mapped::To(_)) {
            return;
        }
        let (offset, len) = Self::part(live, random);
        let start = each!(&live.mapped, buffer => buffer.start().raw());
        live.bounced[offset..offset + len].fill(random.next() as u8);
        let written = &live.bounced[offset..offset + len];
        device_writes(&self.ram, PhysAddr::new(start + offset as u64), written);
    }

    fn sync(&mut self, random: &mut Random) {
        let Some(index) = self.pick(random) else {
            return;
        };
        let live = &mut self.live[index];
        let (offset, len) = Self::part(live, random);
        let at = live.offset + offset;
        let (part, size) = (offset as u64, len as u64);
        let for_cpu = random.chance(50);
        let (set, original) = (&self.set, &mut live.original[..]);
        match &live.mapped {
            Mapped::From(buffer) => set.sync_for_cpu(buffer, original, part, size),
            Mapped::Both(buffer) if for_cpu => set.sync_for_cpu(buffer, original, part, size),
            Mapped::Both(buffer) => set.sync_for_device(buffer, original, part, size),
            Mapped::To(buffer) => set.sync_for_device(buffer, original, part, size),
        }
        .unwrap();
        let bounced = &mut live.bounced[offset..offset + len];
        let before = live.original[at..at + len].to_vec();
        match (&live.mapped, for_cpu) {
            (Mapped::From(_), _) | (Mapped::Both(_), true) => assert_eq!(before, bounced),
            _ => bounced.copy_from_slice(&before),
        }
    }

    fn unmap(&mut self, random: &mut Random) {
        let Some(index) = self.pick(random) else {
            return;
        };
        let Live {
            mapped,
            slots,
            mut original,
            offset,
            bounced,
        } = self.live.swap_remove(index);
        let start = each!(&mapped, buffer => buffer.start());
        assert_eq!(
            device_bytes(&self.ram, start, bounced.len() as u64),
            bounced
        );
        let validated = random.below(bounced.len() as u32 + 2) as usize;
        let copied = match (&mapped, random.below(3)) {
            (Mapped::To(_), _) | (_, 0) => 0,
            (_, 1) => bounced.len(),
            _ => validated.min(bounced.len()),
        };
        let mut expected = original.clone();
        expected[offset..offset + copied].copy_from_slice(&bounced[..copied]);
        let (set, target) = (&self.set, &mut original[..]);
        match mapped {
            Mapped::To(buffer) => set.unmap(buffer, target).unwrap(),
            mapped if copied == 0 => {
                each!(mapped, b => set.unmap_unsynced(b).map_err(|_| ()).unwrap());
            }
            mapped if copied == bounced.len() => {
                each!(mapped, b => set.unmap(b, target).map_err(|_| ()).unwrap());
            }
            mapped => {
                each!(mapped, b => set.unmap_validated(b, target, copied as u64).map_err(|_| ()).unwrap());
            }
        }
        assert_eq!(original, expected);
        assert_eq!(self.taken.remove(&slots.0), Some(slots.1));
        self.ended += 1;
    }

    fn maintain(&mut self, random: &mut Random) {
        self.now += u64::from(random.below(120));
        if self.faults && random.chance(5) {
            let counter = random.pick(&[0, 1]);
            let faults = &self.machine.faults;
            let counter = [&faults.conversion, &faults.allocation][counter];
            counter.store(u64::from(1 + random.below(3)), Ordering::Relaxed);
        }
        self.set.maintain(at_ms(self.now), random.below(4));
    }

    fn compare(&self) {
        let statistics = self.set.statistics();
        let used: u64 = self
            .taken
            .iter()
            .map(|(first, end)| (end - first) / 2048)
            .sum();
        assert_eq!(statistics.used, used);
        assert_eq!(
            (statistics.mapped, statistics.unmapped),
            (self.made, self.ended)
        );
        assert!(self.set.used() >= used);
        assert!(self.set.used() <= used + statistics.used_high_slack);
        assert!(statistics.pool_bytes <= growth().bytes_max);
        let by_device: u64 = self
            .devices
            .iter()
            .map(|(device, _)| u64::from(self.set.device_statistics(*device).used))
            .sum();
        assert_eq!(by_device, used);
        for live in &self.live {
            let start = each!(&live.mapped, buffer => buffer.start());
            assert_eq!(
                device_bytes(&self.ram, start, live.bounced.len() as u64),
                live.bounced
            );
            let found = self.set.find(start).unwrap();
            assert_eq!((found.start, found.len), (start, live.bounced.len() as u64));
        }
    }

    /// Everything ends, and all grown memory goes back.
    fn wind_up(mut self, random: &mut Random) {
        while !self.live.is_empty() {
            self.unmap(random);
        }
        self.compare();
        self.machine.faults.conversion.store(0, Ordering::Relaxed);
        for _ in 0..3 {
            self.now += 101;
            self.set.maintain(at_ms(self.now), 64);
        }
        let end = self.set.statistics();
        assert_eq!(end.pool_bytes, (1 << 18) + growth().reserve, "{end:?}");
        let lost = end.quarantined_bytes;
        assert!(self.faults || lost == 0);
        for (device, _) in &self.devices {
            self.set.detach(*device).unwrap();
        }
    }
}

fn episode(seed: u64, length: u64) {
    let mut random = Random::new(seed);
    let (machine, ram, first, blocks) = machine(1 << 18, 6, 1 << 20);
    let config = BounceConfig {
        areas: random.pick(&[1, 2, 4]),
        devices: 4,
        sharing: Sharing::Shared,
        credit_batch: random.pick(&[0, 4]),
        ..BounceConfig::default()
    };
    let set = BouncePool::growing(machine.clone(), first, &config, growth(), &blocks).unwrap();
    let devices = (0..1 + random.below(4))
        .map(|_| {
            let quota = random.chance(30).then(|| 50 + random.below(300));
            (set.attach(quota).unwrap(), limits(&mut random))
        })
        .collect();
    let mut episode = Episode {
        set,
        ram,
        machine,
        devices,
        live: Vec::new(),
        taken: BTreeMap::new(),
        now: 0,
        sizes: (0..2)
            .map(|_| random.pick(&[100, 700, 3000, 5000, 9000, 40_000]))
            .collect(),
        faults: random.chance(50),
        made: 0,
        ended: 0,
    };
    let weights = [
        20 + random.below(40),
        random.below(20),
        random.below(20),
        5 + random.below(20),
    ];
    for step in 0..length {
        let map = if step / 128 % 4 == 3 { 10 } else { weights[0] };
        match random.below(100) {
            n if n < map => episode.map(&mut random),
            n if n < map + weights[1] => episode.device_writes(&mut random),
            n if n < map + weights[1] + weights[2] => episode.sync(&mut random),
            n if n < map + weights[1] + weights[2] + weights[3] => episode.maintain(&mut random),
            _ => episode.unmap(&mut random),
        }
        if step % 500 == 0 {
            episode.compare();
        }
    }
    episode.wind_up(&mut random);
}

#[test]
fn every_byte_is_where_it_should_be_while_pools_come_and_go() {
    let (length, total) = (2000, steps(1_000_000));
    for seed in 0..total.div_ceil(length) {
        let outcome = std::panic::catch_unwind(|| episode(seed, length));
        assert!(outcome.is_ok(), "episode with seed {seed} failed");
    }
}
