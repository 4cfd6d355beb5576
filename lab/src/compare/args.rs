//! Arguments of `compare`.

use std::path::PathBuf;

use super::mode::Mode;
use crate::load_args::LoadArgs;

/// Put engines and policies side by side on one load
///
/// Runs what a trace asked of the mapping API through each engine in each mode:
/// without translation, behind an IOMMU that forgets lazily, strictly or in
/// batches, and through a bounce pool. Counts per I/O and per MiB, what devices
/// can still reach after unmap, and modelled time with the constants behind it.
/// Behind an IOMMU the model is checked against the recorded iommu events.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit compare io.trace
  dmakit compare io.trace --modes lazy,strict,batched --html io.html
  dmakit compare io.trace --engine linux-6.1 --engine linux-6.12 --json")]
pub struct CompareArgs {
    /// Trace; `-` is standard input
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,

    /// Modes to run, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODES")]
    pub modes: Vec<Mode>,

    #[command(flatten)]
    pub load: LoadArgs,
}
