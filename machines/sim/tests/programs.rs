//! Programs whose pages are moved while they use them: what a correct move keeps, and a wrong one
//! loses.

use dmakit_addr::{DmaAddr, Pfn, PfnRange, PhysAddr, PhysRange};
use dmakit_phys::{
    CpuMappings, DeviceMappings, Frame, FrameRequest, Frames, MoverId, PageAllocator, Refusal,
    migrate_mapped,
};
use dmakit_platform::Platform;
use dmakit_sim::{
    BUS_OFFSET, DeviceConfig, LineLoan, Machine, MachineConfig, PageId, Programs, Rng, SimDevice,
};

type Allocator = PageAllocator<Machine, Vec<Frame>>;

/// What is left out of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutant {
    Nothing,
    NoExclusion,
    NoCopy,
    CopyBeforeExclusion,
    WrongFrame,
}

struct Rig {
    machine: Machine,
    allocator: Allocator,
    programs: Programs,
    rng: Rng,
}

impl Rig {
    fn new(seed: u64, pages: u64) -> Self {
        let node = |start: u64| PhysRange::new(PhysAddr::new(start), 8 << 20).unwrap();
        let config = MachineConfig::new(seed);
        let config = config.node(&[node(1 << 36)]).node(&[node(2 << 36)]);
        let machine = config.build().unwrap();
        let map = machine.memory_map().unwrap();
        let table = vec![Frame::default(); Allocator::table_entries(&map) as usize];
        let rig = Self {
            allocator: PageAllocator::new(&map, &[], table).unwrap(),
            programs: Programs::new(&machine, seed),
            rng: Rng::derived(seed, 77),
            machine,
        };
        for index in 0..pages {
            let frames = rig.frames(1 + index % 3);
            rig.programs.add(frames);
        }
        rig
    }

    fn frames(&self, count: u64) -> Frames {
        let request = FrameRequest::movable(count, MoverId::new(1));
        self.allocator.allocate(&request).unwrap()
    }

    fn any_page(&mut self) -> PageId {
        let index = self.rng.below(self.programs.pages() as u64) as usize;
        self.programs.page(index).unwrap()
    }

    /// Moves some page, or not quite.
    fn move_one(&mut self, mutant: Mutant) {
        let page = self.any_page();
        let from = self.programs.range_of(page).unwrap();
        let to = self.frames(from.len());
        let target = to.range();
        if mutant == Mutant::CopyBeforeExclusion {
            self.programs.copy(from, target);
        }
        if mutant != Mutant::NoExclusion {
            assert_eq!(self.programs.exclude_writers(from), Ok(page));
        }
        match mutant {
            Mutant::NoCopy | Mutant::CopyBeforeExclusion => {}
            Mutant::WrongFrame => {
                let other = self.any_page();
                self.programs
                    .copy(self.programs.range_of(other).unwrap(), target);
            }
            _ => self.programs.copy(from, target),
        }
        self.programs.redirect(page, target);
        let old = self.programs.exchange(to);
        assert_eq!(old.range(), from);
        self.allocator.free(old).unwrap();
    }

    /// Steps and moves; how many moves went well before damage was seen.
    fn moves(&mut self, mutant: Mutant, count: u64) -> u64 {
        for done in 0..count {
            self.move_one(mutant);
            self.programs.run(2);
            self.programs.check();
            if self.programs.uses().damaged > 0 {
                return done;
            }
        }
        count
    }
}

#[test]
fn programs_never_notice_a_move_that_leaves_no_step_out() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed, 64);
        let done = rig.moves(Mutant::Nothing, 200);
        let uses = rig.programs.uses();
        assert_eq!((done, uses.damaged), (200, 0), "seed {seed}: {uses:?}");
        assert_eq!(uses.moved, 200);
        assert!(uses.waited > 0, "seed {seed}: nobody used what was moved");
        rig.machine.check().unwrap();
    }
}

#[test]
fn a_move_that_leaves_a_step_out_is_seen_at_every_seed() {
    for mutant in [
        Mutant::NoExclusion,
        Mutant::NoCopy,
        Mutant::CopyBeforeExclusion,
        Mutant::WrongFrame,
    ] {
        for seed in 0..20 {
            let done = Rig::new(seed, 64).moves(mutant, 400);
            assert!(done < 400, "{mutant:?} survived seed {seed}");
        }
    }
}

#[test]
fn what_is_held_moved_or_nobodys_stays_where_it_is() {
    let mut rig = Rig::new(1, 2);
    let page = rig.any_page();
    let from = rig.programs.range_of(page).unwrap();
    assert!(rig.programs.hold(page));
    assert_eq!(rig.programs.exclude_writers(from), Err(Refusal::Busy));
    rig.programs.release(page);
    assert_eq!(rig.programs.exclude_writers(from), Ok(page));
    assert_eq!(rig.programs.exclude_writers(from), Err(Refusal::Busy));
    assert!(!rig.programs.hold(page));
    assert!(rig.programs.remove(page).is_none());
    rig.programs.readmit(page);
    let nowhere = PfnRange::new(Pfn::new(3), 1).unwrap();
    assert_eq!(rig.programs.exclude_writers(nowhere), Err(Refusal::Gone));
    assert_eq!(rig.programs.range_of(page), Some(from));
    let frames = rig.programs.remove(page).unwrap();
    rig.allocator.free(frames).unwrap();
    assert!(rig.programs.page_in(from.start()).is_none());
    assert_eq!(rig.programs.pages(), 1);
}

#[test]
fn a_line_under_a_device_is_the_old_one_or_the_new_one_and_then_the_new_one() {
    let rig = Rig::new(3, 1);
    let device = rig.machine.add_device(DeviceConfig::new());
    let page = rig.programs.page(0).unwrap();
    let frame = rig
        .programs
        .range_of(page)
        .unwrap()
        .bytes()
        .unwrap()
        .start();
    for line in 0..64 {
        let loan = rig.programs.lend_line(page, line).unwrap();
        assert!(rig.programs.lend_line(page, line).is_none());
        let at = DmaAddr::new(frame.raw() + BUS_OFFSET + loan.offset());
        let transfer = device.start_write(at, loan.bytes());
        rig.programs.check();
        rig.programs.run(3);
        device.complete(transfer).unwrap();
        rig.programs.finish_line(loan, true);
    }
    assert_eq!(rig.programs.uses().damage, None);
    // One that did not come to pass.
    let loan = rig.programs.lend_line(page, 9).unwrap();
    rig.programs.finish_line(loan, true);
    let damage = rig.programs.uses().damage.unwrap();
    assert_eq!((damage.page, damage.line), (page, 9));
}

#[test]
fn a_copy_across_nodes_takes_longer_than_one_within() {
    let rig = Rig::new(5, 0);
    let frame = |at| PfnRange::new(Pfn::new(at), 1).unwrap();
    let [near, also_near, far] = [1 << 24, (1 << 24) + 1, 2 << 24].map(frame);
    let took = |to| {
        let before = rig.machine.now().as_nanos();
        rig.programs.copy(near, to);
        rig.machine.now().as_nanos() - before
    };
    assert_eq!((took(also_near), took(far)), (321, 736));
}

/// A driver that knows of its own DMA: the device's side of a move without an IOMMU.
struct Token {
    device: SimDevice,
    /// It says so without having looked.
    lies: bool,
}

impl DeviceMappings for Token {
    type Quiesced = ();

    fn quiesce(&self, _: PfnRange) -> Result<(), Refusal> {
        match self.lies || self.device.parts_in_flight() == 0 {
            true => Ok(()),
            false => Err(Refusal::Busy),
        }
    }

    fn redirect(&self, (): &mut (), _: PfnRange) -> Result<(), Refusal> {
        Ok(())
    }

    fn resume(&self, (): ()) {}
}

/// Moves pages under a device with writes on their way; how often the driver said no, and how many
/// lines were lost.
fn moves_by_token(seed: u64, lies: bool) -> (u64, u64) {
    let mut rig = Rig::new(seed, 8);
    let token = Token {
        device: rig.machine.add_device(DeviceConfig::new()),
        lies,
    };
    let mut refused = 0;
    for _ in 0..100 {
        let page = rig.any_page();
        let from = rig.programs.range_of(page).unwrap();
        let loans: Vec<LineLoan> = (0..32)
            .map_while(|line| rig.programs.lend_line(page, line))
            .collect();
        let bytes: Vec<u8> = loans.iter().flat_map(LineLoan::bytes).copied().collect();
        let at = DmaAddr::new(from.bytes().unwrap().start().raw() + BUS_OFFSET);
        let transfer = token.device.start_write(at, &bytes);
        let to = rig.frames(from.len());
        match migrate_mapped(&token, &rig.programs, from, to.range()) {
            Ok(()) => {
                let old = rig.programs.exchange(to);
                rig.allocator.free(old).unwrap();
            }
            Err(reason) => {
                assert_eq!(reason, Refusal::Busy);
                refused += 1;
                rig.allocator.free(to).unwrap();
            }
        }
        token.device.complete(transfer).unwrap();
        for loan in loans {
            rig.programs.finish_line(loan, true);
        }
        rig.programs.check();
    }
    (refused, rig.programs.uses().damaged)
}

#[test]
fn a_driver_that_knows_of_its_own_dma_loses_no_byte_and_one_that_lies_does() {
    for seed in 0..10 {
        let (refused, lost) = moves_by_token(seed, false);
        assert_eq!(lost, 0, "seed {seed}");
        assert!(refused > 0, "seed {seed}: nothing was ever on its way");
        let (_, lost) = moves_by_token(seed, true);
        assert!(lost > 0, "seed {seed}: a lie went unnoticed");
    }
}
