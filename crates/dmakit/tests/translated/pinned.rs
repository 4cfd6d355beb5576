//! A user's memory, pinned, in a request.

use std::sync::{Arc, Mutex};

use dmakit::addr::{Attributes, Bidirectional, PfnRange, PhysRange};
use dmakit::dma::DeviceInfo;
use dmakit::phys::{
    Account, ClaimLimits, Frame, FrameRequest, Frames, Migrate, Migration, MigrationCause,
    MovableMemory, MoverId, NotMoved, Pin, Refusal, Refused,
};
use dmakit::platform::{CopySource, CopyTarget, Instant, Segment, Window};
use dmakit_sim::Machine;

use crate::paging::{allocator, part};
use crate::rig::Rig;

const PAGES: u64 = 8;
/// The user's buffer: from the middle of its first page to the middle of its last.
const OFFSET: u64 = 0x340;
const LEN: u64 = PAGES * 4096 - OFFSET - 0x5c0;

/// Memory that only has to be somewhere.
#[derive(Default)]
struct Process(Mutex<Vec<Frames>>);

impl Migrate for Process {
    fn migrate(&self, migration: &Migration, to: Frames) -> Result<Frames, Refused> {
        let mut held = self.0.lock().unwrap();
        match held.iter_mut().find(|one| one.range() == migration.from) {
            Some(frames) => Ok(std::mem::replace(frames, to)),
            None => Err(Refused {
                to,
                reason: Refusal::Gone,
            }),
        }
    }
}

/// The bytes of the user's buffer, for what bounces of it: all of it, or those of one run.
#[derive(Debug)]
struct UserBytes<'a> {
    ram: &'a Segment,
    runs: Vec<PhysRange>,
    pin: Option<Pin>,
}

impl UserBytes<'_> {
    /// Visits the parts of memory that `len` bytes from `offset` lie in, each with where it is among
    /// them.
    fn each(&self, offset: u64, len: u64, mut visit: impl FnMut(u64, Window<'_>)) {
        let (mut at, end) = (0, offset + len);
        for run in &self.runs {
            let (from, to) = (at.max(offset), (at + run.len()).min(end));
            if from < to {
                let start = run.start().raw() - self.ram.range().start().raw() + (from - at);
                let window = self.ram.window();
                visit(from - offset, window.slice(start, to - from).unwrap());
            }
            at += run.len();
        }
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len_bytes() as usize];
        let len = self.len_bytes();
        self.each(0, len, |at, part| {
            let to = at as usize + part.len();
            part.read(&mut bytes[at as usize..to]);
        });
        bytes
    }
}

impl CopySource for UserBytes<'_> {
    fn len_bytes(&self) -> u64 {
        self.runs.iter().map(PhysRange::len).sum()
    }

    fn copy_to(&self, offset: u64, window: Window<'_>) {
        self.each(offset, window.len() as u64, |at, part| {
            let mut bytes = vec![0; part.len()];
            part.read(&mut bytes);
            window.slice(at, bytes.len() as u64).unwrap().write(&bytes);
        });
    }
}

impl CopyTarget for UserBytes<'_> {
    fn copy_from(&mut self, offset: u64, window: Window<'_>) {
        self.each(offset, window.len() as u64, |at, part| {
            let mut bytes = vec![0; part.len()];
            window
                .slice(at, bytes.len() as u64)
                .unwrap()
                .read(&mut bytes);
            part.write(&bytes);
        });
    }
}

/// Gives a process its pages, which are nowhere near one another's order.
fn populate(memory: &MovableMemory<Machine, Vec<Frame>, Process>) -> Vec<PfnRange> {
    let request = FrameRequest::movable(1, MoverId::new(0));
    let allocate = |_| memory.allocator().allocate(&request).unwrap();
    let mut pages: Vec<_> = (0..PAGES).map(allocate).collect();
    pages.swap(0, 5);
    pages.swap(2, 7);
    let ranges = pages.iter().map(Frames::range).collect();
    *memory.movers().0.lock().unwrap() = pages;
    ranges
}

/// Lends a pinned user's buffer to a device that writes all of it.
fn lend(rig: &Rig, info: DeviceInfo<'_>, bounces: bool) {
    let domain = rig.strict();
    let device = rig.device(info, &domain);
    let ram = rig.segment(4 << 20);
    ram.window().fill(0xc5);
    let memory = MovableMemory::new(rig.machine.clone(), allocator(&ram), Process::default());
    let ranges = populate(&memory);
    let owner = memory.add_pin_owner(Arc::new(Account::new(64))).unwrap();
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 3,
    };
    let pin = memory.pin_long_term(owner, &ranges, &limits).unwrap();
    let runs: Vec<_> = pin.runs(OFFSET, LEN).collect();
    assert_eq!(runs.iter().map(PhysRange::len).sum::<u64>(), LEN);

    let reserved = device.reserve::<Bidirectional>(runs[0].start(), LEN, 1, Attributes::NONE);
    let mut request = reserved.unwrap();
    for run in pin.runs(OFFSET, LEN) {
        let bytes = UserBytes {
            ram: &ram,
            runs: vec![run],
            pin: None,
        };
        device.link(&mut request, run, &bytes).unwrap();
    }
    let sealed = device.seal(request).unwrap();
    assert_eq!(sealed.is_bounced(), bounces);
    let held = memory.migrate(ranges[3].start(), MigrationCause::Compaction, None);
    assert_eq!(held, Err(NotMoved::NotMovable), "it is the device's");

    let sent: Vec<u8> = (0..LEN).map(|i| (i * 11 + i / 4096) as u8).collect();
    rig.sim
        .write(sealed.segment().unwrap().addr, &sent)
        .unwrap();
    let owned = UserBytes {
        ram: &ram,
        runs,
        pin: Some(pin),
    };
    let debt = device.destroy(sealed, owned, core::iter::empty()).unwrap();
    let mut bytes = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert!(bytes.read() == sent, "every byte is the user's");
    let (first, last) = (part(&ram, ranges[0]), part(&ram, ranges[7]));
    let around = [first.slice(0, OFFSET), last.slice(4096 - 0x5c0, 0x5c0)];
    for run in around.map(Option::unwrap) {
        let outside = UserBytes {
            ram: &ram,
            runs: vec![run],
            pin: None,
        };
        assert!(outside.read().iter().all(|&byte| byte == 0xc5), "{run}");
    }
    memory.unpin(bytes.pin.take().unwrap()).unwrap();
    memory
        .migrate(ranges[3].start(), MigrationCause::Compaction, None)
        .unwrap();
    for frames in memory.movers().0.lock().unwrap().drain(..) {
        memory.allocator().free(frames).unwrap();
    }
    assert_eq!(device.remove().unwrap().live(), 0);
    rig.close(domain);
}

#[test]
fn pages_of_a_pin_are_one_stretch_for_the_device_and_stay_until_it_is_done() {
    let rig = Rig::coherent(90);
    lend(&rig, rig.info(), false);
}

/// The rest of the first and the last page is the user's other data.
#[test]
fn an_untrusted_device_sees_no_more_of_pinned_pages_than_it_was_lent() {
    let rig = Rig::coherent(91);
    lend(&rig, rig.untrusted(), true);
}
