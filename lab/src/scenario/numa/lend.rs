//! Programs that borrow so much of an area, and no more.

use dmakit_addr::PfnRange;
use dmakit_phys::{DeviceMappings, FrameRequest};
use dmakit_sim::{Mover, PageId, Rng};

use super::system::Movable;

/// Gives programs `percent` of the frames of `areas` as pages, and every `one_of`th frame outside.
/// Says which pages are in the areas.
pub fn lend<D: DeviceMappings + Sync>(
    memory: &Movable<D>,
    areas: &[PfnRange],
    percent: u64,
    one_of: u64,
    rng: &mut Rng,
) -> anyhow::Result<Vec<PageId>> {
    let programs = memory.movers().programs();
    let (mut aside, mut inside) = (Vec::new(), Vec::new());
    // An area is lent last: all else has to be taken first.
    while let Ok(frames) = memory
        .allocator()
        .allocate(&FrameRequest::movable(1, Mover::ID))
    {
        let frame = frames.range().start();
        let is_inside = areas.iter().any(|area| area.contains(frame));
        match is_inside {
            true => inside.push(frames),
            false if rng.below(one_of) == 0 => drop(programs.add(frames)),
            false => aside.push(frames),
        }
    }
    // Which of them are used is left to chance, so that what is free is in pieces.
    let kept = inside.len() as u64 * percent / 100;
    let mut pages = Vec::new();
    while let Some(index) = (!inside.is_empty()).then(|| rng.below(inside.len() as u64)) {
        let frames = inside.swap_remove(index as usize);
        match (pages.len() as u64) < kept {
            true => pages.push(programs.add(frames)),
            false => aside.push(frames),
        }
    }
    for frames in aside {
        memory.allocator().free(frames)?;
    }
    Ok(pages)
}
