//! Tables before any allocator, and more of them from another provider.

use std::sync::Mutex;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dmakit_its::spec::table::TableKind;
use dmakit_its::{Levels, LpiConfig, Redistributor};
use dmakit_platform::{Carved, Mmio, NoMemory, Platform, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{ItsConfig, Machine, MachineConfig, MachineMemory, PageSizes, Shareable};

use crate::rig::{Driver, Rig, device, map_first, remove};

/// 64 KiB units of a run that was set aside at boot; which are out stands in a few words beside it.
struct Early {
    machine: Machine,
    run: Mutex<Carved<8>>,
}

const UNIT: u64 = 0x1_0000;

impl Early {
    fn out(&self) -> bool {
        !self.run.lock().unwrap().is_whole()
    }
}

impl TableMemory for &Early {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let mut run = self.run.lock().unwrap();
        let count = request.len.div_ceil(UNIT) as usize;
        let segment = (0..run.units()).find_map(|first| {
            let start = run.range().start().raw() + first as u64 * UNIT;
            match start % request.align {
                0 => run.take(first, count),
                _ => None,
            }
        });
        let segment = segment.ok_or(NoMemory {
            request: *request,
            largest_free: None,
        })?;
        segment.window().fill(0);
        self.machine.clean(segment.range());
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        self.run.lock().unwrap().put(segment).unwrap();
    }
}

#[test]
fn an_its_begun_with_early_memory_goes_on_with_an_allocator() {
    for shareable in [Shareable::AsWritten, Shareable::Never] {
        let machine = MachineConfig::new(3).non_coherent().build().unwrap();
        let sim = machine.add_its(ItsConfig {
            device_bits: 20,
            shareable,
            ..ItsConfig::default()
        });
        // Before any allocator: 16 MiB of node 1, and nothing else.
        let node_1 = machine.take_ram(NodeId::new(1)).pop().unwrap();
        let (early, rest) = node_1.split_at(16 << 20).unwrap();
        let early = Early {
            machine: machine.clone(),
            run: Mutex::new(Carved::new(early, UNIT).unwrap()),
        };
        let early_range = early.run.lock().unwrap().range();
        let config = dmakit_its::Config {
            levels: Levels::Flat,
            ..dmakit_its::Config::new(sim.base(), 2)
        };
        let its: Driver<_, &Early> =
            Driver::start(machine.clone(), sim.clone(), &early, config).unwrap();
        let table = its.table(TableKind::Devices).unwrap();
        assert_eq!(table.range.len(), 8 << 20, "a million devices");
        assert!(early_range.contains_range(&table.range));
        let lpis = dmakit_its::Lpis::new(machine.clone(), &&early, LpiConfig::default()).unwrap();
        for cpu in 0..2 {
            let regs = sim.redistributor(cpu);
            let redistributor =
                Redistributor::start(&regs, regs.base(), None, &lpis, &&early).unwrap();
            its.map_collection(cpu, redistributor.target()).unwrap();
        }
        let first = device(&its, &lpis, 0xf_ffff, 2);
        assert!(early_range.contains_range(&first.table()));

        // The allocator is up.
        let memory = MachineMemory::of_segments(&machine, NodeId::new(1), vec![rest]);
        let its = its.with_memory(memory.clone());
        let second = device(&its, &lpis, 8, 2);
        assert!(!early_range.overlaps(&second.table()));
        let rig = Rig {
            machine: machine.clone(),
            memory: memory.clone(),
            sim: sim.clone(),
        };
        for device in [&first, &second] {
            assert!(rig.arrives(0, device, 0) && rig.arrives(1, device, 1));
        }
        assert_eq!(memory.outstanding_bytes(), second.table().len());

        // Each goes home: early memory through the hands of its owner.
        let mut first = first;
        for event in 0..2 {
            lpis.free(its.unmap(&mut first, event).unwrap());
        }
        let segment = its.destroy_device(first).unwrap().unwrap();
        (&early).free_table(segment);
        remove(&its, &lpis, second);
        assert_eq!(memory.outstanding_bytes(), 0);
        its.stop(|segment| (&early).free_table(segment)).unwrap();
        assert!(early.out(), "LPIs go on: their tables stay");
        machine.check().unwrap();
    }
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
