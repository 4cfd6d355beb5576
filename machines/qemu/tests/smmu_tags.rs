//! ASIDs that come back.

mod rig;

use std::sync::atomic::{AtomicU32, Ordering};

use dmakit_addr::{Granule, Iova, IovaRange, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_platform::Mmio;
use dmakit_platform::host::HostPlatform;
use dmakit_qemu::QemuMmio;
use dmakit_smmuv3::spec::command::opcode;
use dmakit_smmuv3::spec::registers::{CMDQ_BASE, CMDQ_PROD};
use dmakit_smmuv3::{Config, Inherited, ReleaseFailure, Smmu, Tag};
use rig::{Bump, EDU, Rig, faults, rig};

/// An SMMU of whose ASIDs only the first `count` are given out.
fn few_tags<R: Mmio>(rig: &Rig, regs: R, count: u16) -> Smmu<HostPlatform, R, &Bump> {
    let taken: Vec<u16> = (count + 1..=u16::MAX).collect();
    let inherited = Inherited {
        asids: &taken,
        ..Inherited::default()
    };
    let platform = rig.machine.platform();
    Smmu::take_over(platform, regs, &rig.memory, Config::default(), inherited).unwrap()
}

/// Registers before which every command that forgets an ASID is made to forget another one: what
/// the SMMU would see of a driver that leaves these out.
struct Forgetless<'a> {
    regs: QemuMmio,
    rig: &'a Rig,
    told: AtomicU32,
}

impl Forgetless<'_> {
    const TLBI_NH_ASID: u8 = 0x11;

    fn spoil(&self, told: u32) {
        let base = self.regs.read64(CMDQ_BASE);
        let len = 1_u32 << (base & 0x1f);
        let ring = PhysAddr::new(base & 0x000f_ffff_ffff_ffe0);
        let ring = PhysRange::new(ring, u64::from(len) * 16).unwrap();
        let ring = self.rig.machine.hardware_window(ring).unwrap();
        let words = ring.words64().unwrap();
        let mut at = self.told.swap(told, Ordering::Relaxed);
        while at != told {
            let command = &words[(at % len) as usize * 2..][..2];
            let word = command[0].load(Ordering::Relaxed);
            if opcode([word, 0]) == Self::TLBI_NH_ASID {
                command[0].store(word | 0xffff << 48, Ordering::Relaxed);
            }
            at = (at + 1) % (2 * len);
        }
    }
}

impl Mmio for Forgetless<'_> {
    fn read32(&self, offset: u64) -> u32 {
        self.regs.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.regs.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        if offset == CMDQ_PROD {
            self.spoil(value);
        }
        self.regs.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.regs.write64(offset, value);
    }
}

/// Two lives of the only ASID map the same address to different frames. Nothing is unmapped, so
/// that the end and the beginning of a life alone forget what was cached. What the second one's
/// device copied within its page, in the first frame and in the second.
fn copied_in_two_lives<R: Mmio>(rig: &Rig, smmu: &Smmu<HostPlatform, R, &Bump>) -> [Vec<u8>; 2] {
    let format = Lpae::new(Stage::One, Granule::K4, 48, 44, ContiguousHint::Never).unwrap();
    let page = IovaRange::new(Iova::new(0x40_0000), 0x1000).unwrap();
    let frames = [(2, 0x22), (3, 0x33)].map(|(index, mark)| {
        let frame = rig.frame(index, 0xee);
        frame.slice(0, 64).unwrap().fill(mark);
        frame.range()
    });
    for frame in frames {
        let platform = rig.machine.platform();
        let coherence = WalkCoherence::Coherent;
        let table = PageTable::new(format, platform, &rig.memory, None, coherence).unwrap();
        table
            .map(page, frame.start(), Permissions::READ_WRITE)
            .unwrap();
        let context = smmu.create_context(&table).unwrap();
        assert_eq!(context.tag(), Tag::Asid(1));
        smmu.attach(EDU.raw().into(), &context).unwrap();
        rig.transfer(page.start().raw(), 64, true);
        if frame == frames[1] {
            rig.transfer(page.start().raw() + 128, 64, false);
        }
        smmu.detach(EDU.raw().into()).unwrap();
        smmu.release_context(context).unwrap();
    }
    assert_eq!(smmu.take_events(|_| ()).records, 0);
    frames.map(|frame| rig.bytes(PhysAddr::new(frame.start().raw() + 128), 64))
}

/// The driver forgets a tag both when it is released and when it is given out; one of them is
/// enough, and without both the second life is led by what the first had mapped.
#[test]
fn a_second_life_of_a_tag_never_sees_what_the_first_had_cached() {
    let rig = rig();
    let smmu = few_tags(&rig, rig.regs(), 1);
    let copied = copied_in_two_lives(&rig, &smmu);
    assert_eq!(copied, [[0xee; 64], [0x33; 64]]);
    let forgetless = Forgetless {
        regs: rig.regs(),
        rig: &rig,
        told: AtomicU32::new(0),
    };
    let smmu = few_tags(&rig, forgetless, 1);
    let copied = copied_in_two_lives(&rig, &smmu);
    assert_eq!(
        copied,
        [[0x22; 64], [0xee; 64]],
        "a stale hit, which is seen"
    );
}

#[test]
fn a_tag_used_again_knows_nothing_of_its_earlier_life() {
    let rig = rig();
    let smmu = few_tags(&rig, rig.regs(), 2);
    let mut tags = Vec::new();
    let mut last = None;
    for round in 0..6_u64 {
        let domain = rig.domain(&smmu, Granule::K4);
        tags.push(domain.hardware().context().tag());
        if let Some(iova) = last {
            // The same addresses, the same tag as two rounds ago, and nothing mapped.
            rig.frame(2, 0xee);
            rig.transfer(iova, 64, false);
            assert_eq!(rig.first(2), [0xee; 64], "round {round}");
            assert!(!faults(&smmu).is_empty(), "round {round}");
        }
        let frame = rig.frame(2, round as u8 + 1).range();
        let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
        let iova = mapped.range().start().raw();
        last = Some(iova);
        rig.transfer(iova, 64, true);
        assert_eq!(faults(&smmu), []);
        rig.unmap(&domain, mapped);
        let Ok((hardware, _table)) = domain.close() else {
            panic!("it has no debts");
        };
        // A tag that a stream still uses stays.
        let refused = smmu.release_context(hardware.into_context());
        let Err(ReleaseFailure::InUse { context, stream }) = refused else {
            panic!("released while a stream is attached: {refused:?}");
        };
        assert_eq!(stream, u32::from(EDU.raw()));
        smmu.detach(stream).unwrap();
        smmu.release_context(context).unwrap();
    }
    let [one, two] = [Tag::Asid(1), Tag::Asid(2)];
    assert_eq!(tags, [one, two, one, two, one, two]);
}

#[test]
fn a_domain_with_a_ticket_keeps_its_tag() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let frame = rig.frame(2, 0).range();
    let mapped = rig.map(&domain, &[frame], Permissions::READ_WRITE);
    let ticket = domain.unmap(mapped).unwrap();
    let Err((domain, used)) = domain.close() else {
        panic!("closed with a debt");
    };
    assert_eq!(used, 0x1000);
    let proof = domain.sync().unwrap();
    let platform = rig.machine.platform();
    let cpu = dmakit_platform::Platform::enter_cpu(&platform);
    domain.redeem(&cpu, ticket, &proof).unwrap();
    smmu.detach(EDU.raw().into()).unwrap();
    rig.close(&smmu, domain);
}
