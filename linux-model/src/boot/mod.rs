//! Boot parameters and what they come to.

mod cmdline;
mod known;
mod setup;
mod swiotlb;
#[cfg(test)]
mod tests;

pub use cmdline::{CommandLine, CommandLineError, Parameter};
pub use known::{DMA_PARAMETERS, nearest_parameter};
pub use setup::{Architecture, Machine, Reason, Setup, Unbounced, setup};
pub use swiotlb::{ForceWord, SwiotlbParams, SwiotlbParamsError};
