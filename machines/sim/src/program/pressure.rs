//! Everybody else on the machine.

use dmakit_addr::{NodeId, Pfn, PfnRange};
use dmakit_phys::{
    DeviceMappings, Frame, FrameRequest, Frames, MigrationCause, MovableMemory, PAGEBLOCK_ORDER,
};

use super::{Mover, PageId, Programs};
use crate::{Machine, Rng};

/// How much others want, and how often each thing happens.
#[derive(Clone, Debug)]
pub struct PressureConfig {
    /// Free frames that are left alone.
    pub free_min: u64,
    /// Frames of memory that does not move, at most.
    pub unmovable_max: u64,
    /// Pages that somebody refers to for a moment, at most.
    pub holds_max: usize,
    /// log2 of the frames of the largest page.
    pub order_max: u32,
}

/// Others who allocate and free, refer to pages for a moment, and move pages for reasons of their
/// own: compaction, huge pages, NUMA balancing, unplug.
///
/// Which of these happens how often is drawn from the seed, so that seeds differ in character.
#[derive(Debug)]
pub struct Pressure {
    config: PressureConfig,
    rng: Rng,
    weights: [u64; ACTIONS.len()],
    unmovable: Vec<Frames>,
    unmovable_frames: u64,
    held: Vec<PageId>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Grow,
    Shrink,
    TakeUnmovable,
    FreeUnmovable,
    Hold,
    Release,
    Run,
    Move(MigrationCause),
    ClearBlock(MigrationCause),
}

const ACTIONS: [Action; 11] = [
    Action::Grow,
    Action::Shrink,
    Action::TakeUnmovable,
    Action::FreeUnmovable,
    Action::Hold,
    Action::Release,
    Action::Run,
    Action::Move(MigrationCause::NumaBalancing),
    Action::Move(MigrationCause::Compaction),
    Action::ClearBlock(MigrationCause::HugePage),
    Action::ClearBlock(MigrationCause::Unplug),
];

impl Pressure {
    /// Others whose doings are decided by `seed`.
    pub fn new(config: PressureConfig, seed: u64) -> Self {
        let mut rng = Rng::derived(seed, 0x9e55);
        // Whole page blocks move: seldom, or nothing else is seen.
        let weights = ACTIONS.map(|action| match action {
            Action::ClearBlock(_) => rng.below(2),
            _ => 1 + rng.below(16),
        });
        Self {
            config,
            rng,
            weights,
            unmovable: Vec::new(),
            unmovable_frames: 0,
            held: Vec::new(),
        }
    }

    /// Programs come until only so many frames are free.
    pub fn fill<S, D>(&mut self, memory: &MovableMemory<Machine, S, Mover<D>>, free: u64)
    where
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        D: DeviceMappings + Sync,
    {
        let programs = memory.movers().programs().clone();
        let floor = free.max(self.config.free_min) + (1 << self.config.order_max);
        while memory.allocator().free_frames() > floor {
            let before = programs.pages();
            self.grow(memory, &programs);
            if programs.pages() == before {
                return;
            }
        }
    }

    /// Memory that does not move and that others have now.
    pub fn unmovable(&self) -> impl Iterator<Item = PfnRange> + '_ {
        self.unmovable.iter().map(Frames::range)
    }

    /// Whether somebody refers to a page.
    pub fn is_held(&self, page: PageId) -> bool {
        self.held.contains(&page)
    }

    /// One thing happens.
    pub fn step<S, D>(&mut self, memory: &MovableMemory<Machine, S, Mover<D>>)
    where
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        D: DeviceMappings + Sync,
    {
        let total: u64 = self.weights.iter().sum();
        let mut drawn = self.rng.below(total);
        let chosen = self.weights.iter().position(|&weight| {
            let is_it = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            is_it
        });
        let programs = memory.movers().programs().clone();
        match ACTIONS[chosen.unwrap_or(0)] {
            Action::Grow => self.grow(memory, &programs),
            Action::Shrink => {
                let frames = self.any(&programs).and_then(|page| programs.remove(page));
                free(memory, frames);
            }
            Action::TakeUnmovable => self.take_unmovable(memory),
            Action::FreeUnmovable => {
                let frames = pick(&mut self.rng, &mut self.unmovable);
                self.unmovable_frames -= frames.as_ref().map_or(0, |frames| frames.range().len());
                free(memory, frames);
            }
            Action::Hold => {
                let page = self.any(&programs);
                let page = page.filter(|_| self.held.len() < self.config.holds_max);
                self.held.extend(page.filter(|page| programs.hold(*page)));
            }
            Action::Release => {
                if let Some(page) = pick(&mut self.rng, &mut self.held) {
                    programs.release(page);
                }
            }
            Action::Run => programs.run(8),
            Action::Move(cause) => {
                let frame = self.any_frame(&programs);
                let node = self.rng.below(memory.movers().nodes() as u64) as u16;
                let node = matches!(cause, MigrationCause::NumaBalancing).then_some(node);
                if let Some(frame) = frame {
                    let _ = memory.migrate(frame, cause, node.map(NodeId::new));
                }
            }
            Action::ClearBlock(cause) => {
                if let Some(frame) = self.any_frame(&programs) {
                    clear_block(memory, frame, cause);
                }
            }
        }
    }

    fn grow<S, D>(&mut self, memory: &MovableMemory<Machine, S, Mover<D>>, programs: &Programs)
    where
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        D: DeviceMappings + Sync,
    {
        let order = self.rng.below(u64::from(self.config.order_max) + 1);
        let frames = 1 + self.rng.below(1 << order);
        if memory.allocator().free_frames() < self.config.free_min + frames {
            return;
        }
        let node = self.rng.below(memory.movers().nodes() as u64) as u16;
        let request = FrameRequest {
            node: Some(NodeId::new(node)),
            ..FrameRequest::movable(frames, Mover::ID)
        };
        if let Ok(frames) = memory.allocator().allocate(&request) {
            programs.add(frames);
        }
    }

    fn take_unmovable<S, D>(&mut self, memory: &MovableMemory<Machine, S, Mover<D>>)
    where
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        D: DeviceMappings + Sync,
    {
        let frames = 1 + self.rng.below(8);
        let room = self.config.unmovable_max - self.unmovable_frames;
        let free = memory.allocator().free_frames();
        if frames > room || free < self.config.free_min + frames {
            return;
        }
        let taken = memory
            .allocator()
            .allocate(&FrameRequest::unmovable(frames));
        if let Ok(taken) = taken {
            self.unmovable_frames += frames;
            self.unmovable.push(taken);
        }
    }

    /// Everybody goes: programs, and what they had.
    ///
    /// # Panics
    /// Where a page is still moved or under a device.
    pub fn leave<S, D>(&mut self, memory: &MovableMemory<Machine, S, Mover<D>>)
    where
        S: AsRef<[Frame]> + AsMut<[Frame]>,
        D: DeviceMappings + Sync,
    {
        let programs = memory.movers().programs();
        self.held.drain(..).for_each(|page| programs.release(page));
        for frames in std::mem::take(&mut self.unmovable) {
            free(memory, Some(frames));
        }
        self.unmovable_frames = 0;
        while let Some(page) = programs.page(0) {
            let frames = programs.remove(page);
            assert!(frames.is_some(), "{page} is in use");
            free(memory, frames);
        }
    }

    fn any(&mut self, programs: &Programs) -> Option<PageId> {
        programs.page(self.rng.below(programs.pages() as u64) as usize)
    }

    fn any_frame(&mut self, programs: &Programs) -> Option<Pfn> {
        let range = self
            .any(programs)
            .and_then(|page| programs.range_of(page))?;
        Some(range.start())
    }
}

fn free<S, D>(memory: &MovableMemory<Machine, S, Mover<D>>, frames: Option<Frames>)
where
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    D: DeviceMappings + Sync,
{
    if let Some(frames) = frames {
        let freed = memory.allocator().free(frames);
        assert!(freed.is_ok(), "{freed:?}");
    }
}

/// Moves what can be moved out of the page block that a frame lies in.
fn clear_block<S, D>(
    memory: &MovableMemory<Machine, S, Mover<D>>,
    frame: Pfn,
    cause: MigrationCause,
) where
    S: AsRef<[Frame]> + AsMut<[Frame]>,
    D: DeviceMappings + Sync,
{
    let block = frame.raw() >> PAGEBLOCK_ORDER << PAGEBLOCK_ORDER;
    let mut at = block;
    while at < block + (1 << PAGEBLOCK_ORDER) {
        let there = memory.allocator().owner(Pfn::new(at));
        if let Some(range) = there.filter(|range| range.start().raw() == at) {
            let _ = memory.migrate(range.start(), cause, None);
            at = range.end().raw();
        } else {
            at += 1;
        }
    }
}

fn pick<T>(rng: &mut Rng, list: &mut Vec<T>) -> Option<T> {
    let index = rng.below(list.len() as u64) as usize;
    (index < list.len()).then(|| list.swap_remove(index))
}
