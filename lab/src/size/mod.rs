//! The smallest setting that serves a load.

use std::path::PathBuf;

use crate::input::Source;

pub mod cma;
mod found;
pub mod its;
pub mod mr;
pub mod pins;
pub mod swiotlb;

/// Parts of a trace whose peaks are told apart.
const WINDOWS: usize = 8;

/// The traces to size for.
fn sources(traces: Vec<PathBuf>) -> anyhow::Result<Vec<Source>> {
    let sources: Vec<Source> = traces.into_iter().map(|t| Source::new(Some(t))).collect();
    let stdin = sources.iter().filter(|source| **source == Source::Stdin);
    if stdin.count() > 1 {
        anyhow::bail!("standard input can be only one of the traces");
    }
    Ok(sources)
}

/// The traces as arguments.
fn arguments(sources: &[Source]) -> String {
    let names: Vec<String> = sources.iter().map(Source::argument).collect();
    names.join(" ")
}
