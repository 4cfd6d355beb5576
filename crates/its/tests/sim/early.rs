//! Tables before any allocator, and more of them from another provider.

use std::sync::Mutex;
use std::time::Duration;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_cma::{
    AreaRequest, CoherentMemory, DeviceArea, EarlyAreas, Outcome, Place, Purpose, Waiting, reserve,
};
use dmakit_its::spec::table::TableKind;
use dmakit_its::{Levels, LpiConfig, Lpis, Redistributor};
use dmakit_phys::{
    AttachedRam, ClaimedRam, Frame, FrameRequest, Frames, MemoryKind, MemoryMap, Migrate,
    Migration, MovableMemory, MoverId, NoMovers, PageAllocator, Refusal, Refused, Region,
};
use dmakit_platform::{Mmio, NoTables, Segment, TableMemory};
use dmakit_sim::{ItsConfig, Machine, MachineConfig, MachineMemory, PageSizes, Shareable};

use crate::rig::{Driver, Rig, device, map_first, remove};

type Pages = PageAllocator<Machine, Vec<Frame>>;

/// The machine's memory, and 16 MiB of node 1 set aside in it.
fn reserved(machine: &Machine) -> (MemoryMap, Vec<dmakit_cma::Reserved>, Vec<Segment>) {
    let mut map = MemoryMap::new(2);
    for (node, range) in machine.ram() {
        map.add(Region {
            range: range.frames(),
            node,
            kind: MemoryKind::Usable,
        })
        .unwrap();
    }
    let request = AreaRequest {
        place: Place::Anywhere,
        ..AreaRequest::new(Purpose::PerNode(NodeId::new(1)), 16 << 20)
    };
    let reserved = reserve(&mut map, &[], [request]).into_iter().map(|one| {
        let Outcome::Reserved(reserved) = one.outcome else {
            panic!("{one}");
        };
        reserved
    });
    let reserved = reserved.collect();
    let ram = [0, 1].map(|node| machine.take_ram(NodeId::new(node)));
    (map, reserved, ram.into_iter().flatten().collect())
}

fn begun_early(shareable: Shareable) {
    let machine = MachineConfig::new(3).non_coherent().build().unwrap();
    let sim = machine.add_its(ItsConfig {
        device_bits: 20,
        shareable,
        ..ItsConfig::default()
    });
    let (map, reserved, mut ram) = reserved(&machine);
    let area = reserved[0].ranges()[0].bytes().unwrap();
    let mut bits = vec![0; EarlyAreas::<Machine>::bitmap_words(&reserved)];
    let early = EarlyAreas::new(machine.clone(), reserved, &mut ram, &mut bits).unwrap();

    // No page allocator, no device: tables from the reserved area of the ITS's own node.
    let config = dmakit_its::Config {
        levels: Levels::Flat,
        node: Some(NodeId::new(1)),
        ..dmakit_its::Config::new(sim.base(), 2)
    };
    let its: Driver<_, &EarlyAreas<'_, Machine>> =
        Driver::start(machine.clone(), sim.clone(), &early, config).unwrap();
    let table = its.table(TableKind::Devices).unwrap();
    assert_eq!(table.range.len(), 8 << 20, "a million devices");
    assert!(area.contains_range(&table.range));
    let lpis = Lpis::new(machine.clone(), &early, LpiConfig::default()).unwrap();
    for cpu in 0..2 {
        let regs = sim.redistributor(cpu);
        let node = Some(NodeId::new(1));
        let redistributor = Redistributor::start(&regs, regs.base(), node, &lpis, &early).unwrap();
        its.map_collection(cpu, redistributor.target()).unwrap();
    }
    let mut first = device(&its, &lpis, 0xf_ffff, 2);
    assert!(area.contains_range(&first.table()));

    // The early stage cannot be closed while the ITS can still take from it.
    let its = its.with_memory(NoTables);
    let inactive = early.close(&mut ram);
    let out = inactive.claims();
    let frames = vec![Frame::default(); Pages::table_entries(&map) as usize];
    let pages = Pages::new(&map, &[], frames).unwrap();
    let movable = MovableMemory::new(machine.clone(), pages, NoMovers);
    let (areas, failed) = inactive.activate(&movable);
    assert!(failed.is_empty(), "{failed:?}");
    let attached = AttachedRam::new(machine.clone(), movable.allocator(), ram, 64).with_out(out);
    let coherent = CoherentMemory::new(
        machine.clone(),
        &areas,
        &attached,
        DeviceArea::None,
        Waiting::Never,
    );
    let id = areas.find(Purpose::PerNode(NodeId::new(1))).unwrap();
    let before = areas.usage(id).free;
    let its = its.with_memory(&coherent);

    let second = device(&its, &lpis, 8, 2);
    assert!(!table.range.overlaps(&second.table()));
    let arrives = |one: &dmakit_its::Device| {
        (0..2).all(|event| {
            sim.raise(one.id(), event.into());
            let cpu = sim.redistributor(event);
            cpu.take(one.interrupt(event.into()).unwrap())
        })
    };
    assert!(arrives(&first) && arrives(&second), "nothing moved");

    // Each goes home: early memory through the hands of its owner, which is the area by now.
    for event in 0..2 {
        lpis.free(its.unmap(&mut first, event).unwrap());
    }
    let segment = its.destroy_device(first).unwrap().unwrap();
    coherent.free_table(segment);
    remove(&its, &lpis, second);
    its.stop(|segment| coherent.free_table(segment)).unwrap();
    let lpi_tables = (0x1_0000 * 3) >> 12;
    assert_eq!(areas.usage(id).free, (area.len() >> 12) - lpi_tables);
    assert!(areas.usage(id).free > before);
    machine.check().unwrap();
}

#[test]
fn an_its_begun_with_early_areas_goes_on_with_active_ones() {
    begun_early(Shareable::AsWritten);
}

#[test]
fn so_does_one_that_goes_past_caches() {
    begun_early(Shareable::Never);
}

#[test]
fn a_second_level_grows_from_the_later_provider() {
    let machine = MachineConfig::new(4).non_coherent().build().unwrap();
    let sim = machine.add_its(ItsConfig {
        shareable: Shareable::Never,
        ..ItsConfig::default()
    });
    let [early, later] = [0, 1].map(|node| {
        let node = NodeId::new(node);
        MachineMemory::of_segments(&machine, node, machine.take_ram(node))
    });
    let config = dmakit_its::Config {
        levels: Levels::Two,
        ..dmakit_its::Config::new(sim.base(), 1)
    };
    let its = Driver::start(machine.clone(), sim.clone(), early.clone(), config).unwrap();
    map_first(&its, &sim);
    let _ = its.create_device(0, 1).unwrap();
    let before = early.outstanding_bytes();
    let its = its.with_memory(later.clone());
    let far = its.create_device(0xffff, 1).unwrap();
    assert_eq!(early.outstanding_bytes(), before);
    assert_eq!(later.outstanding_bytes(), 0x1_0000 + far.table().len());
    assert_eq!(sim.refused(), 0);
    assert!(its.destroy_device(far).unwrap().is_none());
    let mut back = 0;
    its.stop(|segment| {
        back += segment.len();
        early.free_table(segment);
    })
    .unwrap();
    // The first device was never destroyed: its table stays out.
    assert_eq!(
        (later.outstanding_bytes(), early.outstanding_bytes()),
        (0, 256)
    );
    assert_eq!(back, before - 256);
    assert_eq!(sim.read32(0) & 1, 0);
    machine.check().unwrap();
}

#[test]
fn tables_above_48_bits_are_folded_where_pages_leave_room() {
    // RAM in the highest of 52 bits, and at the highest of 48.
    let [high, low] = [0xf_ffff_0000_0000, 0xffff_0000_0000]
        .map(|start| PhysRange::new(PhysAddr::new(start), 32 << 20).unwrap());
    for (pages, node) in [(PageSizes::ALL, 1), (K16, 0)] {
        let machine = MachineConfig::new(5)
            .non_coherent()
            .node(&[low])
            .node(&[high])
            .build()
            .unwrap();
        let sim = machine.add_its(ItsConfig {
            pages,
            ..ItsConfig::default()
        });
        let rig = Rig {
            memory: MachineMemory::new(&machine),
            machine,
            sim,
        };
        let config = dmakit_its::Config {
            node: Some(NodeId::new(1)),
            ..rig.config()
        };
        let (its, lpis) = rig.bring_up(config, LpiConfig::default());
        let table = its.table(TableKind::Devices).unwrap();
        let expected = if node == 1 { high } else { low };
        assert!(expected.contains_range(&table.range), "{}", table.range);
        let device = device(&its, &lpis, 0xffff, 2);
        assert!(high.contains_range(&device.table()), "52 bits in any case");
        assert!(rig.arrives(0, &device, 0) && rig.arrives(1, &device, 1));
        assert_eq!(rig.strays(), []);
        rig.machine.check().unwrap();
    }
}

const K16: PageSizes = PageSizes {
    k4: false,
    k16: true,
    k64: false,
};

/// Movable memory of which every other frame is somebody's.
#[derive(Default)]
struct Litter(Mutex<Vec<Frames>>);

impl Migrate for Litter {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut pages = self.0.lock().unwrap();
        match pages.iter_mut().find(|page| page.range() == migration.from) {
            Some(page) => Ok(std::mem::replace(page, to)),
            None => Err(Refused {
                to,
                reason: Refusal::Gone,
            }),
        }
    }
}

#[test]
fn without_a_reservation_a_large_table_is_a_range_that_others_leave() {
    let machine = MachineConfig::new(6).non_coherent().build().unwrap();
    let sim = machine.add_its(ItsConfig {
        device_bits: 20,
        ..ItsConfig::default()
    });
    let mut map = MemoryMap::new(2);
    for (node, range) in machine.ram() {
        let region = Region {
            range: range.frames(),
            node,
            kind: MemoryKind::Usable,
        };
        map.add(region).unwrap();
    }
    let table = vec![Frame::default(); Pages::table_entries(&map) as usize];
    let pages = Pages::new(&map, &[], table).unwrap();
    let memory = MovableMemory::new(machine.clone(), pages, Litter::default());
    let ram = [0, 1].map(|node| machine.take_ram(NodeId::new(node)));
    let ram = ram.into_iter().flatten();
    let attached = AttachedRam::new(machine.clone(), memory.allocator(), ram, 64);
    // No two free frames follow one another, so the page allocator has no table for anybody.
    let mut others = Vec::new();
    let page = FrameRequest::movable(1, MoverId::new(0));
    while let Ok(frame) = memory.allocator().allocate(&page) {
        match frame.range().start().raw() % 2 {
            0 => memory.movers().0.lock().unwrap().push(frame),
            _ => others.push(frame),
        }
    }
    others
        .into_iter()
        .for_each(|frame| memory.allocator().free(frame).unwrap());
    let config = dmakit_its::Config {
        levels: Levels::Flat,
        node: Some(NodeId::new(1)),
        ..dmakit_its::Config::new(sim.base(), 1)
    };
    let started = Driver::start(machine.clone(), sim.clone(), &attached, config);
    assert!(started.is_err(), "the page allocator serves it");

    let patience = (Duration::from_secs(1), 3);
    let claimed = ClaimedRam::new(machine.clone(), &memory, &attached, &map, patience);
    let its = Driver::start(machine.clone(), sim.clone(), &claimed, config).unwrap();
    let devices = its.table(TableKind::Devices).unwrap().range;
    assert_eq!(devices.len(), 8 << 20, "a million devices");
    let mut ram = machine.ram();
    let of_node = ram.any(|(node, ram)| node == NodeId::new(1) && ram.contains_range(&devices));
    assert!(of_node, "{devices} is on its own node");
    map_first(&its, &sim);
    let last = its.create_device(0xf_ffff, 2).unwrap();
    assert!(its.destroy_device(last).unwrap().is_none());
    its.stop(|segment| claimed.free_table(segment)).unwrap();
    machine.check().unwrap();
}
