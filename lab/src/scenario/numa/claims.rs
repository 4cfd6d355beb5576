//! Claims that are out, with what was written to them.

use dmakit_addr::{DmaMask, PfnRange};
use dmakit_cma::{AreaClaim, AreaId, Areas};
use dmakit_phys::{AttachedRam, ClaimLimits, DeviceMappings, Frame, Frames};
use dmakit_platform::{Instant, Segment};
use dmakit_sim::{Machine, Mover, Rng};

use super::windows;
use crate::scenario::check::CheckName;
use crate::scenario::report::RunReport;

/// A machine's areas, and claims of one of them.
pub struct Claims<'m, D: DeviceMappings + Sync> {
    areas: &'m Areas<'m, Machine, Vec<Frame>, Mover<D>>,
    ram: &'m AttachedRam<'m, Machine, Vec<Frame>>,
    area: AreaId,
    held: Vec<(Segment, u8)>,
    pub counts: Counts,
}

/// What came of claims.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub served: u64,
    pub refused: u64,
    /// Frames that moved for them.
    pub moved: u64,
    /// The least number that could have.
    pub least: u64,
}

/// Long enough for whoever lets go at all.
const LIMITS: ClaimLimits = ClaimLimits {
    deadline: Instant::from_nanos(u64::MAX),
    tries: 4,
};

impl<'m, D: DeviceMappings + Sync> Claims<'m, D> {
    pub fn new(
        areas: &'m Areas<'m, Machine, Vec<Frame>, Mover<D>>,
        ram: &'m AttachedRam<'m, Machine, Vec<Frame>>,
        area: AreaId,
    ) -> Self {
        Self {
            areas,
            ram,
            area,
            held: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The frames of the area.
    pub fn ranges(&self) -> &'m [PfnRange] {
        self.areas.ranges(self.area)
    }

    /// Whether a frame is claimed.
    pub fn has(&self, frame: dmakit_addr::Pfn) -> bool {
        let mut held = self.held.iter();
        held.any(|(segment, _)| segment.range().frames().contains(frame))
    }

    /// How many are out.
    pub fn out(&self) -> usize {
        self.held.len()
    }

    /// Makes a claim, and judges it by what a look at every frame said before.
    pub fn claim(
        &mut self,
        frames: u64,
        align_order: u32,
        seen: &windows::Frames,
        rng: &mut Rng,
        report: &mut RunReport,
    ) -> anyhow::Result<()> {
        let memory = self.areas.memory();
        let least = seen.cheapest(frames, align_order);
        // What moves out of a window has room if as many frames are free as the window has.
        let has_room = memory.allocator().free_frames() >= frames;
        let moved = || memory.migrations(dmakit_phys::MigrationCause::Claim).frames;
        let before = moved();
        let claim = AreaClaim {
            frames,
            align_order,
            limit: DmaMask::ALL,
        };
        match self.areas.claim(self.area, &claim, &LIMITS) {
            Ok(claimed) => {
                self.counts.served += 1;
                self.counts.moved += moved() - before;
                self.counts.least += least.unwrap_or(0);
                report.trial(CheckName::Claims, None);
                self.keep(claimed, rng)
            }
            Err(error) => {
                self.counts.refused += 1;
                let wrong = least.filter(|_| has_room);
                report.trial(
                    CheckName::Claims,
                    wrong.map(|moves| format!("{error}, but {moves} moves make room")),
                );
                Ok(())
            }
        }
    }

    fn keep(&mut self, frames: Frames, rng: &mut Rng) -> anyhow::Result<()> {
        let segment = self
            .ram
            .attach(frames)
            .map_err(|frames| anyhow::anyhow!("{frames:?} are no segment"))?;
        let byte = rng.bits() as u8;
        segment.window().fill(byte);
        self.held.push((segment, byte));
        Ok(())
    }

    /// Gives one claim back; nobody else wrote to it.
    pub fn release(&mut self, index: usize, report: &mut RunReport) -> anyhow::Result<()> {
        if index >= self.held.len() {
            return Ok(());
        }
        let (segment, byte) = self.held.swap_remove(index);
        let mut bytes = vec![!byte; segment.len() as usize];
        segment.window().read(&mut bytes);
        let whole = bytes == vec![byte; bytes.len()];
        let wrong = (!whole).then(|| bytes.iter().position(|found| *found != byte));
        report.trial(
            CheckName::Data,
            wrong.flatten().map(|at| {
                format!(
                    "somebody wrote to claimed memory at {}+{at:#x}",
                    segment.range()
                )
            }),
        );
        let frames = self.ram.detach(segment)?;
        self.areas
            .release(frames)
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Gives all claims back.
    pub fn release_all(&mut self, report: &mut RunReport) -> anyhow::Result<()> {
        while !self.held.is_empty() {
            self.release(0, report)?;
        }
        Ok(())
    }
}
