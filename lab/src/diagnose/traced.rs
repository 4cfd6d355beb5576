//! Evidence from a trace: mappings that failed, visibly or not, and claims of
//! contiguous areas.

use std::collections::VecDeque;
use std::io::Read;

use dmakit_trace::pairing::{Fail, Failure};
use dmakit_trace::{Body, Cma, OpKind, Options, Pairer, Position, Trace, TraceError};

use super::event::{CmaGeneration, Event};
use super::evidence::{Evidence, Seen};

/// Damage that does not hide the failures.
const MALFORMED_MAX: u64 = 1000;
const ENOMEM: u32 = 12;
/// Operations come later than their events, by at most so many events.
const PLACES_MAX: usize = 1 << 17;

/// Reads a whole trace.
///
/// # Errors
/// What [`Trace`] refuses.
pub fn evidence(input: impl Read + Send + 'static) -> Result<Evidence, TraceError> {
    let options = Options {
        malformed_max: MALFORMED_MAX,
        ..Options::default()
    };
    let mut evidence = Evidence::default();
    let mut pairer = Pairer::default();
    let mut places: VecDeque<(u64, u64)> = VecDeque::new();
    for event in Trace::from_reader(input, options)? {
        let event = event?;
        let line = match event.position {
            Position::Line(line) => line,
            _ => event.index + 1,
        };
        evidence.lines = evidence.lines.max(line);
        if places.len() == PLACES_MAX {
            places.pop_front();
        }
        places.push_back((event.index, line));
        if let Body::Cma(cma) = &event.body {
            evidence.keep_all(claim(cma, line));
        }
        pairer.push(&event);
        take_failures(&mut pairer, &places, &mut evidence);
    }
    pairer.finish();
    take_failures(&mut pairer, &places, &mut evidence);
    evidence.sort();
    Ok(evidence)
}

fn take_failures(pairer: &mut Pairer, places: &VecDeque<(u64, u64)>, evidence: &mut Evidence) {
    while let Some(op) = pairer.pop() {
        let OpKind::Fail(fail) = op.kind else {
            continue;
        };
        let at = places.binary_search_by_key(&op.event, |(index, _)| *index);
        let line = at
            .ok()
            .and_then(|at| places.get(at))
            .map_or(op.event + 1, |(_, line)| *line);
        evidence.keep_all(Some(failure(&fail, line)));
    }
}

fn failure(fail: &Fail, line: u64) -> Seen {
    let is_silent = fail.how == Failure::Silent;
    let how = if is_silent {
        "no map event followed"
    } else {
        "map event without an address"
    };
    Seen {
        line,
        seconds: None,
        text: format!("{}: mapping of {} B failed ({how})", fail.device, fail.size),
        device: Some(fail.device.as_str().to_owned()),
        event: Event::TracedMapFailed {
            size: fail.size,
            is_silent,
            is_bounced: !fail.attempts.is_empty(),
        },
    }
}

/// Failed claims and refused ranges; what succeeded is no evidence.
fn claim(cma: &Cma, line: u64) -> Option<Seen> {
    let (area, text, event) = match cma {
        Cma::AllocFinish {
            area,
            pfn: None,
            count_pages,
            error,
            ..
        } => (
            area,
            match error {
                Some(error) => {
                    format!("{area}: claim of {count_pages} pages failed, error {error}")
                }
                None => format!("{area}: claim of {count_pages} pages failed"),
            },
            Event::CmaFailed {
                // A trace does not say which kernel wrote it.
                generation: CmaGeneration::Between,
                pages: *count_pages,
                // Kernels that record none failed for want of room or of movable frames alike.
                errno: error.map_or(ENOMEM, i32::unsigned_abs),
            },
        ),
        Cma::BusyRetry {
            area, count_pages, ..
        } => (
            area,
            format!("{area}: a range of {count_pages} pages was busy"),
            Event::CmaRetry,
        ),
        _ => return None,
    };
    Some(Seen {
        line,
        seconds: None,
        text,
        device: Some(area.as_str().to_owned()),
        event,
    })
}
