//! What the readers find in a trace that was just written.

use std::path::Path;

use dmakit_trace::sidecar::Phase;
use dmakit_trace::{Body, Fidelity, Marker, Options, Trace};

use crate::quantity;

/// The trace as `replay` will see it.
#[derive(Debug, Default)]
pub struct ReadBack {
    pub fidelity: Fidelity,
    /// In their order.
    pub phases: Vec<Phase>,
    /// What stopped the reader.
    pub failure: Option<String>,
}

/// Reads all of it.
pub fn read_back(path: &Path) -> ReadBack {
    let mut found = ReadBack::default();
    let options = Options {
        malformed_max: u64::MAX,
        ..Options::default()
    };
    let mut trace = match Trace::open(path, options) {
        Ok(trace) => trace,
        Err(error) => {
            found.failure = Some(error.to_string());
            return found;
        }
    };
    for event in &mut trace {
        match event {
            Ok(event) => {
                if let Body::Marker(marker) = &event.body {
                    found.note(marker, quantity::seconds(event.time_ns));
                }
            }
            Err(error) => {
                found.failure = Some(error.to_string());
                break;
            }
        }
    }
    found.fidelity = trace.fidelity();
    found
}

impl ReadBack {
    /// Phases follow one another: one that begins ends the one before.
    fn note(&mut self, marker: &Marker, seconds: f64) {
        let open = self.phases.last_mut().filter(|phase| phase.end.is_none());
        match marker {
            Marker::PhaseBegin(name) => {
                if let Some(open) = open {
                    open.end = Some(seconds);
                }
                self.phases.push(Phase {
                    name: name.as_str().to_owned(),
                    begin: Some(seconds),
                    ..Phase::default()
                });
            }
            Marker::PhaseEnd(_) => {
                if let Some(open) = open {
                    open.end = Some(seconds);
                }
            }
            Marker::Text(_) => {}
        }
    }
}
