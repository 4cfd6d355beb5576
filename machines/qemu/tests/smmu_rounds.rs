//! Random rounds of map, transfer, unmap and reuse: RAM is compared with a model of what it must
//! hold, so that a byte that moved to where it should not have is seen too.

mod rig;

use dmakit_addr::{Granule, Iova, IovaRange, PhysRange};
use dmakit_io_pgtable::{Gather, Permissions};
use dmakit_iommu::{FaultReason, Mapped};
use dmakit_platform::Window;
use rig::{Driver, EDU, RAM, Rig, TestDomain, faults, rig};

/// What the frames of all rounds come from.
const FRAMES: u64 = 16 << 20;
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 2 << 20;

/// The most that moves at once: its faults, one for every 4 bytes, fit into the event queue.
const LEN_MAX: u64 = 2048;

/// Bytes around a run that are looked at with it.
const AROUND: u64 = 256;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

/// The frames, and what they must hold.
struct Frames<'a> {
    window: Window<'a>,
    bytes: Vec<u8>,
}

/// A part of a transfer: where it is in the frames, and how long.
type Piece = (u64, u64);

impl<'a> Frames<'a> {
    fn new(rig: &'a Rig) -> Self {
        let window = rig.buffers.window().slice(FRAMES, FRAMES).unwrap();
        window.fill(0xee);
        let bytes = vec![0xee; FRAMES as usize];
        Self { window, bytes }
    }

    /// A block, or up to four pages from everywhere.
    fn pick(&self, random: &mut Random) -> Vec<PhysRange> {
        let (size, count) = match random.below(16) {
            0 => (BLOCK, 1),
            _ => (PAGE, 1 + random.below(4)),
        };
        let mut runs: Vec<PhysRange> = Vec::new();
        while (runs.len() as u64) < count {
            let offset = random.below(FRAMES / size) * size;
            let run = self.window.range().slice(offset, size).unwrap();
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
        runs
    }

    /// Where `len` bytes lie, `offset` from the start of what runs make.
    fn pieces(&self, runs: &[PhysRange], mut offset: u64, mut len: u64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for run in runs {
            let here = len.min(run.len().saturating_sub(offset));
            if here > 0 {
                let start = run.start().raw() - self.window.range().start().raw();
                pieces.push((start + offset, here));
                len -= here;
            }
            offset = offset.saturating_sub(run.len());
        }
        assert_eq!(len, 0);
        pieces
    }

    /// What a device must have written.
    fn expect(&mut self, pieces: &[Piece], mut bytes: &[u8]) {
        for &(at, len) in pieces {
            let (here, rest) = bytes.split_at(len as usize);
            self.bytes[at as usize..][..here.len()].copy_from_slice(here);
            bytes = rest;
        }
    }

    /// What the CPU writes.
    fn write(&mut self, pieces: &[Piece], bytes: &[u8]) {
        self.expect(pieces, bytes);
        for &(at, len) in pieces {
            let part = &self.bytes[at as usize..][..len as usize];
            self.window.slice(at, len).unwrap().write(part);
        }
    }

    /// Whether these bytes, and those around, are what they must be.
    fn hold(&self, start: u64, len: u64) -> bool {
        let from = start.saturating_sub(AROUND);
        let to = (start + len + AROUND).min(FRAMES);
        let mut bytes = vec![0; (to - from) as usize];
        self.window.slice(from, to - from).unwrap().read(&mut bytes);
        bytes == self.bytes[from as usize..to as usize]
    }

    fn runs_hold(&self, runs: &[PhysRange]) -> bool {
        let base = self.window.range().start().raw();
        runs.iter()
            .all(|run| self.hold(run.start().raw() - base, run.len()))
    }
}

/// One round, in which `unmap` unmaps; what went wrong.
fn round(
    rig: &Rig,
    (smmu, domain): (&Driver<'_>, &TestDomain<'_>),
    frames: &mut Frames<'_>,
    random: &mut Random,
    unmap: impl FnOnce(Mapped),
) -> Result<(), String> {
    let says = |holds: bool, what: &str| holds.then_some(()).ok_or_else(|| what.to_owned());
    let runs = frames.pick(random);
    let total: u64 = runs.iter().map(|run| run.len()).sum();
    let len = 1 + random.below(total.min(LEN_MAX));
    let offset = random.below(total - len + 1);
    let pieces = frames.pieces(&runs, offset, len);
    let mapped = rig.map(domain, &runs, Permissions::READ_WRITE);
    let at = Iova::new(mapped.range().start().raw() + offset);
    let at = IovaRange::new(at, len).unwrap();

    let sent: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    let other: Vec<u8> = sent.iter().map(|byte| !byte).collect();
    frames.write(&pieces, &sent);
    rig.transfer(at.start().raw(), len, true);
    frames.write(&pieces, &other);
    rig.transfer(at.start().raw(), len, false);
    frames.expect(&pieces, &sent);
    says(faults(smmu).is_empty(), "a fault of what is mapped")?;
    says(frames.runs_hold(&runs), "wrong bytes")?;

    unmap(mapped);
    // The CPU uses them again, and the device comes late.
    frames.write(&pieces, &other);
    let reads = random.below(4) == 0;
    rig.transfer(at.start().raw(), len, reads);
    let seen = faults(smmu);
    says(!seen.is_empty(), "a stale hit: no fault")?;
    let is_right = seen.iter().all(|fault| {
        fault.reason == FaultReason::Unmapped
            && (fault.stream, fault.is_write) == (EDU.raw().into(), Some(!reads))
            && fault.iova.is_some_and(|iova| at.contains(iova))
    });
    says(is_right, &format!("not of this access: {seen:?}"))?;
    says(frames.runs_hold(&runs), "a stale hit: bytes changed")
}

#[test]
fn no_stale_hit_and_no_stray_byte_in_random_rounds_of_map_transfer_unmap_reuse() {
    let usual = match std::env::var_os("DMAKIT_SOAK") {
        Some(_) => 100_000,
        None => 10_000,
    };
    let rounds: u32 = std::env::var("DMAKIT_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual);
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let (mut frames, mut random) = (Frames::new(&rig), Random(0x9E37_79B9_7F4A_7C15));
    assert_eq!(frames.window.range().start().raw(), RAM + FRAMES);
    for number in 0..rounds {
        let unmap = |mapped| rig.unmap(&domain, mapped);
        let went = round(&rig, (&smmu, &domain), &mut frames, &mut random, unmap);
        went.unwrap_or_else(|wrong| panic!("round {number}: {wrong}"));
    }
    assert!(frames.hold(0, FRAMES), "somewhere, sometime");
    assert_eq!(faults(&smmu), []);
}

#[test]
fn rounds_without_invalidation_are_found_out() {
    let rig = rig();
    let smmu = rig.smmu();
    let domain = rig.domain(&smmu, Granule::K4);
    let (mut frames, mut random) = (Frames::new(&rig), Random(1));
    for _ in 0..8 {
        let forget = |mapped: Mapped| {
            let unmapped = domain.table().unmap(mapped.range(), &mut Gather::new());
            unmapped.unwrap();
        };
        let went = round(&rig, (&smmu, &domain), &mut frames, &mut random, forget);
        assert!(went.is_err_and(|wrong| wrong.starts_with("a stale hit")));
        frames = Frames::new(&rig);
    }
}
