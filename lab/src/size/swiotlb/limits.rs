//! What a trace cannot show about the next run.

use super::report::{EngineAnswer, HeldOut, Window};
use super::search::{search, try_one};
use crate::engine::{self, Setup};
use crate::load::Load;
use crate::quantity::{grouped, seconds, slots};
use crate::replay::EngineResult;

/// Parts of the trace whose peaks are told apart.
const WINDOWS: usize = 8;

/// Sizes on the first half of the operations and tries the answer on the whole: what fails then,
/// fails in the half that was held out.
pub fn held_out(loads: &[Load], setups: &[Setup], slots_max: u64) -> anyhow::Result<HeldOut> {
    if !loads.iter().all(Load::shows_lifetimes) {
        return Ok(unknown("the trace shows attempts only"));
    }
    let halves: Vec<Load> = loads.iter().map(Load::first_half).collect();
    let found = search(&halves, setups, slots_max, |_| {})?;
    let Some(answer) = found.answer() else {
        return Ok(unknown("no setting serves the first half"));
    };
    let whole = try_one(loads, setups, &answer.setup)?;
    let sized = match answer.slots() {
        0 => "no pool".to_owned(),
        some => slots(some),
    };
    let says = if whole.failed == 0 {
        format!("what the first half needs, {sized}, also serves the second")
    } else {
        format!(
            "what the first half needs, {sized}, fails {} mappings of the second: the trace does \
             not repeat itself, so neither may the next run",
            grouped(whole.failed)
        )
    };
    Ok(HeldOut {
        slots: Some(answer.slots()),
        failed: Some(whole.failed),
        says,
    })
}

/// Nothing can be said.
pub fn unknown(why: &str) -> HeldOut {
    HeldOut {
        slots: None,
        failed: None,
        says: why.to_owned(),
    }
}

/// High water of equal parts of the first trace, on the pool that it was taken on.
pub fn windows(loads: &[Load], setups: &[Setup]) -> anyhow::Result<Vec<Window>> {
    let (load, setup) = (&loads[0], &setups[0]);
    if !load.shows_lifetimes() {
        return Ok(Vec::new());
    }
    let result = EngineResult::new(load, &engine::run(load, setup)?);
    let used = &result.occupancy.used_slots;
    let span_ns = load.end_ns - load.begin_ns;
    let at = |part: usize| seconds(span_ns * part as u64 / WINDOWS as u64);
    let window = |part| {
        let range = part * used.len() / WINDOWS..(part + 1) * used.len() / WINDOWS;
        Window {
            begin_s: at(part),
            end_s: at(part + 1),
            high_water_slots: used[range].iter().copied().max().unwrap_or(0),
        }
    };
    Ok((0..WINDOWS).map(window).collect())
}

/// The limits, one by one.
pub fn not_shown(loads: &[Load], first: &EngineAnswer, windows: &[Window]) -> Vec<String> {
    let mut lines = Vec::new();
    let most = windows
        .iter()
        .map(|window| window.high_water_slots)
        .max()
        .unwrap_or(0);
    let near = windows
        .iter()
        .filter(|window| window.high_water_slots * 10 >= most * 9)
        .count();
    if most > 0 {
        lines.push(format!(
            "of {WINDOWS} equal parts of the trace {near} come within a tenth of the peak; \
             {WINDOWS} parts say nothing about what happens more rarely than once in {WINDOWS}: \
             too short to claim this size for a rarer peak"
        ));
    }
    let failed: u64 = loads
        .iter()
        .map(|load| load.facts.recorded_failed + load.facts.recorded_failed_silent)
        .sum();
    if failed > 0 {
        let answer = first.answer.as_ref();
        lines.push(format!(
            "{} attempts failed while recording, so the load was held back by its own pool and \
             {} is a lower bound: record again with a larger pool",
            grouped(failed),
            answer.map_or("the answer", |answer| &answer.params)
        ));
    }
    for load in loads.iter().filter(|load| !load.facts.is_whole()) {
        lines.push(format!("{}: {}", load.facts.path, load.facts.fidelity()));
    }
    if first
        .answer
        .as_ref()
        .is_some_and(|answer| answer.slots == 0)
    {
        lines.push(
            "a device that reaches less memory, attached later, would need a pool".to_owned(),
        );
    }
    lines.push(
        "mappings made before the recording began and never unmapped in it are not seen".to_owned(),
    );
    lines
}
