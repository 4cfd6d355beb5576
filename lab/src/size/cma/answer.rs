//! What one engine needs.

use dmakit_linux_model::Engine as Linux;
use dmakit_linux_model::cma::{DefaultArea, Params, node_of};

use super::report::{
    AreaAnswer, AreaSetting, Count, CurveEntry, EngineAnswer, Margin, Proof, Setting,
};
use super::search::{AreaFound, Claimed, Tried};
use crate::engine::{Engine, claim_all, page_bytes};
use crate::load::Load;
use crate::quantity::{grouped, pages};
use crate::replay::{BUCKETS, areas, clients};
use crate::size::found::headroom_rule;

/// The answer, or why there is none.
pub fn engine_answer(
    loads: &[Load],
    claimed: &[Claimed<'_>],
    engine: Engine,
    found: &[AreaFound],
) -> EngineAnswer {
    let area_answers: Vec<AreaAnswer> = found.iter().map(area_answer).collect();
    let mut answer = EngineAnswer {
        engine: engine.name(),
        answer: None,
        reason: area_answers.iter().find_map(|area| area.reason.clone()),
        proof: None,
        margin: None,
        confidence: super::confidence(loads, engine),
        clients: Vec::new(),
        over_time: Vec::new(),
        notes: Vec::new(),
        areas: area_answers,
    };
    if answer.reason.is_some() {
        return answer;
    }
    let at = run_at_answer(loads, claimed, engine, &mut answer);
    let chosen = |of: fn(&AreaAnswer) -> Option<u64>| -> Vec<(&str, u64)> {
        let areas = answer.areas.iter();
        areas
            .filter_map(|a| Some((a.name.as_str(), of(a)?)))
            .collect()
    };
    let smallest = chosen(|area| area.answer.map(|at| at.pages));
    let recommended = chosen(|area| area.recommended_pages);
    let total: u64 = recommended.iter().map(|(_, pages)| pages).sum();
    let settings = answer.areas.iter().filter_map(|area| area.answer);
    let (line, notes) = boot_line(&smallest, engine);
    answer.answer = Some(Setting {
        params: line,
        pages: at.pages,
        bytes: page_bytes(at.pages),
        high_water_pages: settings.map(|at| at.high_water_pages).sum(),
    });
    answer.margin = Some(Margin {
        params: boot_line(&recommended, engine).0,
        bytes: page_bytes(total),
        rule: headroom_rule(),
    });
    answer.notes = notes;
    let alone = Proof {
        at,
        below: None,
        below_reason: None,
    };
    answer.proof = Some(match answer.areas.as_slice() {
        [one] => one.proof.clone().unwrap_or(alone),
        _ => Proof {
            below_reason: Some("each area has its own proof".to_owned()),
            ..alone
        },
    });
    answer
}

/// Claims everything once more at the sizes found: who was served when, and what failed.
fn run_at_answer(
    loads: &[Load],
    claimed: &[Claimed<'_>],
    engine: Engine,
    answer: &mut EngineAnswer,
) -> Count {
    let size_of = |name: &str| {
        let area = answer.areas.iter().find(|area| area.name == name);
        area.and_then(|area| area.answer).map_or(0, |at| at.pages)
    };
    let settings = answer.areas.iter().filter_map(|area| area.answer);
    let mut at = Count {
        pages: settings.map(|at| at.pages).sum(),
        failed: 0,
        calls: 0,
    };
    for (load, one) in loads.iter().zip(claimed) {
        let places = one.places(size_of);
        let report = claim_all(one.claims, engine, &places, BUCKETS);
        at.failed += report.failed.len() as u64;
        let demand = &one.claims.demand;
        at.calls += (demand.calls.len() + demand.holdings.len()) as u64;
        let mut named = clients(one.claims, &report);
        if loads.len() > 1 {
            // Machines name their devices alike.
            for client in &mut named {
                client.name = format!("{} {}", load.facts.path, client.name);
            }
        }
        answer.clients.extend(named);
        if answer.over_time.is_empty() {
            answer.over_time = areas(load, one.claims, &places, &report);
        }
    }
    at
}

fn area_answer(area: &AreaFound) -> AreaAnswer {
    let found = &area.found;
    let at = found.answer();
    let sizes = |tried: &Tried| {
        // What is in use does not depend on the size once all is served.
        (tried.pages, at.map_or(0, |at| at.high_water_pages))
    };
    let margin = found.with_headroom(sizes);
    AreaAnswer {
        name: area.name.clone(),
        node: area.node,
        answer: at.map(AreaSetting::new),
        reason: at.is_none().then(|| no_answer(area)),
        proof: at.map(|at| Proof {
            at: Count::new(at),
            below: found.below().map(Count::new),
            below_reason: found
                .below()
                .is_none()
                .then(|| "nothing is asked of it".to_owned()),
        }),
        serving_below: found.serving_below().map(|tried| tried.pages).collect(),
        recommended_pages: margin.map(|(tried, _)| tried.pages),
        headroom_percent: margin.map(|(_, headroom)| headroom),
        curve: found.tried.iter().map(CurveEntry::new).collect(),
    }
}

fn no_answer(area: &AreaFound) -> String {
    match area.found.tried.last() {
        Some(last) => format!(
            "{}: no size up to {} serves: {} of {} claims still fail",
            area.name,
            pages(last.pages),
            grouped(last.failed),
            grouped(last.calls)
        ),
        None => format!("{}: --max is below the smallest area", area.name),
    }
}

/// What to write into a boot line, and what it cannot say.
fn boot_line(sizes: &[(&str, u64)], engine: Engine) -> (String, Vec<String>) {
    let mut params = Params::default();
    let mut notes = Vec::new();
    let has_lists = engine != Engine::Linux(Linux::Linux6_1);
    for (name, pages) in sizes {
        let bytes = page_bytes(*pages);
        match node_of(name) {
            Some(node) if name.starts_with("numa") && has_lists => params.nodes.push((node, bytes)),
            // One size for every node, so the largest.
            Some(_) => params.per_node = Some(params.per_node.unwrap_or(0).max(bytes)),
            None if is_default(name) => {
                params.default = Some(DefaultArea {
                    bytes,
                    base: None,
                    end: None,
                });
            }
            None => notes.push(format!(
                "{name} is of the device tree: give its node a size of {}",
                crate::quantity::bytes(bytes)
            )),
        }
    }
    params.nodes.sort_unstable();
    if let (Some(most), true) = (params.nodes.iter().map(|(_, b)| *b).max(), has_lists) {
        let alike = Params {
            per_node: Some(most),
            nodes: Vec::new(),
            ..params.clone()
        };
        notes.push(format!("with one size for every node: {alike}"));
    }
    let line = params.to_string();
    let line = if line.is_empty() {
        "(no boot parameter)".to_owned()
    } else {
        line
    };
    (line, notes)
}

/// The default area's name; the oldest kernels record none, a device tree has its own.
fn is_default(name: &str) -> bool {
    ["reserved", "", "linux,cma"].contains(&name) || name.starts_with("linux,cma@")
}
