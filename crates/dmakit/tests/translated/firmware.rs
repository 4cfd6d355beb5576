//! A device that firmware left running goes on while its driver takes over.

use dmakit::addr::{Direction, DmaAddr, Granule, Iova, IovaRange};
use dmakit::io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit::io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit::iommu::{Domain, DomainId};
use dmakit::iova::{CpuCache, Policy, Space};
use dmakit::platform::{CpuSlot, Platform};
use dmakit::smmuv3::spec::ste::BYPASS;
use dmakit::smmuv3::{Config, Inherited, Smmu, Translation};

use crate::rig::{Rig, STREAM};

#[test]
fn a_region_of_firmware_is_reached_before_and_after_its_stream_is_attached() {
    let rig = Rig::coherent(40);
    let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
    // What firmware shows a picture from.
    let picture = rig.segment(0x3000);
    rig.sim.grant(picture.range(), Direction::Bidirectional);
    rig.sim.confine();
    let at = DmaAddr::new(picture.range().start().raw());
    let beyond = DmaAddr::new(at.raw() + 0x3000);
    let write = |at: DmaAddr| rig.sim.write(at, &[7; 64]).is_ok();

    let inherited = Inherited {
        streams: &[(STREAM, BYPASS)],
        ..Inherited::default()
    };
    let (regs, config) = (rig.smmu.clone(), Config::default());
    let driver = Smmu::take_over(machine.clone(), regs, memory.clone(), config, inherited).unwrap();
    assert!(write(at), "nothing has changed for the device");

    let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
    let cpus: Vec<_> = (0..machine.cpu_count())
        .map(|_| CpuSlot::<CpuCache>::default())
        .collect();
    let aperture = IovaRange::new(Iova::new(0), 1 << 40).unwrap();
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).unwrap();
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, machine.clone(), memory, None, coherence).unwrap();
    let context = driver.create_context(&table).unwrap();
    let domain = Domain::new(
        DomainId(9),
        space,
        table,
        Translation::new(&driver, context),
    );
    let region = domain.map_identity(picture.range(), Permissions::READ_WRITE);
    let region = region.unwrap();
    driver.attach(STREAM, domain.hardware().context()).unwrap();
    assert!(write(at), "translated to where it was");
    assert!(!write(beyond), "and to nowhere else");

    let Err((domain, used)) = domain.close() else {
        panic!("the region is mapped");
    };
    assert_eq!(used, 0x3000);
    let ticket = domain.unmap_identity(region).unwrap().unwrap();
    let proof = domain.sync().unwrap();
    domain.redeem(&machine.enter_cpu(), ticket, &proof).unwrap();
    rig.sim.revoke(picture.range(), Direction::Bidirectional);
    assert!(!write(at), "the driver has taken over");
    driver.detach(STREAM).unwrap();
    let Ok((hardware, table)) = domain.close() else {
        panic!("nothing is mapped");
    };
    driver.release_context(hardware.into_context()).unwrap();
    drop(table);
    driver.stop().unwrap();
    machine.check().unwrap();
}
