//! Every table register that there can be, against the register file of the model.
//!
//! The fields of `GITS_TYPER` and `GITS_BASER` that size the device table (bits of IDs, entry size,
//! page sizes, levels) are tried in every combination; those that do not touch each other (memory
//! attributes, devices' own tables, collections) are tried on their own.

use std::sync::Mutex;

use dmakit_addr::{DmaMask, NodeId, PhysAddr, PhysRange};
use dmakit_its::spec::table::TableKind;
use dmakit_its::{Config, CreateError, Its, Levels, Sharing, StartError};
use dmakit_platform::{NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_sim::{ItsConfig, Machine, MachineConfig, PageSizes, Shareable, SimIts};

use crate::rig::{Rig, device, map_first};

/// Untouched memory, cut off one end: the system gives it zeroed, and nobody pays for what is not
/// reached.
struct Fresh {
    rest: Mutex<Option<Segment>>,
    given: Mutex<Vec<PhysRange>>,
    asked: Mutex<Vec<SegmentRequest>>,
}

impl Fresh {
    fn new(segment: Segment) -> Self {
        Self {
            rest: Mutex::new(Some(segment)),
            given: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    fn has(&self, range: &PhysRange) -> bool {
        let given = self.given.lock().unwrap();
        given.iter().any(|one| one.contains_range(range))
    }
}

impl TableMemory for &Fresh {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        let mut rest = self.rest.lock().unwrap();
        let segment = rest.take().ok_or(refused)?;
        let start = segment.range().start().raw();
        let skip = start.next_multiple_of(request.align) - start;
        let (_, segment) = segment.split_at(skip).map_err(|_| refused)?;
        let (segment, left) = segment.split_at(request.len).map_err(|_| refused)?;
        *rest = Some(left);
        self.given.lock().unwrap().push(segment.range());
        self.asked.lock().unwrap().push(*request);
        Ok(segment)
    }

    fn free_table(&self, segment: Segment) {
        let mut given = self.given.lock().unwrap();
        given.retain(|range| *range != segment.range());
    }
}

struct Swept {
    machine: Machine,
    sim: SimIts,
    memory: Fresh,
}

fn swept(config: ItsConfig) -> Swept {
    let ram = PhysRange::new(PhysAddr::new(0x8_0000_0000), 64 << 20).unwrap();
    let machine = MachineConfig::new(1).node(&[ram]).cpus(1).build().unwrap();
    let memory = Fresh::new(machine.take_ram(NodeId::new(0)).pop().unwrap());
    Swept {
        sim: machine.add_its(config),
        machine,
        memory,
    }
}

/// IDs that a register with pages of `page` bytes can serve, by a reading of the manual that has
/// nothing in common with the driver's.
fn most(bits: u32, entry: u64, page: u64, two_levels: bool) -> u64 {
    let wanted = 1_u64 << bits;
    let register = 256 * page;
    let flat = (0..).take_while(|id| (id + 1) * entry <= page).count() as u64;
    let flat = match page % entry {
        0 => flat * 256,
        _ => register / entry,
    };
    let two = (register / 8) * (page / entry);
    wanted.min(if two_levels { flat.max(two) } else { flat })
}

fn sizes() -> impl Iterator<Item = (PageSizes, u64)> {
    (1..8_u32).map(|set| {
        let has = |bit: u32| set >> bit & 1 != 0;
        let pages = PageSizes {
            k4: has(0),
            k16: has(1),
            k64: has(2),
        };
        (pages, 0x1000 << (2 * (31 - set.leading_zeros())))
    })
}

fn check_devices(swept: &Swept, levels: Levels, expected: u64) {
    let Swept {
        machine,
        sim,
        memory,
    } = swept;
    let config = Config {
        levels,
        ..Config::new(sim.base(), 1)
    };
    let its = Its::start(machine.clone(), sim.clone(), memory, config).unwrap();
    map_first(&its, sim);
    let what = sim.config();
    let table = its.table(TableKind::Devices).unwrap();
    assert_eq!(table.layout.ids, expected, "{levels:?} {what:?}");
    assert!(table.layout.pages <= 256 && table.range.len() >= table.layout.bytes());
    let last = expected - 1;
    for id in [0, 1, last / 3, last / 2, last] {
        match its.create_device(id as u32, 1) {
            Ok(_) | Err(CreateError::InUse { .. }) => {}
            Err(error) => panic!("{id:#x}: {error} {levels:?} {what:?}"),
        }
    }
    if u32::try_from(expected).is_ok() {
        let beyond = its.create_device(expected as u32, 1);
        assert!(matches!(beyond, Err(CreateError::Unknown { .. })));
    }
    assert_eq!(sim.refused(), 0, "{levels:?} {what:?}");
    for reached in sim.take_reached() {
        assert!(memory.has(&reached), "{reached} {levels:?} {what:?}");
    }
    let asked = memory.asked.lock().unwrap();
    assert!(asked.iter().all(|request| request.len <= 16 << 20));
    its.stop(|_| panic!("there is one provider")).unwrap();
    machine.check().unwrap();
}

#[test]
fn every_device_table_that_a_register_can_say_serves_all_that_it_can() {
    let mut combinations = 0;
    for (pages, page) in sizes() {
        for device_entry in 1..=32 {
            for device_bits in 1..=32 {
                for two_levels in [false, true] {
                    let what = ItsConfig {
                        device_bits,
                        device_entry,
                        pages,
                        two_levels,
                        redistributors: 1,
                        ..ItsConfig::default()
                    };
                    let expected = most(device_bits, device_entry, page, two_levels);
                    // Without a choice of levels, one wish stands for all.
                    let levels = match two_levels {
                        true => &[Levels::Cheapest, Levels::Two, Levels::Flat][..],
                        false => &[Levels::Flat][..],
                    };
                    for levels in levels {
                        check_devices(&swept(what), *levels, expected);
                        combinations += 1;
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 7 * 32 * 32 * 4);
}

#[test]
fn every_table_of_a_device_has_room_for_a_power_of_two() {
    for event_entry in 1..=16 {
        for event_bits in 1..=18 {
            let rig = swept(ItsConfig {
                event_bits,
                event_entry,
                redistributors: 1,
                ..ItsConfig::default()
            });
            let config = Config::new(rig.sim.base(), 1);
            let its = Its::start(rig.machine, rig.sim.clone(), &rig.memory, config).unwrap();
            map_first(&its, &rig.sim);
            let most = 1_u32 << event_bits;
            let counts = [1, 2, 3, most / 2 + 1, most];
            let counts = counts.into_iter().filter(|count| *count <= most);
            for (id, events) in (0..).zip(counts) {
                let device = its.create_device(id, events).unwrap();
                let rounded = u64::from(events.next_power_of_two().max(2));
                assert!(device.table().len() >= rounded * event_entry);
                // A device can write any event of as many bits as were said.
                rig.sim.raise(id, rounded as u32 - 1);
            }
            let error = its.create_device(9, most + 1).unwrap_err();
            assert!(matches!(error, CreateError::Events { .. }), "{error}");
            for reached in rig.sim.take_reached() {
                assert!(rig.memory.has(&reached), "{reached}");
            }
        }
    }
}

#[test]
fn every_collection_table_serves_what_was_asked_or_says_how_many() {
    let entries = [None, Some(1), Some(8), Some(31), Some(32)];
    let bits = (1..=16).map(Some).chain([None]);
    for collection_bits in bits {
        for (collection_entry, collections_inside) in entries
            .into_iter()
            .flat_map(|entry| [0, 1, 16, 255].map(|inside| (entry, inside)))
        {
            let ids = 1_u64 << collection_bits.unwrap_or(16);
            let serves = match collection_entry {
                Some(_) => ids,
                None => ids.min(collections_inside.into()),
            };
            for asked in [1_u16, 2, 16, 255, 256, u16::MAX] {
                let rig = swept(ItsConfig {
                    collection_bits,
                    collection_entry,
                    collections_inside,
                    redistributors: 1,
                    ..ItsConfig::default()
                });
                let config = Config::new(rig.sim.base(), asked);
                let its = Its::start(rig.machine, rig.sim.clone(), &rig.memory, config);
                match its {
                    Ok(its) => {
                        assert!(u64::from(asked) <= serves, "{asked} of {serves}");
                        let target = dmakit_its::Target {
                            base: rig.sim.redistributor(0).base(),
                            processor: 0,
                        };
                        its.map_collection(asked - 1, target).unwrap();
                        assert!(its.map_collection(asked, target).is_err());
                        assert_eq!(rig.sim.refused(), 0);
                    }
                    Err(StartError::Collections { most, .. }) => {
                        assert!(u64::from(asked) > serves);
                        assert_eq!(u64::from(most), serves);
                        assert_eq!(*rig.memory.given.lock().unwrap(), []);
                    }
                    Err(error) => panic!("{error}"),
                }
                for reached in rig.sim.take_reached() {
                    assert!(rig.memory.has(&reached), "{reached}");
                }
            }
        }
    }
}

#[test]
fn every_answer_about_memory_attributes_is_followed() {
    let shareables = [
        (Shareable::AsWritten, true),
        (Shareable::Outer, true),
        (Shareable::Never, false),
        (Shareable::NeverCached, false),
    ];
    for (shareable, is_coherent) in shareables {
        for (pages, _) in sizes() {
            for virtual_cpu_entry in [None, Some(8)] {
                for sharing in [Sharing::Negotiated, Sharing::Never] {
                    let rig = swept(ItsConfig {
                        shareable,
                        pages,
                        virtual_cpu_entry,
                        ..ItsConfig::default()
                    });
                    let config = Config {
                        sharing,
                        ..Config::new(rig.sim.base(), 1)
                    };
                    let its = Its::start(rig.machine, rig.sim, &rig.memory, config).unwrap();
                    let kinds = [TableKind::Devices, TableKind::VirtualCpus];
                    for table in kinds.into_iter().filter_map(|kind| its.table(kind)) {
                        let expected = is_coherent && sharing == Sharing::Negotiated;
                        assert_eq!(table.attributes.is_coherent(), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn a_size_that_a_register_cuts_is_what_the_table_has() {
    for pages_max in [1, 2, 64, 255] {
        for two_levels in [false, true] {
            let what = ItsConfig {
                device_bits: 32,
                pages_max,
                two_levels,
                ..ItsConfig::default()
            };
            let expected = match two_levels {
                true => pages_max * 8192 * 8192,
                false => pages_max * 8192,
            };
            check_devices(&swept(what), Levels::Flat, expected.min(1 << 32));
        }
    }
}

/// The one thing that a page allocator lacks: runs longer than its largest order.
struct LargestOrder<M> {
    memory: M,
    most: u64,
}

impl<M: TableMemory> TableMemory for LargestOrder<M> {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        match request.len > self.most {
            true => Err(NoMemory {
                request: *request,
                largest_free: Some(self.most),
            }),
            false => self.memory.allocate_table(request),
        }
    }

    fn free_table(&self, segment: Segment) {
        self.memory.free_table(segment);
    }
}

#[test]
fn a_million_devices_and_the_largest_table_are_served_on_the_right_node() {
    for (device_bits, len) in [(20, 8 << 20), (21, 16 << 20)] {
        for node in [0, 1] {
            let rig = Rig::new(
                1,
                ItsConfig {
                    device_bits,
                    two_levels: false,
                    ..ItsConfig::default()
                },
            );
            let config = Config {
                node: Some(NodeId::new(node)),
                ..rig.config()
            };
            // What a page allocator with 4 KiB pages can do.
            let limited = LargestOrder {
                memory: rig.memory.clone(),
                most: 4 << 20,
            };
            let error = Its::start(rig.machine.clone(), rig.sim.clone(), limited, config).err();
            let Some(StartError::Memory(error)) = error else {
                panic!("{error:?}");
            };
            assert_eq!(
                (error.request.len, error.largest_free),
                (len, Some(4 << 20))
            );
            assert_eq!(rig.memory.outstanding_bytes(), 0);

            let (its, lpis) = {
                let its = rig.driver(config);
                let lpis = rig.lpis(Default::default());
                rig.map_collections(&its, &lpis);
                (its, lpis)
            };
            let table = its.table(TableKind::Devices).unwrap();
            assert_eq!(
                (table.range.len(), table.layout.ids),
                (len, 1 << device_bits)
            );
            let given = rig.memory.outstanding();
            let given = given.iter().find(|given| given.range == table.range);
            assert_eq!(given.unwrap().node, NodeId::new(node));
            for id in [0, (1 << 19) - 1, 1 << 19, (1 << device_bits) - 1] {
                let device = device(&its, &lpis, id, 2);
                assert!(rig.arrives(1, &device, 1), "{id:#x}");
            }
            assert_eq!(rig.strays(), []);
            rig.machine.check().unwrap();
        }
    }
}

#[test]
fn tables_lie_where_the_bus_of_the_its_reaches() {
    let rig = Rig::new(1, ItsConfig::default());
    let config = Config {
        limit: DmaMask::bits(32).unwrap(),
        node: Some(NodeId::new(1)),
        ..rig.config()
    };
    let its = rig.driver(config);
    map_first(&its, &rig.sim);
    let _ = its.create_device(1, 1).unwrap();
    let given = rig.memory.outstanding();
    assert!(given.len() > 3);
    assert!(given.iter().all(|given| given.range.end().raw() <= 1 << 32));
}
