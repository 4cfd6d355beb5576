//! Pages of programs that a device shares, moved while both use them: a device that writes between
//! copy and switch never loses a byte, and each step that is left out is noticed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use dmakit_addr::{DmaAddr, Granule, Iova, IovaRange, NodeId, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{Gather, PageTable, Permissions, WalkCoherence};
use dmakit_iommu::Invalidation;
use dmakit_phys::{
    DeviceMappings, Frame, FrameRequest, MigrationCause, MovableMemory, NotMoved, PageAllocator,
    Refusal,
};
use dmakit_sim::{
    DeviceConfig, DmaFault, LineLoan, Machine, MachineConfig, MachineMemory, Mover, Programs, Rng,
    SimDevice, SimSmmu, SmmuConfig, Transfer,
};
use dmakit_smmuv3::{Config, Context, Smmu};

const STREAM: u32 = 0x42;
const PAGES: u64 = 24;
const IOVA: u64 = 1 << 30;

/// Which step of the device's side is left out, or out of its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutant {
    Nothing,
    /// The entry is cleared, and caches still have it.
    NoInvalidation,
    /// The invalidation is queued, and nobody waits for it.
    NoSync,
    /// The bytes are copied, and only then is the device kept out.
    QuiesceAfterCopy,
    /// The entry leads from the old frame to the new one with nothing between.
    MakeBeforeBreak,
    /// The device is let in again before the bytes are copied.
    EarlyResume,
    /// The entry goes on leading to the old frame.
    NoRedirect,
}

type Driver = Smmu<Machine, SimSmmu, MachineMemory>;
type Tables = PageTable<Lpae, Machine, MachineMemory>;

/// How the device reaches the pages: through entries that are cleared while their page moves.
struct Shared {
    driver: Driver,
    tables: Tables,
    context: Context,
    mutant: Mutant,
    /// The device's address of each page, by its frame.
    at: Mutex<BTreeMap<Pfn, Iova>>,
    /// Whether a quiesce fails.
    refuses: AtomicBool,
}

/// An entry that was cleared: where it is to lead.
struct Cleared {
    at: Iova,
    frames: PfnRange,
}

impl Shared {
    fn entry(&self, at: Iova) -> IovaRange {
        IovaRange::new(at, 4096).unwrap()
    }

    fn map(&self, at: Iova, frames: PfnRange) {
        let start = frames.bytes().unwrap().start();
        self.tables
            .map(self.entry(at), start, Permissions::READ_WRITE)
            .unwrap();
        self.at.lock().unwrap().insert(frames.start(), at);
    }

    /// Breaks an entry, as completely as the mutant lets it.
    fn unmap(&self, at: Iova) {
        let mut gather = Gather::new();
        self.tables.unmap(self.entry(at), &mut gather).unwrap();
        let what = Invalidation {
            range: self.entry(at),
            granule: Granule::K4,
            leaf_height: Some(0),
            leaf_shift: Some(12),
            tables: false,
        };
        if self.mutant != Mutant::NoInvalidation {
            self.driver.invalidate(self.context.tag(), &what).unwrap();
        }
        if !matches!(self.mutant, Mutant::NoInvalidation | Mutant::NoSync) {
            self.driver.sync().unwrap();
        }
        self.tables.recycle(gather);
    }
}

impl DeviceMappings for Shared {
    type Quiesced = Option<Cleared>;

    fn quiesce(&self, frames: PfnRange) -> Result<Option<Cleared>, Refusal> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Refusal::Busy);
        }
        let at = self.at.lock().unwrap().remove(&frames.start());
        let Some(at) = at else {
            return Ok(None);
        };
        match self.mutant {
            Mutant::QuiesceAfterCopy | Mutant::MakeBeforeBreak => {}
            _ => self.unmap(at),
        }
        if self.mutant == Mutant::EarlyResume {
            self.map(at, frames);
        }
        Ok(Some(Cleared { at, frames }))
    }

    fn redirect(&self, cleared: &mut Option<Cleared>, to: PfnRange) -> Result<(), Refusal> {
        let Some(cleared) = cleared else {
            return Ok(());
        };
        match self.mutant {
            Mutant::QuiesceAfterCopy => self.unmap(cleared.at),
            Mutant::MakeBeforeBreak => {
                self.unmap(cleared.at);
                self.map(cleared.at, to);
            }
            Mutant::EarlyResume => {
                self.at.lock().unwrap().remove(&cleared.frames.start());
                self.unmap(cleared.at);
            }
            _ => {}
        }
        if self.mutant == Mutant::NoRedirect {
            let start = cleared.frames.bytes().unwrap().start();
            self.tables
                .map(self.entry(cleared.at), start, Permissions::READ_WRITE)
                .unwrap();
            self.at.lock().unwrap().insert(to.start(), cleared.at);
        }
        cleared.frames = to;
        Ok(())
    }

    fn resume(&self, cleared: Option<Cleared>) {
        match (cleared, self.mutant) {
            (None, _) | (_, Mutant::MakeBeforeBreak | Mutant::NoRedirect) => {}
            (Some(cleared), _) => self.map(cleared.at, cleared.frames),
        }
    }
}

struct Rig {
    machine: Machine,
    programs: Programs,
    memory: MovableMemory<Machine, Vec<Frame>, Mover<Shared>>,
    device: SimDevice,
    rng: Rng,
    /// Times that the device met a page that was being moved.
    faults: u64,
}

impl Rig {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let ram = |start: u64, mib: u64| PhysRange::new(PhysAddr::new(start), mib << 20).unwrap();
        let config = MachineConfig::new(seed);
        let config = config.node(&[ram(1 << 34, 4)]).node(&[ram(2 << 34, 4)]);
        let machine = config.node(&[ram(3 << 34, 4)]).build().unwrap();
        // The third node is for tables and queues.
        let third = NodeId::new(2);
        let tables = MachineMemory::of_segments(&machine, third, machine.take_ram(third));
        let regs = machine.add_smmu(SmmuConfig::default());
        let device = machine.add_device(DeviceConfig::new().stream(regs.id(), STREAM));
        let config = Config {
            command_shift: 6,
            event_shift: 6,
            ..Config::default()
        };
        let driver = Driver::start(machine.clone(), regs, tables.clone(), config).unwrap();
        let format = Lpae::new(Stage::One, Granule::K4, 40, 44, ContiguousHint::Never).unwrap();
        let coherence = WalkCoherence::Coherent;
        let tables = Tables::new(format, machine.clone(), tables, None, coherence).unwrap();
        let context = driver.create_context(&tables).unwrap();
        driver.attach(STREAM, &context).unwrap();
        let shared = Shared {
            driver,
            tables,
            context,
            mutant,
            at: Mutex::default(),
            refuses: AtomicBool::new(false),
        };
        let map = machine.memory_map().unwrap();
        type Allocator = PageAllocator<Machine, Vec<Frame>>;
        let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
        let allocator = Allocator::new(&map, &[], table).unwrap();
        let programs = Programs::new(&machine, seed);
        let mover = Mover::with_devices(&machine, &programs, shared);
        let memory = MovableMemory::new(machine.clone(), allocator, mover);
        for index in 0..PAGES {
            let request = FrameRequest {
                node: Some(NodeId::new(0)),
                ..FrameRequest::movable(1, Mover::ID)
            };
            let frames = memory.allocator().allocate(&request).unwrap();
            let range = frames.range();
            let page = programs.add(frames);
            assert_eq!(page.raw(), index);
            memory.movers().devices().map(iova(index), range);
        }
        Self {
            machine,
            programs,
            memory,
            device,
            rng: Rng::derived(seed, 4),
            faults: 0,
        }
    }

    /// Writes of the device on their way, a move, and the writes to their end.
    fn round(&mut self) {
        let moved = self.rng.below(PAGES);
        let mut writes = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            // Most of them where it hurts.
            let page = match self.rng.chance(192) {
                true => moved,
                false => self.rng.below(PAGES),
            };
            writes.extend(self.start(page));
        }
        self.machine.disturb();
        let page = self.programs.page(moved as usize).unwrap();
        let frame = self.programs.range_of(page).unwrap().start();
        let node = NodeId::new(self.rng.below(2) as u16);
        let cause = MigrationCause::NumaBalancing;
        self.memory.migrate(frame, cause, Some(node)).unwrap();
        for (write, transfer) in writes {
            self.finish(write, transfer);
        }
        self.programs.run(4);
        self.programs.check();
        let driver = &self.memory.movers().devices().driver;
        driver.take_events(|_| ());
    }

    /// One long write, whose parts land one by one.
    fn start(&mut self, page: u64) -> Option<(Write, Transfer)> {
        let first = self.rng.below(64) as usize;
        let last = first + self.rng.below(64) as usize;
        let id = self.programs.page(page as usize)?;
        let lines = first..64.min(last + 1);
        let loans = lines.map_while(|line| self.programs.lend_line(id, line));
        let loans: Vec<LineLoan> = loans.collect();
        let at = iova(page).raw() + loans.first()?.offset();
        let bytes = loans.iter().flat_map(|loan| loan.bytes()).copied();
        let write = Write {
            at: DmaAddr::new(at),
            bytes: bytes.collect(),
            loans,
        };
        let transfer = self.device.start_write(write.at, &write.bytes);
        Some((write, transfer))
    }

    /// A device that faults tries again, as one with page requests does.
    fn finish(&mut self, write: Write, transfer: Transfer) {
        let mut outcome = self.device.complete(transfer).map(|_| ());
        while let Err(fault) = outcome {
            assert!(matches!(fault, DmaFault::NotTranslated(_)), "{fault}");
            self.faults += 1;
            self.machine.disturb();
            outcome = self.device.write(write.at, &write.bytes);
        }
        for loan in write.loans {
            self.programs.finish_line(loan, true);
        }
    }

    /// How many rounds went well before bytes were lost.
    fn rounds(&mut self, count: u64) -> u64 {
        for done in 0..count {
            self.round();
            if self.programs.uses().damaged > 0 {
                return done;
            }
        }
        count
    }
}

/// What the device is to write.
struct Write {
    at: DmaAddr,
    bytes: Vec<u8>,
    loans: Vec<LineLoan>,
}

fn iova(page: u64) -> Iova {
    Iova::new(IOVA + page * 4096)
}

#[test]
fn a_device_that_writes_between_copy_and_switch_never_loses_a_byte() {
    let (mut faults, mut moved) = (0, 0);
    for seed in 0..12 {
        let mut rig = Rig::new(seed, Mutant::Nothing);
        let done = rig.rounds(120);
        let uses = rig.programs.uses();
        assert_eq!(done, 120, "seed {seed}: {:?}", uses.damage);
        rig.machine.check().unwrap();
        faults += rig.faults;
        moved += uses.moved;
    }
    println!("{moved} pages moved, {faults} writes met one on its way");
    assert!(faults > 0, "no write ever met a page on its way");
}

#[test]
fn each_step_that_is_left_out_loses_bytes() {
    for mutant in [
        Mutant::NoInvalidation,
        Mutant::NoSync,
        Mutant::QuiesceAfterCopy,
        Mutant::MakeBeforeBreak,
        Mutant::EarlyResume,
        Mutant::NoRedirect,
    ] {
        let survived = (0..6).find(|seed| Rig::new(*seed, mutant).rounds(400) == 400);
        assert_eq!(survived, None, "{mutant:?} survived a seed");
    }
}

#[test]
fn a_page_whose_device_does_not_rest_stays_and_works_on() {
    let mut rig = Rig::new(3, Mutant::Nothing);
    let shared = rig.memory.movers().devices();
    shared.refuses.store(true, Ordering::Relaxed);
    let page = rig.programs.page(5).unwrap();
    let before = rig.programs.range_of(page).unwrap();
    let free = rig.memory.allocator().free_frames();
    let refused = rig
        .memory
        .migrate(before.start(), MigrationCause::Compaction, None);
    assert_eq!(refused, Err(NotMoved::Refused(Refusal::Busy)));
    assert_eq!(rig.programs.range_of(page), Some(before));
    assert_eq!(rig.memory.allocator().free_frames(), free);
    shared.refuses.store(false, Ordering::Relaxed);
    assert_eq!(rig.rounds(20), 20);
}

#[test]
fn a_program_that_holds_its_page_lets_the_device_in_again() {
    let mut rig = Rig::new(4, Mutant::Nothing);
    let page = rig.programs.page(7).unwrap();
    let before = rig.programs.range_of(page).unwrap();
    assert!(rig.programs.hold(page));
    let refused = rig
        .memory
        .migrate(before.start(), MigrationCause::HugePage, None);
    assert_eq!(refused, Err(NotMoved::Refused(Refusal::Busy)));
    let faults = rig.device.faults().len();
    let (write, transfer) = rig.start(7).unwrap();
    rig.finish(write, transfer);
    assert_eq!(rig.device.faults().len(), faults, "the entry is as before");
    rig.programs.release(page);
    assert_eq!(rig.rounds(20), 20);
}
