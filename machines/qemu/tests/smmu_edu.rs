//! The SMMUv3 driver and Arm page tables against QEMU's SMMUv3, with `edu` as the device.

use std::sync::Mutex;
use std::time::Duration;

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_platform::host::HostPlatform;
use dmakit_platform::{Mmio, NoMemory, Segment, SegmentRequest, TableMemory};
use dmakit_qemu::{Config, FunctionId, Machine, QemuMmio};
use dmakit_smmuv3::spec::event::{Event, EventKind};
use dmakit_smmuv3::{Context, Smmu};

const EDU: FunctionId = FunctionId::on_root(2, 0);

struct Bump(Mutex<Option<Segment>>);

impl TableMemory for &Bump {
    fn allocate_table(&self, request: &SegmentRequest) -> Result<Segment, NoMemory> {
        let refused = NoMemory {
            request: *request,
            largest_free: None,
        };
        let mut rest = self.0.lock().unwrap();
        let segment = rest.take().ok_or(refused)?;
        let start = segment.range().start().raw();
        let skip = start.next_multiple_of(request.align) - start;
        let (_, segment) = segment.split_at(skip).map_err(|_| refused)?;
        let (segment, left) = segment.split_at(request.len).map_err(|_| refused)?;
        *rest = Some(left);
        segment.window().fill(0);
        Ok(segment)
    }

    fn free_table(&self, _segment: Segment) {}
}

struct Rig {
    machine: Machine,
    edu: QemuMmio,
    buffers: Segment,
    memory: Bump,
}

fn rig() -> Rig {
    let mut config = Config::virt();
    config
        .devices
        .push("edu,addr=2,dma_mask=0xffffffffffffffff".into());
    let (machine, mut ram) = Machine::start(&config).unwrap();
    let edu = machine.pci().enable(EDU).unwrap().bar(0).unwrap();
    let memory = Bump(Mutex::new(ram.pop()));
    Rig {
        machine,
        edu,
        buffers: ram.pop().unwrap(),
        memory,
    }
}

type Stack<'a> = (
    Smmu<HostPlatform, QemuMmio, &'a Bump>,
    PageTable<Lpae, HostPlatform, &'a Bump>,
    Context,
);

impl Rig {
    fn stack(&self, granule: Granule) -> Stack<'_> {
        let regs = self.machine.mmio(PhysAddr::new(0x0905_0000));
        let platform = self.machine.platform();
        let smmu = Smmu::start(
            platform.clone(),
            regs,
            &self.memory,
            dmakit_smmuv3::Config::default(),
        )
        .unwrap();
        let format = Lpae::new(Stage::One, granule, 48, 44, ContiguousHint::Never).unwrap();
        let table = PageTable::new(
            format,
            platform,
            &self.memory,
            None,
            WalkCoherence::Coherent,
        )
        .unwrap();
        let context = smmu.create_context(&table).unwrap();
        smmu.attach(EDU.raw().into(), &context).unwrap();
        (smmu, table, context)
    }

    /// One transfer of `edu`, to (`true`) or from its own buffer.
    fn transfer(&self, address: u64, len: u64, to_device: bool) {
        let (source, target, command) = match to_device {
            true => (address, 0x4_0000, 1),
            false => (0x4_0000, address, 3),
        };
        self.edu.write64(0x80, source);
        self.edu.write64(0x88, target);
        self.edu.write64(0x90, len);
        self.edu.write64(0x98, command);
        self.machine
            .wait_for("end of transfer", Duration::from_secs(5), || {
                (self.edu.read64(0x98) & 1 == 0).then_some(())
            })
            .unwrap();
    }

    fn bytes(&self, phys: PhysAddr, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.machine
            .hardware_window(PhysRange::new(phys, len).unwrap())
            .unwrap()
            .read(&mut bytes);
        bytes
    }
}

fn events(smmu: &Smmu<HostPlatform, QemuMmio, &Bump>) -> Vec<Event> {
    let mut events = Vec::new();
    smmu.take_events(|event| events.push(event));
    events
}

#[test]
fn edu_reaches_what_is_mapped_and_faults_on_the_rest() {
    let rig = rig();
    let (smmu, table, context) = rig.stack(Granule::K4);
    let page = rig.buffers.window().slice(0x20_0000, 0x3000).unwrap();
    page.fill(0xee);
    page.slice(0, 256).unwrap().write(&[0x5a; 256]);
    let phys = page.range().start();
    let iova = Iova::new(0x7654_3210_5000);
    let range = IovaRange::new(iova, 0x2000).unwrap();
    table.map(range, phys, Permissions::READ_WRITE).unwrap();

    rig.transfer(iova.raw(), 256, true);
    rig.transfer(iova.raw() + 0x1ff0 - 0x1000 + 8, 256, false);
    assert_eq!(events(&smmu), []);
    let bytes = rig.bytes(phys, 0x3000);
    assert!(
        bytes[0xff8..0x10f8].iter().all(|&b| b == 0x5a),
        "across the page"
    );
    assert!(
        bytes[256..0xff8]
            .iter()
            .chain(&bytes[0x10f8..])
            .all(|&b| b == 0xee)
    );

    let mut gather = Gather::new();
    table.unmap(range, &mut gather).unwrap();
    // Positive control: without invalidation the old translation is still used.
    rig.transfer(iova.raw(), 64, false);
    assert_eq!(events(&smmu), [], "QEMU's translation cache is real");
    smmu.invalidate_gather(&context, &table, &gather).unwrap();
    smmu.sync().unwrap();
    table.recycle(gather);
    page.fill(0xee);
    rig.transfer(iova.raw(), 64, false);
    let events = events(&smmu);
    assert!(!events.is_empty());
    for event in events {
        assert_eq!(event.kind, EventKind::Translation);
        assert_eq!(event.stream, u32::from(EDU.raw()));
        assert!(
            !event.is_read && range.contains(Iova::new(event.address)),
            "{event:?}"
        );
    }
    assert!(
        rig.bytes(phys, 0x3000).iter().all(|&b| b == 0xee),
        "nothing landed"
    );
}

#[test]
fn every_granule_and_block_size_leads_where_it_says() {
    let rig = rig();
    let window = rig.buffers.window();
    for (granule, sizes) in [
        (Granule::K4, &[1_u64 << 12, 1 << 21][..]),
        (Granule::K16, &[1 << 14, 1 << 25]),
        (Granule::K64, &[1 << 16]),
    ] {
        let (smmu, table, _context) = rig.stack(granule);
        for &size in sizes {
            let phys = PhysAddr::new(0x4000_0000u64.next_multiple_of(size) + size.max(1 << 22));
            let at = phys.raw() - window.range().start().raw() + size - 64;
            let target = window.slice(at, 64).unwrap();
            target.fill(0xee);
            let iova = Iova::new((1 << 40) + size * 3);
            table
                .map(
                    IovaRange::new(iova, size).unwrap(),
                    phys,
                    Permissions::READ_WRITE,
                )
                .unwrap();
            assert_eq!(table.leaf_at(iova).unwrap().range.len(), size);
            let source = window.slice(0x1000, 64).unwrap();
            source.write(&[size.trailing_zeros() as u8; 64]);
            let from = Iova::new((1 << 40) - granule.bytes());
            let frame = PhysAddr::new(source.range().start().raw() & !granule.mask());
            let offset = source.range().start().raw() - frame.raw();
            let range = IovaRange::new(from, granule.bytes()).unwrap();
            let mut gather = Gather::new();
            table.map(range, frame, Permissions::READ).unwrap();
            rig.transfer(from.raw() + offset, 64, true);
            rig.transfer(iova.raw() + size - 64, 64, false);
            assert_eq!(events(&smmu), [], "{granule:?} {size:#x}");
            let mut bytes = [0; 64];
            target.read(&mut bytes);
            assert_eq!(
                bytes,
                [size.trailing_zeros() as u8; 64],
                "{granule:?} {size:#x}"
            );
            table.unmap(range, &mut gather).unwrap();
            smmu.invalidate_all(_context.tag()).unwrap();
            smmu.sync().unwrap();
        }
        smmu.detach(EDU.raw().into()).unwrap();
    }
}
