//! Claims before there is a page allocator, and what becomes of them when there is one.

use dmakit_addr::{DmaMask, NodeId, PAGE_BYTES};
use dmakit_cma::{AreaClaim, AreaId, Areas, EarlyAreas, Purpose, Reservation, Reserved};
use dmakit_phys::{AttachedRam, Frame, Frames, MovableMemory, PageAllocator};
use dmakit_platform::{Segment, SegmentRequest, TableMemory};
use dmakit_sim::{Machine, Mover, NoDevices, Programs};

use crate::scenario::check::CheckName;
use crate::scenario::numa::board;
use crate::scenario::numa::system::SEGMENTS;
use crate::scenario::page::{CarvingTable, Page};
use crate::scenario::report::RunReport;

type RunAreas<'m> = Areas<'m, Machine, Vec<Frame>, Mover<NoDevices>>;

/// A claim of the early stage.
struct Early {
    segment: Segment,
    byte: u8,
}

/// Claims early, boots, and looks at what became of the claims.
pub fn run(
    page: &Page,
    table: &CarvingTable,
    seed: u64,
    carved: Vec<Reservation>,
    report: &mut RunReport,
) -> anyhow::Result<()> {
    let machine = board::machine(page, seed)?;
    let nodes = (0..machine.nodes() as u16).map(NodeId::new);
    let mut ram: Vec<Segment> = nodes.flat_map(|node| machine.take_ram(node)).collect();
    let mut map = board::map(&machine, None)?;
    let areas: Vec<Reserved> = carved
        .into_iter()
        .filter_map(|one| match one.outcome {
            dmakit_cma::Outcome::Reserved(reserved) => Some(reserved),
            _ => None,
        })
        .collect();
    for range in areas.iter().flat_map(Reserved::ranges) {
        map.set_aside(*range)?;
    }
    litter(&ram, &areas, table);
    let askers: Vec<NodeId> = areas
        .iter()
        .filter(|area| !matches!(area.purpose(), Purpose::Gigantic(_)))
        .map(Reserved::node)
        .collect();
    let mut bits = vec![0; EarlyAreas::<Machine>::bitmap_words(&areas)];
    let early = EarlyAreas::new(machine.clone(), areas, &mut ram, &mut bits)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let claims = claim(&early, &askers, table, report)?;
    let inactive = early.close(&mut ram);
    type Allocator = PageAllocator<Machine, Vec<Frame>>;
    let entries = Allocator::table_entries(&map) as usize;
    let limits = [board::low_limit()];
    let allocator = Allocator::new(&map, &limits, vec![Frame::default(); entries])?;
    let programs = Programs::new(&machine, seed);
    let mover = Mover::new(&machine, &programs);
    let memory = MovableMemory::new(machine.clone(), allocator, mover);
    let out = inactive.claims();
    let (areas, failed) = inactive.activate(&memory);
    let failure = failed.first().map(ToString::to_string);
    report.trial(CheckName::EarlyClaims, failure);
    let ram = AttachedRam::new(machine.clone(), memory.allocator(), ram, SEGMENTS).with_out(out);
    stay_claimed(&areas, &claims, report)?;
    come_back(&areas, &ram, claims, report);
    Ok(())
}

/// What an earlier life of the machine left in the areas.
fn litter(ram: &[Segment], areas: &[Reserved], table: &CarvingTable) {
    let most: u64 = table.early.iter().map(|size| size.0).sum();
    for range in areas.iter().flat_map(Reserved::ranges) {
        let Some(bytes) = range.bytes() else {
            continue;
        };
        let holder = ram
            .iter()
            .find(|segment| segment.range().contains_range(&bytes));
        let window = holder.and_then(|segment| {
            let offset = bytes.start().raw() - segment.range().start().raw();
            segment.window().slice(offset, bytes.len().min(2 * most))
        });
        window.inspect(|window| window.fill(0xa5));
    }
}

fn claim(
    early: &EarlyAreas<'_, Machine>,
    askers: &[NodeId],
    table: &CarvingTable,
    report: &mut RunReport,
) -> anyhow::Result<Vec<Early>> {
    let mut claims = Vec::new();
    for node in askers {
        for size in &table.early {
            let request = SegmentRequest {
                len: size.0,
                align: PAGE_BYTES,
                node: Some(*node),
                limit: DmaMask::ALL,
            };
            let segment = early.allocate_table(&request)?;
            let mut bytes = vec![1; segment.len() as usize];
            segment.window().read(&mut bytes);
            let dirty = bytes.iter().position(|byte| *byte != 0);
            report.trial(
                CheckName::EarlyClaims,
                dirty.map(|at| format!("{segment:?} is not zeroed at {at:#x}")),
            );
            let byte = claims.len() as u8 | 0x80;
            segment.window().fill(byte);
            claims.push(Early { segment, byte });
        }
    }
    Ok(claims)
}

/// All that is left is claimed: nothing of it was claimed early, and what was is as it was.
fn stay_claimed(
    areas: &RunAreas<'_>,
    claims: &[Early],
    report: &mut RunReport,
) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for area in areas.ids() {
        all.extend(exhaust(areas, area));
    }
    for early in claims {
        let frames = early.segment.range().frames();
        let other = all.iter().find(|claimed| claimed.range().overlaps(&frames));
        let mut bytes = vec![!early.byte; early.segment.len() as usize];
        early.segment.window().read(&mut bytes);
        let changed = bytes.iter().any(|byte| *byte != early.byte);
        let failure = match (other, changed) {
            (Some(other), _) => Some(format!("{frames} was claimed again as {other:?}")),
            (None, true) => Some(format!("the bytes of {frames} have changed")),
            (None, false) => None,
        };
        report.trial(CheckName::EarlyClaims, failure);
    }
    for frames in all {
        areas
            .release(frames)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(())
}

/// Claims of 2 MiB until there is no room.
fn exhaust(areas: &RunAreas<'_>, area: AreaId) -> Vec<Frames> {
    let claim = AreaClaim {
        frames: (2 << 20) / PAGE_BYTES,
        align_order: 0,
        limit: DmaMask::ALL,
    };
    let one = || areas.claim_free(area, &claim).ok();
    std::iter::from_fn(one).collect()
}

/// What was claimed early is freed as if it had been claimed late.
fn come_back(
    areas: &RunAreas<'_>,
    ram: &AttachedRam<'_, Machine, Vec<Frame>>,
    claims: Vec<Early>,
    report: &mut RunReport,
) {
    for early in claims {
        let range = early.segment.range();
        let released = ram
            .detach(early.segment)
            .map_err(|error| error.to_string())
            .and_then(|frames| areas.release(frames).map_err(|error| error.to_string()));
        report.trial(
            CheckName::EarlyClaims,
            released.err().map(|error| format!("{range}: {error}")),
        );
    }
    for area in areas.ids() {
        let usage = areas.usage(area);
        let left = usage.frames - usage.free;
        let failure = (left > 0).then(|| format!("{left} frames of {area:?} are still claimed"));
        report.trial(CheckName::AllReturned, failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::numa::controls::{SEED, failures, page, report};
    use crate::scenario::numa::system::System;

    #[test]
    fn claimed_memory_that_was_written_to_is_noticed() {
        let page = page("boot-carving");
        let mut report = report(&page);
        let system = System::boot(&page, &page.areas, SEED).unwrap();
        let inactive = dmakit_cma::InactiveAreas::new(system.reserved);
        let (areas, _) = inactive.activate(&system.memory);
        let machine = system.machine.clone();
        let allocator = system.memory.allocator();
        let ram = AttachedRam::new(machine, allocator, system.ram, SEGMENTS);
        let area = areas.find(Purpose::Default).unwrap();
        let claim = AreaClaim {
            frames: 512,
            align_order: 0,
            limit: DmaMask::ALL,
        };
        let segment = ram.attach(areas.claim_free(area, &claim).unwrap()).unwrap();
        segment.window().fill(0x80);
        let claims = [Early {
            segment,
            byte: 0x80,
        }];
        stay_claimed(&areas, &claims, &mut report).unwrap();
        assert_eq!(failures(&report, CheckName::EarlyClaims), 0);
        claims[0].segment.window().slice(1, 1).unwrap().fill(0);
        stay_claimed(&areas, &claims, &mut report).unwrap();
        assert_eq!(failures(&report, CheckName::EarlyClaims), 1);
    }
}
