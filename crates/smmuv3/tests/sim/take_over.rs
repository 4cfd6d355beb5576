//! An SMMU that is found running, with devices that nobody has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dmakit_addr::{Direction, DmaAddr, DmaMask, PhysAddr, PhysRange};
use dmakit_io_pgtable::Permissions;
use dmakit_io_pgtable::lpae::Stage;
use dmakit_platform::Mmio;
use dmakit_sim::{DeviceConfig, MemoryKind, SimDevice, SimSmmu};
use dmakit_smmuv3::spec::registers::{CR0, CR0_SMMUEN, EVENTQ_BASE, GBPA};
use dmakit_smmuv3::{InUse, InUseError, Inherited, Smmu, StartError, Tag};

use crate::rig::{Driver, Mutant, Rig, STREAM, Shape, TestDomain, faults};

/// Of a device that firmware uses, past the SMMU.
const FIRMWARE: u32 = 0x210;
/// Of a device whose mappings end with their owner.
const STRANGER: u32 = 0x300;

/// Registers at each access of which a device tries to get past translation.
#[derive(Clone)]
struct Watched {
    inner: SimSmmu,
    device: SimDevice,
    /// An address that is mapped for the device, and one that is only that of memory.
    live: DmaAddr,
    through: DmaAddr,
    has_abort: bool,
    /// Accesses while translation was off; what landed then, in either place.
    gap: Arc<AtomicU32>,
    landed: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Watched {
    fn new(rig: &Rig, live: DmaAddr, through: PhysRange) -> Self {
        Self {
            inner: rig.smmu.clone(),
            device: rig.device.clone(),
            live,
            through: DmaAddr::new(through.start().raw()),
            has_abort: true,
            gap: Arc::default(),
            landed: Arc::default(),
            is_over: Arc::default(),
        }
    }

    fn try_now(&self) {
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        let is_off = self.inner.read32(CR0) & CR0_SMMUEN == 0;
        let live = self.device.write(self.live, &[0x99; 64]).is_ok() && is_off;
        let through = self.device.write(self.through, &[0x99; 64]).is_ok();
        self.gap.fetch_add(is_off.into(), Ordering::Relaxed);
        let landed = u32::from(live) + u32::from(through);
        self.landed.fetch_add(landed, Ordering::Relaxed);
    }

    /// What happened; nothing is tried any more.
    fn end(&self) -> [u32; 2] {
        self.is_over.store(true, Ordering::Relaxed);
        [&self.gap, &self.landed].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Mmio for Watched {
    fn read32(&self, offset: u64) -> u32 {
        self.try_now();
        self.inner.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.inner.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        if offset != GBPA || self.has_abort {
            self.inner.write32(offset, value);
        }
        self.try_now();
    }

    fn write64(&self, offset: u64, value: u64) {
        self.inner.write64(offset, value);
        self.try_now();
    }
}

fn shapes() -> [Shape; 4] {
    let plain = Shape::default();
    let (mut linear, mut not_coherent) = (plain, plain);
    linear.smmu.stream_bits = 10;
    linear.driver.two_levels = false;
    not_coherent.smmu.coherent = false;
    let stage = Stage::Two;
    [plain, linear, not_coherent, Shape { stage, ..plain }]
}

/// An owner at work, and what it had lent.
struct Owner<'a> {
    domains: [TestDomain<'a>; 2],
    /// What the device, the one of firmware and the stranger write to.
    memory: [PhysRange; 3],
    live: DmaAddr,
    firmware: SimDevice,
    stranger: SimDevice,
}

fn at_work<'a>(rig: &Rig, driver: &'a Driver) -> Owner<'a> {
    let [firmware, stranger] = [FIRMWARE, STRANGER].map(|stream| {
        let config = DeviceConfig::new().coherent(true);
        rig.machine.add_device(config.stream(rig.smmu.id(), stream))
    });
    let memory = [0, 1, 0].map(|node| {
        let buffer = rig.buffer(4096, node);
        buffer.window().fill(0xee);
        buffer.range()
    });
    let mine = rig.domain(driver, Mutant::Nothing);
    let other = rig.detached_domain(driver, Mutant::Nothing);
    let context = other.hardware().inner.context();
    driver.attach(STRANGER, context).unwrap();
    driver.bypass(FIRMWARE).unwrap();
    for (device, run) in [(&rig.device, memory[0]), (&rig.device, memory[1])] {
        device.grant(run, Direction::Bidirectional);
    }
    firmware.grant(memory[1], Direction::Bidirectional);
    stranger.grant(memory[2], Direction::Bidirectional);
    let map = |domain, run| rig.map(domain, &[run], Permissions::READ_WRITE, DmaMask::ALL);
    let mapped = map(&mine, memory[0]);
    let live = DmaAddr::new(mapped.range().start().raw());
    assert_eq!(map(&other, memory[2]).range(), mapped.range());
    rig.device.write(live, &[1; 64]).unwrap();
    stranger.write(live, &[1; 64]).unwrap();
    let past = DmaAddr::new(memory[1].start().raw());
    firmware.write(past, &[1; 64]).unwrap();
    assert_eq!(faults(driver), []);
    Owner {
        domains: [mine, other],
        memory,
        live,
        firmware,
        stranger,
    }
}

fn word(rig: &Rig, at: PhysAddr) -> Option<u64> {
    let mut bytes = [0; 8];
    rig.machine
        .peek(at, &mut bytes)
        .then_some(u64::from_le_bytes(bytes))
}

/// What the tables and queues of an owner hold, but for the queue into which the SMMU writes.
fn tables(rig: &Rig) -> Vec<(PhysRange, Vec<u8>)> {
    let events = rig.smmu.read64(EVENTQ_BASE) & 0x000f_ffff_ffff_ffe0;
    let given = rig.memory.outstanding().into_iter();
    let tables = given.filter(|given| {
        let start = given.range.start().raw();
        given.kind == MemoryKind::Table && start != events
    });
    tables
        .map(|given| (given.range, bytes(rig, given.range)))
        .collect()
}

fn bytes(rig: &Rig, range: PhysRange) -> Vec<u8> {
    let mut bytes = vec![0; range.len() as usize];
    assert!(rig.machine.peek(range.start(), &mut bytes));
    bytes
}

fn are_as_they_were(rig: &Rig, tables: &[(PhysRange, Vec<u8>)]) -> bool {
    tables
        .iter()
        .all(|(range, before)| bytes(rig, *range) == *before)
}

fn first(rig: &Rig, run: PhysRange) -> Vec<u8> {
    bytes(rig, run.slice(0, 64).unwrap())
}

#[test]
fn devices_of_a_crashed_owner_are_aborted_from_the_first_moment_on() {
    for (seed, shape) in (0..).zip(shapes().repeat(4)) {
        let rig = Rig::new(seed, shape);
        let old = rig.driver();
        let owner = at_work(&rig, &old);
        let [live, past] = [owner.live, DmaAddr::new(owner.memory[1].start().raw())];
        let late = rig.device.start_write(live, &[0x77; 4096]);
        let (before, given) = (tables(&rig), rig.memory.outstanding());
        let regs = Watched::new(&rig, live, owner.memory[1]);
        let new = rig.driver_over(regs.clone());
        let [gap, landed] = regs.end();
        assert!(gap > 10 && landed == 0, "{gap}, {landed}");
        drop(rig.device.complete(late));
        let kept = owner.memory.map(|run| first(&rig, run));
        assert!(rig.device.write(live, &[2; 64]).is_err());
        assert!(owner.stranger.write(live, &[2; 64]).is_err());
        assert!(owner.firmware.write(past, &[2; 64]).is_err());
        assert_eq!(owner.memory.map(|run| first(&rig, run)), kept);
        let seen = faults(&new);
        let named =
            [STREAM, FIRMWARE, STRANGER].map(|id| seen.iter().any(|fault| fault.stream == id));
        // A table that has them all aborts them in silence.
        assert_eq!(named, [shape.driver.two_levels; 3]);
        new.stop().unwrap();
        assert_eq!(
            rig.memory.outstanding(),
            given,
            "what the old owner had stays"
        );
        assert!(are_as_they_were(&rig, &before));
    }
}

#[test]
fn streams_found_in_a_crashed_owners_tables_go_on_after_an_aborted_gap() {
    for (seed, shape) in (0..).zip(shapes().repeat(4)) {
        let rig = Rig::new(seed, shape);
        let old = rig.driver();
        let owner = at_work(&rig, &old);
        let [live, past] = [owner.live, DmaAddr::new(owner.memory[1].start().raw())];
        let before = tables(&rig);
        // All that is known of them is in registers and memory.
        let found = [STREAM, FIRMWARE].map(|stream| {
            let found = InUse::read(&rig.smmu, stream, |at| word(&rig, at));
            (stream, found.unwrap())
        });
        let context = owner.domains[0].hardware().inner.context();
        let tag = match context.tag() {
            Tag::Asid(asid) => (Some(asid), None),
            Tag::Vmid(vmid) => (None, Some(vmid)),
        };
        assert_eq!((found[0].1.asid, found[0].1.vmid), tag);
        assert_eq!((found[1].1.asid, found[1].1.vmid), (None, None));
        let regs = Watched::new(&rig, live, owner.memory[1]);
        let inherited = Inherited {
            streams: &found.map(|(stream, found)| (stream, found.entry)),
            asids: found[0].1.asid.as_slice(),
            vmids: found[0].1.vmid.as_slice(),
        };
        let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
        let new = Smmu::take_over(machine, regs.clone(), memory, shape.driver, inherited).unwrap();
        let [gap, landed] = regs.end();
        assert!(gap > 10 && landed == 0, "{gap}, {landed}");
        faults(&new);
        rig.device.write(live, &[2; 64]).unwrap();
        owner.firmware.write(past, &[3; 64]).unwrap();
        assert_eq!(first(&rig, owner.memory[0]), [2; 64]);
        assert_eq!(first(&rig, owner.memory[1]), [3; 64]);
        assert_eq!(faults(&new), []);
        // Not inherited.
        assert!(owner.stranger.write(live, &[4; 64]).is_err());
        assert_eq!(first(&rig, owner.memory[2]), [1; 64]);
        let domain = rig.detached_domain(&new, Mutant::Nothing);
        let fresh = domain.hardware().inner.context().tag();
        assert_ne!(fresh, context.tag(), "never given out");
        drop(domain);
        new.stop().unwrap();
        assert!(are_as_they_were(&rig, &before));
    }
}

/// What the two tests above would see of an SMMU that cannot abort while it is off.
#[test]
fn a_bypass_in_the_gap_is_seen() {
    let rig = Rig::new(1, Shape::default());
    let old = rig.driver();
    let owner = at_work(&rig, &old);
    let mut regs = Watched::new(&rig, owner.live, owner.memory[1]);
    regs.has_abort = false;
    drop(rig.driver_over(regs.clone()));
    let [gap, landed] = regs.end();
    assert!(gap > 10 && landed > 10, "{gap}, {landed}");
}

#[test]
fn what_cannot_be_inherited_is_said() {
    let rig = Rig::new(1, Shape::default());
    let read = |stream| InUse::read(&rig.smmu, stream, |at| word(&rig, at));
    assert_eq!(read(STREAM), Err(InUseError::Off));
    let old = rig.driver();
    let stream = STREAM;
    assert_eq!(
        read(stream),
        Err(InUseError::Invalid { stream }),
        "no table"
    );
    old.detach(stream).unwrap();
    let aborted = read(stream).unwrap();
    assert_eq!((aborted.asid, aborted.vmid), (None, None));
    let substreams = old.open_substreams(stream, 8, true).unwrap();
    assert_eq!(read(stream), Err(InUseError::Substreams { stream }));
    old.close_substreams(substreams).unwrap();
    let unreadable = InUse::read(&rig.smmu, stream, |_| None);
    assert!(matches!(unreadable, Err(InUseError::Unreadable { .. })));
    let given = rig.memory.outstanding();
    let inherited = Inherited {
        streams: &[(STREAM, aborted.entry), (1 << 16, aborted.entry)],
        ..Inherited::default()
    };
    let (machine, memory) = (rig.machine.clone(), rig.memory.clone());
    let refused = Smmu::take_over(
        machine,
        rig.smmu.clone(),
        memory,
        rig.shape.driver,
        inherited,
    );
    let stream = 1 << 16;
    assert_eq!(refused.err(), Some(StartError::Inherit { stream }));
    assert_eq!(rig.memory.outstanding(), given);
    old.sync().unwrap();
}
