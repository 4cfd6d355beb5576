//! Arguments of `compare`.

use std::path::PathBuf;

use super::mode::Mode;
use crate::load_args::LoadArgs;
use crate::quantity::parse_size;

/// Put engines and policies side by side on one load
///
/// Runs what a trace asked of the mapping API through each engine in each mode:
/// without translation, behind an IOMMU that forgets lazily, strictly or in
/// batches, and through a bounce pool. Counts per I/O and per MiB, what devices
/// can still reach after unmap, and modelled time with the constants behind it.
/// Behind an IOMMU the model is checked against the recorded iommu events.
///
/// With --pools, bounce pools of one size instead: set aside, growing, and on a
/// contiguous area whose idle part serves movable memory. Exits 1 if a mapping
/// fails on one of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit compare io.trace
  dmakit compare io.trace --modes lazy,strict,batched --html io.html
  dmakit compare io.trace --engine linux-6.1 --engine linux-6.12 --json
  dmakit compare io.trace --pools 16M")]
pub struct CompareArgs {
    /// Trace; `-` is standard input
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,

    /// Modes to run, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODES")]
    pub modes: Vec<Mode>,

    /// Compare where our bounce pool of so many bytes, rounded up to 2M, gets its memory from
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "modes")]
    pub pools: Option<u64>,

    #[command(flatten)]
    pub load: LoadArgs,
}
