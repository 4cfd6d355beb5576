//! Random transfers of an `edu`, one after the other.

use dmakit_addr::{Attributes, DirectionType, FromDevice, ToDevice};
use dmakit_dma::{DmaMemory, DmaSegment, DomainError, LinkError, MapError, Request, ScatterList};
use dmakit_platform::CpuBuffer;
use dmakit_qemu::pieces::Pieces;
use dmakit_qemu::smmu::{Attachment, QemuDevice};

use super::Policy;
use super::buffers::{self, PAGE, canaries_hold, free_all};
use super::held::{self, Batches, Held, Kind, Owed};
use crate::disk::{Random, Rig, TestEdu};

const NONE: Attributes = Attributes::NONE;

/// An `edu` and the ways to map for it.
pub struct Rounds<'a> {
    pub rig: &'a Rig,
    pub attachment: Option<&'a Attachment>,
    pub devices: &'a [QemuDevice<'a>; 2],
    pub edu: &'a TestEdu<'a>,
    pub policy: Policy,
    batches: Batches,
    random: Random,
}

impl<'a> Rounds<'a> {
    pub fn new(
        rig: &'a Rig,
        attachment: Option<&'a Attachment>,
        devices: &'a [QemuDevice<'a>; 2],
        edu: &'a TestEdu<'a>,
        policy: Policy,
    ) -> Self {
        Self {
            rig,
            attachment,
            devices,
            edu,
            policy,
            batches: policy.batches(devices),
            random: Random(77 + policy as u64),
        }
    }

    /// Random bytes go to the device one way, and come back another.
    pub fn round(&mut self) {
        let len = 1 + self.random.below(4095);
        let sent = self.random.bytes(len as usize);
        let (index, kind) = self.pick();
        let (mut pieces, around) = self.buffer(kind, len);
        buffers::write(&mut pieces, &sent);
        let on = (index, &self.devices[index]);
        let (held, segments) = held::lend::<ToDevice>(on.1, kind, pieces, &mut self.random);
        self.edu.read(&front(&segments, len)).unwrap();
        self.rig.no_faults();
        let pieces = self.take(index, held);
        assert!(canaries_hold(&around), "{kind:?}");
        free_all(self.rig, pieces, around);

        let (index, kind) = self.pick();
        let (mut pieces, around) = self.buffer(kind, len);
        let whole = buffers::len(&pieces) as usize;
        let mut expected = sent.clone();
        expected.resize(whole, 0x11);
        let before: Vec<_> = expected.iter().map(|byte| !byte).collect();
        buffers::write(&mut pieces, &before);
        expected[sent.len()..].copy_from_slice(&before[sent.len()..]);
        let device = &self.devices[index];
        let (held, segments) = held::lend::<FromDevice>(device, kind, pieces, &mut self.random);
        self.edu.write(&front(&segments, len)).unwrap();
        self.rig.no_faults();
        let pieces = self.take(index, held);
        self.retry(segments[0], len);
        assert!(buffers::read(&pieces) == expected, "{kind:?}: {len} bytes");
        assert!(canaries_hold(&around), "{kind:?}");
        free_all(self.rig, pieces, around);
    }

    /// The same bytes go out of a coherent block and come back to it.
    pub fn coherent_round(&mut self) {
        let device = &self.devices[self.random.below(2) as usize];
        let len = 1 + self.random.below(4095);
        let block = device.alloc_coherent::<u8>(len as usize, NONE).unwrap();
        let view = device.view(&block).unwrap();
        let whole = DmaSegment {
            addr: block.dma_addr(),
            len,
        };
        let sent = self.random.bytes(len as usize);
        for (at, byte) in sent.iter().enumerate() {
            view.at(at).unwrap().write(byte);
        }
        self.edu.read(&[whole]).unwrap();
        for (at, byte) in sent.iter().enumerate() {
            view.at(at).unwrap().write(&!byte);
        }
        self.edu.write(&[whole]).unwrap();
        for (at, byte) in sent.iter().enumerate() {
            assert_eq!(view.at(at).unwrap().read(), *byte, "{len} bytes");
        }
        self.rig.no_faults();
        device.free_coherent(block).unwrap();
        if self.policy.translates() {
            self.retry(whole, len);
        }
    }

    /// Which device, and how it maps.
    fn pick(&mut self) -> (usize, Kind) {
        let count = match self.policy {
            // Of which nothing is copied.
            Policy::Bounced => 5,
            _ => 6,
        };
        let kind = Kind::ALL[self.random.below(count) as usize];
        (self.random.below(2) as usize, kind)
    }

    fn buffer(&mut self, kind: Kind, len: u64) -> (Pieces, Vec<dmakit_platform::Segment>) {
        let random = &mut self.random;
        match kind {
            Kind::Window => buffers::scattered(self.rig, random, PAGE, 0),
            Kind::Page => {
                let offset = random.below(PAGE - len + 1);
                buffers::contiguous(self.rig, random, len, offset)
            }
            Kind::Single => {
                let offset = random.below(PAGE);
                buffers::contiguous(self.rig, random, len, offset)
            }
            _ => {
                let offset = random.below(PAGE);
                buffers::scattered(self.rig, random, len, offset)
            }
        }
    }

    fn take<D: DirectionType>(&mut self, index: usize, held: Held<D>) -> Pieces {
        let (device, mut owed) = (&self.devices[index], Owed::default());
        held::take(
            (index, device),
            held,
            self.policy,
            &mut self.batches,
            &mut owed,
        );
        let proof = device.sync().unwrap();
        let mut back: Vec<Pieces> = Vec::new();
        for (_, debt) in owed.pieces {
            back.push(device.redeem(debt, &proof).unwrap());
        }
        for (_, debt) in owed.buffers {
            back.push(held::alone(device.redeem(debt, &proof).unwrap()));
        }
        let Batches { pieces, buffers } = &mut self.batches;
        let closer = &self.devices[1];
        closer.close_batch(pieces, |one| back.push(one)).unwrap();
        let alone = |one| back.push(held::alone(one));
        closer.close_batch(buffers, alone).unwrap();
        assert_eq!(back.len(), 1);
        back.pop().unwrap()
    }

    /// The device writes to where it could before, and must not now.
    fn retry(&self, first: DmaSegment, len: u64) {
        if let Some(attachment) = self.attachment {
            attachment.flush().unwrap();
        }
        if self.policy == Policy::Direct {
            return;
        }
        self.edu
            .write(&front(&[first], len.min(first.len)))
            .unwrap();
        if self.policy.translates() {
            assert!(!self.rig.stack().take_faults().0.is_empty(), "a stale hit");
        }
    }
}

/// The first `len` bytes of what a device was told.
fn front(segments: &[DmaSegment], len: u64) -> Vec<DmaSegment> {
    let mut left = len;
    let cut = segments.iter().map(|segment| {
        let here = segment.len.min(left);
        left -= here;
        DmaSegment {
            len: here,
            ..*segment
        }
    });
    cut.filter(|segment| segment.len > 0).collect()
}

/// Addresses that there are not, and a link that makes no sense behind some that do, leave nothing.
pub fn refused_link(device: &QemuDevice<'_>, pieces: &Pieces) {
    let first = pieces.runs().next().unwrap().start();
    let give_back = |request: Request<ToDevice>, segments: &[DmaSegment]| {
        let nothing = ScatterList::new(Vec::<CpuBuffer>::new()).unwrap();
        let debt = device.cancel(request, nothing, segments.iter().copied());
        device
            .redeem(debt.unwrap(), &device.sync().unwrap())
            .unwrap();
    };
    // As far apart as the whole aperture is long.
    match device.reserve::<ToDevice>(first, PAGE, 1 << 47, NONE) {
        Err(LinkError::Map(MapError::Domain(DomainError::Space(_)))) => {}
        Err(error) => panic!("{error}"),
        Ok(request) => {
            assert!(!request.is_contiguous(), "there is no such address");
            give_back(request, &[]);
        }
    }
    let len = 4 * PAGE;
    let mut request = device.reserve::<ToDevice>(first, len, 1, NONE).unwrap();
    let mut segments = Vec::new();
    for buffer in &pieces.buffers()[..4] {
        let run = buffer.runs().next().unwrap();
        segments.push(device.link(&mut request, run, buffer).unwrap());
    }
    let (run, other) = (pieces.runs().nth(4).unwrap(), [0_u8; 8]);
    let refused = device.link(&mut request, run, &other[..]).unwrap_err();
    let makes_no_sense = matches!(refused, LinkError::Map(MapError::LengthMismatch { .. }));
    assert!(makes_no_sense, "{refused}");
    assert_eq!(request.len(), len, "as before");
    give_back(request, &segments);
}
