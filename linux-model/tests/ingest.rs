//! From events to demand: joining, orders, and events that no kernel would write.

use dmakit_addr::Direction;
use dmakit_linux_model::{
    Bounce, Context, Demand, Engine, Event, EventKind, Ingest, Known, OpKind, Order, Recorded,
    RecordedAddresses, ReplayConfig, SgEntry, SwiotlbConfig, agree, learn_beginning,
    learn_min_align_masks, minimal_slots, replay, replay_bounded,
};

const TASK: (u32, u32, Context) = (1, 7, Context::Task);
const SOFTIRQ: (u32, u32, Context) = (0, 0, Context::Softirq);

/// Events in order, with the microseconds at which they were written.
#[derive(Default)]
struct Script(Ingest);

impl Script {
    fn at(&mut self, micros: u64, (cpu, pid, context): (u32, u32, Context), kind: EventKind) {
        self.0.push(&Event {
            at_ns: micros * 1000,
            cpu,
            pid,
            context,
            may_sleep: false,
            kind,
        });
    }

    fn finish(self) -> (Demand, RecordedAddresses) {
        self.0.finish()
    }
}

fn bounced(original: u64, bytes: u64) -> EventKind {
    EventKind::Bounced {
        device: 0,
        dma_mask: u64::MAX,
        original,
        bytes,
        is_forced: true,
    }
}

fn map_page(original: u64, bytes: u64, dma: Option<u64>) -> EventKind {
    EventKind::MapPage {
        device: 0,
        direction: Direction::ToDevice,
        dma,
        bytes,
        original,
    }
}

fn unmap_page(dma: u64, bytes: u64) -> EventKind {
    let direction = Direction::ToDevice;
    EventKind::UnmapPage {
        device: 0,
        direction,
        dma,
        bytes,
        skips_sync: false,
    }
}

fn map_sg(originals: &[u64], bytes: u64, dma: u64) -> EventKind {
    let entry = |(index, original): (usize, &u64)| SgEntry {
        original: *original,
        dma: Some(dma + index as u64 * bytes),
        bytes,
    };
    let entries: Vec<SgEntry> = originals.iter().enumerate().map(entry).collect();
    EventKind::MapSg {
        device: 0,
        direction: Direction::ToDevice,
        count: entries.len(),
        entries,
    }
}

fn unmap_sg(originals: &[u64]) -> EventKind {
    let direction = Direction::ToDevice;
    EventKind::UnmapSg {
        device: 0,
        direction,
        originals: originals.to_vec(),
        skips_sync: false,
    }
}

fn config(slots: u32) -> ReplayConfig {
    ReplayConfig::new(SwiotlbConfig {
        engine: Engine::Linux6_12,
        slots,
        areas: 1,
        page_bytes: 4096,
        start: 0,
        growth_run_ns: 0,
    })
}

#[test]
fn a_reused_slot_is_told_from_the_one_before_it() {
    // CPU 1 maps what CPU 0 has released, before CPU 0 has written so.
    let mut script = Script::default();
    script.at(1, TASK, bounced(0x1000, 32));
    script.at(2, TASK, map_page(0x1000, 32, Some(0x9000)));
    script.at(10, TASK, bounced(0x2000, 32));
    script.at(12, TASK, map_page(0x2000, 32, Some(0x9000)));
    script.at(13, SOFTIRQ, unmap_page(0x9000, 32));
    script.at(20, SOFTIRQ, unmap_page(0x9000, 32));
    let (demand, _) = script.finish();
    let unmapped: Vec<u32> = demand
        .ops
        .iter()
        .filter_map(|op| {
            if let OpKind::Unmap(mapping) = op.kind {
                Some(mapping)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(unmapped, [0, 1]);
    assert_eq!(demand.unpaired.unmaps, 0);
    assert_eq!(demand.unpaired.maps_open_at_end, 0);
}

#[test]
fn a_list_that_was_given_up_leaves_nothing_and_is_counted() {
    let list = [0x1000, 0x2000, 0x3000];
    let mut script = Script::default();
    // Two tries fail at the third and the second entry, the last one succeeds.
    for (at, entries) in [(10, &list[..]), (20, &list[..2]), (30, &list[..])] {
        for (index, original) in entries.iter().enumerate() {
            script.at(at + index as u64, TASK, bounced(*original, 4096));
        }
    }
    script.at(35, TASK, map_sg(&list, 4096, 0x9000));
    script.at(50, SOFTIRQ, unmap_sg(&list));
    script.at(60, SOFTIRQ, EventKind::Other);
    let (demand, _) = script.finish();
    let silent = demand
        .mappings
        .iter()
        .filter(|m| m.recorded == Recorded::FailedSilently);
    assert_eq!(silent.count(), 5);
    let given_up = demand
        .ops
        .iter()
        .filter(|op| matches!(op.kind, OpKind::GiveUp(_)))
        .count();
    assert_eq!(given_up, 2);
    let report = replay(&demand, &config(256));
    assert_eq!(
        (report.high_water_slots, report.served_beyond_recording),
        (6, 2)
    );
    assert_eq!(report.failed + report.failed_silent, 0);
}

#[test]
fn the_entries_that_an_event_hides_are_claimed_by_their_place() {
    let originals: Vec<u64> = (1..=200).map(|page| page * 0x1000).collect();
    let mut script = Script::default();
    script.at(1, TASK, bounced(0xfff_0000, 4096));
    for original in &originals {
        script.at(2, TASK, bounced(*original, 4096));
    }
    let EventKind::MapSg { entries, .. } = map_sg(&originals[..128], 4096, 0x9000) else {
        unreachable!("it makes one");
    };
    let direction = Direction::ToDevice;
    script.at(
        3,
        TASK,
        EventKind::MapSg {
            device: 0,
            direction,
            entries,
            count: 200,
        },
    );
    script.at(9, SOFTIRQ, unmap_sg(&originals));
    let (demand, recorded) = script.finish();
    let served = demand
        .mappings
        .iter()
        .filter(|m| m.recorded == Recorded::Served)
        .count();
    assert_eq!((served, demand.unpaired.unmaps), (200, 0));
    assert_eq!(demand.mappings[0].recorded, Recorded::FailedSilently);
    assert_eq!(recorded.dma.iter().flatten().count(), 128);
}

#[test]
fn a_release_lies_between_its_bounds_in_every_order() {
    let originals: Vec<u64> = (1..=16).map(|page| page * 0x1000).collect();
    let mut script = Script::default();
    script.at(
        1,
        TASK,
        EventKind::PhaseBegin {
            name: "load".into(),
        },
    );
    for round in 0..20 {
        let t = 1000 * (round + 1);
        originals
            .iter()
            .for_each(|original| script.at(t, TASK, bounced(*original, 4096)));
        script.at(
            t + 50,
            TASK,
            map_sg(&originals, 4096, 0x10_0000 * (round + 1)),
        );
        script.at(t + 100, SOFTIRQ, unmap_sg(&originals));
        // Meanwhile another buffer is mapped.
        script.at(t + 120, TASK, bounced(0xabc_d000, 2048));
        script.at(t + 130, TASK, map_page(0xabc_d000, 2048, Some(0x8000_0000)));
        script.at(t + 140, SOFTIRQ, unmap_page(0x8000_0000, 2048));
    }
    script.at(90_000, TASK, EventKind::PhaseEnd);
    let (demand, _) = script.finish();
    for op in &demand.ops {
        assert!(
            op.earliest_ns <= op.likely_ns && op.likely_ns <= op.latest_ns,
            "{op:?}"
        );
        assert!(
            op.earliest_ns <= op.sooner_ns && op.sooner_ns <= op.likely_ns,
            "{op:?}"
        );
        assert!(
            op.likely_ns <= op.later_ns && op.later_ns <= op.latest_ns,
            "{op:?}"
        );
    }
    let phase = &replay_bounded(&demand, &config(1024)).phases[0];
    assert_eq!(phase.high_water_slots, 32);
    let (low, high) = phase.high_water_interval;
    assert!(low == 32 && (32..=33).contains(&high), "{low} to {high}");
}

/// A USB disk: one request after the other, and the CPU that ends them has nothing else to do, so
/// that only the next end shows that the last one is over.
#[test]
fn a_release_takes_no_longer_than_a_mapping_however_long_its_thread_idles_after_it() {
    let mut script = Script::default();
    script.at(
        1,
        TASK,
        EventKind::PhaseBegin {
            name: "load".into(),
        },
    );
    for round in 1..=20 {
        let t = 1000 * round;
        let list = [round * 0x1000];
        script.at(t, TASK, bounced(list[0], 4096));
        script.at(t + 40, TASK, map_sg(&list, 4096, 0x10_0000 + list[0]));
        script.at(t + 600, SOFTIRQ, unmap_sg(&list));
    }
    script.at(90_000, TASK, EventKind::PhaseEnd);
    let (demand, _) = script.finish();
    let phase = &replay_bounded(&demand, &config(64)).phases[0];
    assert_eq!(phase.high_water_slots, 2);
    assert_eq!(phase.high_water_interval, (2, 2));
}

#[test]
fn the_pool_begins_below_the_areas_of_cpus_that_mapped_nothing() {
    let area = 64 * 2048;
    let swiotlb = SwiotlbConfig {
        areas: 4,
        ..config(256).swiotlb
    };
    let mut script = Script::default();
    for round in 0..10 {
        // CPU 2 alone, and once what its own area had no room for.
        let dma = 0x10_0000 + if round == 9 { area } else { round * 4096 };
        let task = (2, 7, Context::Task);
        script.at(10 * round + 1, task, bounced(0x1000, 4096));
        script.at(10 * round + 2, task, map_page(0x1000, 4096, Some(dma)));
    }
    let (demand, recorded) = script.finish();
    let beginning = learn_beginning(&demand, &recorded, &swiotlb, None).unwrap();
    assert_eq!(beginning.start, 0x10_0000 - 2 * area);
}

#[test]
fn an_interrupt_after_which_all_copying_follows_came_before_the_search() {
    let irq = (1, 7, Context::Hardirq);
    let mut script = Script::default();
    for round in 0..10 {
        let t = 100 * (round + 1);
        script.at(t, TASK, bounced(0x1000, 65536));
        script.at(t + 30, TASK, map_page(0x1000, 65536, Some(0x9000)));
        script.at(t + 50, SOFTIRQ, unmap_page(0x9000, 65536));
    }
    script.at(5000, TASK, bounced(0x2000, 65536));
    script.at(5030, TASK, map_page(0x2000, 65536, Some(0x9000)));
    script.at(6000, TASK, bounced(0x1000, 65536));
    script.at(6005, irq, unmap_page(0x9000, 65536));
    script.at(6060, TASK, map_page(0x1000, 65536, Some(0x9000)));
    let (demand, _) = script.finish();
    let place = |kind| demand.ops.iter().position(|op| op.kind == kind);
    assert!(
        place(OpKind::Unmap(10)) < place(OpKind::Map(11)),
        "{:?}",
        &demand.ops[20..]
    );
}

#[test]
fn copies_are_counted_for_bounced_mappings_only() {
    let sync = |dma, bytes| EventKind::Sync {
        device: 0,
        direction: Direction::FromDevice,
        dma,
        bytes,
        is_for_cpu: true,
    };
    let mut script = Script::default();
    script.at(1, TASK, bounced(0x1000, 2000));
    script.at(2, TASK, map_page(0x1000, 2000, Some(0x9000)));
    script.at(3, TASK, map_page(0x5000, 2000, Some(0x5000)));
    script.at(4, SOFTIRQ, sync(0x9100, 68));
    script.at(5, SOFTIRQ, sync(0x5000, 68));
    script.at(6, SOFTIRQ, sync(0x9000 + 2000, 68));
    let (demand, _) = script.finish();
    assert_eq!(replay(&demand, &config(256)).bytes_copied, 2000 + 68);
}

#[test]
fn what_is_bounced_follows_force_reach_and_translation() {
    let load = |is_translated: bool| {
        let mut script = Script::default();
        if is_translated {
            script.at(1, TASK, EventKind::Translated);
        }
        script.at(2, TASK, bounced(0x1000, 2000));
        script.at(3, TASK, map_page(0x1000, 2000, Some(0x9000)));
        script.at(4, TASK, map_page(0x5000, 2000, Some(0x5000)));
        let (mut demand, _) = script.finish();
        demand.devices[0].limits.dma_mask = 0xffff;
        demand
    };
    let asked = |demand: &Demand, bounce| {
        replay(
            demand,
            &ReplayConfig {
                bounce,
                ..config(256)
            },
        )
        .mappings
    };
    let direct = load(false);
    assert_eq!(asked(&direct, Bounce::AsRecorded), 1);
    assert_eq!(asked(&direct, Bounce::All), 2);
    // It was forced, and within the device's reach.
    assert_eq!(asked(&direct, Bounce::Needed), 0);
    assert_eq!(asked(&load(true), Bounce::All), 1);
}

#[test]
fn attempts_alone_say_nothing_about_size() {
    let mut script = Script::default();
    (1..50).for_each(|t| script.at(t, TASK, bounced(t * 0x1000, 4096)));
    let (demand, _) = script.finish();
    assert_eq!(demand.known, Known::Attempts);
    assert!(minimal_slots(&demand, &config(256)).is_err());
}

/// A small generator with a fixed sequence per seed (Marsaglia's xorshift).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly few values, so that events meet; now and then an extreme one.
    fn number(&mut self) -> u64 {
        match self.next() % 16 {
            0 => u64::MAX - self.next() % 3,
            1 => self.next(),
            2 => 0,
            _ => (self.next() % 8) * 0x800,
        }
    }

    fn kind(&mut self) -> EventKind {
        let device = (self.next() % 3) as u32;
        let direction = [
            Direction::ToDevice,
            Direction::FromDevice,
            Direction::Bidirectional,
        ][(self.next() % 3) as usize];
        let (original, bytes, dma) = (self.number(), self.number(), self.number());
        let skips_sync = self.next() % 5 == 0;
        let count = (self.next() % 5) as usize;
        match self.next() % 12 {
            0..=2 => EventKind::Bounced {
                device,
                dma_mask: self.number(),
                original,
                bytes,
                is_forced: self.next() % 2 == 0,
            },
            3 => {
                let dma = (self.next() % 4 != 0).then_some(dma);
                EventKind::MapPage {
                    device,
                    direction,
                    dma,
                    bytes,
                    original,
                }
            }
            4 => EventKind::UnmapPage {
                device,
                direction,
                dma,
                bytes,
                skips_sync,
            },
            5 => {
                let entries = (0..count)
                    .map(|_| SgEntry {
                        original: self.number(),
                        dma: (self.next() % 4 != 0).then(|| self.number()),
                        bytes: self.number(),
                    })
                    .collect();
                let hidden = if self.next() % 4 == 0 {
                    self.number() as usize
                } else {
                    count
                };
                EventKind::MapSg {
                    device,
                    direction,
                    entries,
                    count: hidden,
                }
            }
            6 => {
                let originals = (0..count).map(|_| self.number()).collect();
                EventKind::UnmapSg {
                    device,
                    direction,
                    originals,
                    skips_sync,
                }
            }
            _ => self.other_kind(device, direction, dma),
        }
    }

    fn other_kind(&mut self, device: u32, direction: Direction, dma: u64) -> EventKind {
        match self.next() % 6 {
            0 => EventKind::Sync {
                device,
                direction,
                dma,
                bytes: self.number(),
                is_for_cpu: self.next() % 2 == 0,
            },
            1 => EventKind::SlotReturned {
                tlb: (self.next() % 4 != 0).then_some(dma),
            },
            2 => EventKind::SlotReleased {
                direction,
                tlb: dma,
            },
            3 => EventKind::SlotWanted,
            _ => match self.next() % 8 {
                0 => EventKind::PhaseBegin { name: "p".into() },
                1 => EventKind::PhaseEnd,
                _ => EventKind::Other,
            },
        }
    }
}

#[test]
fn no_sequence_of_events_panics() {
    let factor = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1_u64);
    for seed in 1..=150 * factor {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut ingest = Ingest::new();
        let mut at_ns = 0_u64;
        for _ in 0..rng.next() % 400 {
            at_ns = match rng.next() % 64 {
                0 => rng.number(),
                _ => at_ns.wrapping_add(rng.next() % 100_000),
            };
            let context =
                [Context::Task, Context::Softirq, Context::Hardirq][(rng.next() % 3) as usize];
            let cpu = if rng.next() % 64 == 0 {
                u32::MAX
            } else {
                (rng.next() % 3) as u32
            };
            let pid = (rng.next() % 4) as u32;
            let kind = rng.kind();
            ingest.push(&Event {
                at_ns,
                cpu,
                pid,
                context,
                may_sleep: false,
                kind,
            });
        }
        println!("seed {seed}");
        let (mut demand, recorded) = ingest.finish();
        learn_min_align_masks(&mut demand, &recorded);
        for engine in Engine::ALL {
            let mut config = config(256);
            config.swiotlb.engine = engine;
            config.samples_max = 10;
            for order in [Order::Least, Order::Likely, Order::Most] {
                config.order = order;
                let report = replay(&demand, &config);
                assert!(
                    report.high_water_slots <= report.pool_slots_peak,
                    "seed {seed}"
                );
            }
            config.order = Order::Likely;
            if let Some(beginning) = learn_beginning(&demand, &recorded, &config.swiotlb, None) {
                agree(&demand, &recorded, &config, &beginning);
            }
            let _ = minimal_slots(&demand, &config);
        }
    }
}
