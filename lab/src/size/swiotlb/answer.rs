//! What one engine needs.

use super::report::{CurveEntry, EngineAnswer, Growing, Margin, Proof, Setting};
use super::search::{Found, Tried};
use crate::engine::{self, Engine, SLOT_BYTES, Setup};
use crate::load::Load;
use crate::output::Confidence;
use crate::quantity::{grouped, slots};
use crate::replay::EngineResult;

/// The answer, or why there is none.
pub fn engine_answer(
    loads: &[Load],
    setups: &[Setup],
    found: &Found,
) -> anyhow::Result<EngineAnswer> {
    let base = EngineAnswer {
        engine: setups[0].engine.name(),
        answer: None,
        reason: None,
        proof: None,
        serving_below: Vec::new(),
        margin: None,
        growing: None,
        curve: Vec::new(),
        confidence: Confidence::Extrapolated,
        devices: Vec::new(),
        notes: Vec::new(),
    };
    if !loads.iter().all(Load::shows_lifetimes) {
        let reason = "the trace shows attempts only: without lifetimes no size can be proved";
        return Ok(EngineAnswer {
            reason: Some(reason.to_owned()),
            ..base
        });
    }
    let curve = found.tried.iter().map(CurveEntry::new).collect();
    let Some(answer) = found.answer() else {
        return Ok(EngineAnswer {
            reason: Some(no_answer(found)),
            curve,
            ..base
        });
    };
    let at: Vec<Setup> = setups
        .iter()
        .map(|setup| setup.with_slots(answer.slots()))
        .collect();
    let mut results = results(loads, &at)?;
    if loads.len() > 1 {
        // Machines name their devices alike.
        for (load, result) in loads.iter().zip(&mut results) {
            for device in &mut result.devices {
                device.name = format!("{} {}", load.facts.path, device.name);
            }
        }
    }
    Ok(EngineAnswer {
        answer: Some(Setting::new(answer)),
        proof: Proof::new(found),
        serving_below: found.serving_below().map(Tried::slots).collect(),
        margin: Margin::new(found),
        growing: if answer.mappings > 0 {
            growing(loads, setups)?
        } else {
            None
        },
        curve,
        confidence: confidence(&results),
        notes: notes(&results),
        devices: results
            .into_iter()
            .flat_map(|result| result.devices)
            .collect(),
        ..base
    })
}

fn results(loads: &[Load], setups: &[Setup]) -> anyhow::Result<Vec<EngineResult>> {
    loads
        .iter()
        .zip(setups)
        .map(|(load, setup)| Ok(EngineResult::new(load, &engine::run(load, setup)?)))
        .collect()
}

/// Our pool can also begin small and grow; it is compared with what a fixed one needs.
fn growing(loads: &[Load], setups: &[Setup]) -> anyhow::Result<Option<Growing>> {
    if setups[0].engine != Engine::Dmakit {
        return Ok(None);
    }
    let setups: Vec<Setup> = setups.iter().map(Setup::without_size).collect();
    let mut most: Option<Growing> = None;
    for result in results(loads, &setups)? {
        let Some(growth) = result.pool.growth else {
            continue;
        };
        let one = Growing {
            params: result.params,
            start_slots: result.pool.slots,
            step_bytes: growth.step_bytes,
            reserve_bytes: growth.reserve_bytes,
            failed: result.failed.unwrap_or(0),
            high_water_slots: result.high_water_slots.unwrap_or(0),
            pool_bytes_peak: result.pool_bytes_peak.unwrap_or(0),
            pool_bytes_end: result
                .occupancy
                .pool_slots
                .last()
                .map_or(0, |slots| slots * SLOT_BYTES),
            back_within_s: 2.0 * growth.shrink_after_s,
        };
        if most
            .as_ref()
            .is_none_or(|most| most.pool_bytes_peak < one.pool_bytes_peak)
        {
            most = Some(one);
        }
    }
    Ok(most)
}

/// Each note once.
fn notes(results: &[EngineResult]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for note in results.iter().flat_map(|result| &result.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    notes
}

/// As weak as the weakest.
fn confidence(results: &[EngineResult]) -> Confidence {
    let rank = |confidence: Confidence| match confidence {
        Confidence::Exact => 0,
        Confidence::Validated => 1,
        Confidence::Modelled => 2,
        Confidence::Extrapolated => 3,
    };
    results
        .iter()
        .map(|result| result.confidence)
        .max_by_key(|confidence| rank(*confidence))
        .unwrap_or(Confidence::Modelled)
}

fn no_answer(found: &Found) -> String {
    match found.tried.last() {
        Some(last) => format!(
            "no pool up to {} serves: {} of {} mappings still fail",
            slots(last.slots()),
            grouped(last.failed),
            grouped(last.mappings)
        ),
        None => "--max is below the smallest pool".to_owned(),
    }
}
