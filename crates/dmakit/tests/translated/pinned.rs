//! A user's memory, pinned, in a request.

use std::sync::{Arc, Mutex};

use dmakit::addr::{Attributes, Bidirectional, PfnRange};
use dmakit::dma::{DeviceInfo, DmaMemory, DmaSegment, PinnedMemory};
use dmakit::phys::{
    Account, ClaimLimits, Frame, FrameRequest, Frames, Migrate, Migration, MigrationCause,
    MovableMemory, MoverId, NotMoved, Refusal, Refused,
};
use dmakit::platform::{Instant, Segment};
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

fn all(pinned: &PinnedMemory<Arc<Segment>>) -> Vec<u8> {
    let mut bytes = vec![0; LEN as usize];
    assert_eq!(pinned.read(0, &mut bytes), bytes.len());
    bytes
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
    let ram = Arc::new(rig.segment(4 << 20));
    ram.window().fill(0xc5);
    let memory = MovableMemory::new(rig.machine.clone(), allocator(&ram), Process::default());
    let ranges = populate(&memory);
    let owner = memory.add_pin_owner(Arc::new(Account::new(64))).unwrap();
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 3,
    };
    let pin = memory.pin_long_term(owner, &ranges, &limits).unwrap();
    let pinned = PinnedMemory::new(pin, ram.clone(), OFFSET, LEN).unwrap();
    let first = pinned.runs().next().unwrap().start();
    let reserved = device.reserve::<Bidirectional>(first, LEN, 1, Attributes::NONE);
    let mut request = reserved.unwrap();
    let mut told = 0;
    let each = |segment: DmaSegment| told += segment.len;
    device.link_memory(&mut request, &pinned, each).unwrap();
    assert_eq!((request.len(), told), (LEN, LEN));
    let sealed = device.seal(request).unwrap();
    assert_eq!(sealed.is_bounced(), bounces);
    let held = memory.migrate(ranges[3].start(), MigrationCause::Compaction, None);
    assert_eq!(held, Err(NotMoved::NotMovable), "it is the device's");

    let sent: Vec<u8> = (0..LEN).map(|i| (i * 11 + i / 4096) as u8).collect();
    rig.sim
        .write(sealed.segment().unwrap().addr, &sent)
        .unwrap();
    let debt = device.destroy(sealed, pinned, core::iter::empty()).unwrap();
    let pinned = device.redeem(debt, &device.sync().unwrap()).unwrap();
    assert!(all(&pinned) == sent, "every byte is the user's");

    // The same memory as a list, mapped in one step.
    let mapped = device.map_request::<Bidirectional, _>(pinned, Attributes::NONE);
    let mapping = mapped.unwrap();
    assert_eq!(mapping.is_bounced(), bounces);
    assert_eq!(device.segments(&mapping).count(), 1);
    let sent: Vec<u8> = sent.iter().map(|byte| byte ^ 0x55).collect();
    rig.sim.write(mapping.dma_addr(), &sent).unwrap();
    let mut pinned = device.unmap_and_sync(mapping).unwrap();
    assert!(all(&pinned) == sent, "and again");
    assert_eq!(pinned.write(LEN - 2, &[7; 8]), 2);
    assert_eq!(pinned.read(LEN - 1, &mut [0; 8]), 1);

    let (first, last) = (part(&ram, ranges[0]), part(&ram, ranges[7]));
    let around = [first.slice(0, OFFSET), last.slice(4096 - 0x5c0, 0x5c0)];
    for run in around.map(Option::unwrap) {
        let mut bytes = vec![0; run.len() as usize];
        let at = run.start().raw() - ram.range().start().raw();
        let window = ram.window().slice(at, run.len()).unwrap();
        window.read(&mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 0xc5), "{run}");
    }
    memory.unpin(pinned.into_pin()).unwrap();
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

#[test]
fn memory_that_the_pin_or_the_segment_does_not_have_is_refused_with_the_pin() {
    let rig = Rig::coherent(92);
    let ram = Arc::new(rig.segment(4 << 20));
    let elsewhere = Arc::new(rig.segment(4096));
    let memory = MovableMemory::new(rig.machine.clone(), allocator(&ram), Process::default());
    let ranges = populate(&memory);
    let owner = memory.add_pin_owner(Arc::new(Account::new(64))).unwrap();
    let limits = ClaimLimits {
        deadline: Instant::from_nanos(u64::MAX),
        tries: 3,
    };
    let pin = memory.pin_long_term(owner, &ranges, &limits).unwrap();
    let short = PinnedMemory::new(pin, ram.clone(), 1, PAGES * 4096).unwrap_err();
    assert_eq!((short.outside, short.pinned), (None, PAGES * 4096 - 1));
    let outside = PinnedMemory::new(short.pin, elsewhere, OFFSET, LEN).unwrap_err();
    assert!(outside.outside.is_some());
    let pinned = PinnedMemory::new(outside.pin, ram, OFFSET, LEN).unwrap();
    memory.unpin(pinned.into_pin()).unwrap();
    for frames in memory.movers().0.lock().unwrap().drain(..) {
        memory.allocator().free(frames).unwrap();
    }
}
