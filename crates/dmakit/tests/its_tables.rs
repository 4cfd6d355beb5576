//! An interrupt translation service that begins before there is a device, and goes on through the
//! mapping API.

use dmakit::addr::{DmaMask, NodeId};
use dmakit::dma::{CoherentSource, Device, DeviceId, DeviceInfo, DeviceTables, Path};
use dmakit::its::spec::table::TableKind;
use dmakit::its::{Config, Its, Levels, LpiConfig, Lpis, Redistributor};
use dmakit::platform::{NoTables, TableMemory};
use dmakit_sim::{ItsConfig, MachineConfig, MachineMemory};

#[test]
fn an_its_begun_early_goes_on_through_the_mapping_api() {
    let machine = MachineConfig::new(5).build().unwrap();
    let sim = machine.add_its(ItsConfig::default());
    let [early, later] = [0, 1].map(|node| {
        let node = NodeId::new(node);
        MachineMemory::of_segments(&machine, node, machine.take_ram(node))
    });
    let config = Config {
        levels: Levels::Two,
        ..Config::new(sim.base(), 1)
    };
    let its = Its::start(machine.clone(), sim.clone(), &early, config).unwrap();
    let lpis = Lpis::new(machine.clone(), &early, LpiConfig::default()).unwrap();
    let regs = sim.redistributor(0);
    let redistributor = Redistributor::start(&regs, regs.base(), None, &lpis, &early).unwrap();
    its.map_collection(0, redistributor.target()).unwrap();
    let tables = its.table(TableKind::Devices).unwrap().range;
    let its = its.with_memory(NoTables);

    // The ITS is a device like others by now: what it needs is counted with it.
    let info = DeviceInfo::new(DeviceId::new(1), "its", DmaMask::ALL);
    let source = CoherentSource::Cached(&later);
    let device = Device::<_>::new(machine.clone(), info, Path::Direct, source);
    let of_device = DeviceTables::new(&device);
    let its = its.with_memory(&of_device);
    let mut function = its.create_device(0x777, 2).unwrap();
    let lpi = lpis.allocate().unwrap();
    its.map(&mut function, 1, lpi, 0).unwrap();
    its.enable(&lpis, &function, 1).unwrap();
    sim.raise(function.id(), 1);
    assert!(regs.take(function.interrupt(1).unwrap()));
    // A page of the second level, and the table of the function.
    assert_eq!(device.stats().coherent_live(), 2);
    assert_eq!(its.table(TableKind::Devices).unwrap().range, tables);

    lpis.free(its.unmap(&mut function, 1).unwrap());
    assert!(its.destroy_device(function).unwrap().is_none());
    its.stop(|segment| early.free_table(segment)).unwrap();
    assert_eq!(device.remove().unwrap().coherent_live(), 0);
    machine.check().unwrap();
}
