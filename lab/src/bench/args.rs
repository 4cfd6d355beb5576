//! What `bench` is asked.

use std::path::PathBuf;

/// Count and time what DMA costs on this machine: bounce buffers, device
/// addresses, page tables, invalidation
///
/// Counted rows (search steps, bytes of bookkeeping, bytes copied, commands and
/// syncs) stand with the bound that they must keep and are the same on every
/// machine. Times stand
/// apart, beside what the machine itself needs for the same memory touches in
/// the same run, and beside published figures of Linux's own code on the same
/// operations, which were taken on another machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit bench --counted
  dmakit bench --filter search/areas2
  dmakit bench --filter tables/4KiB
  dmakit bench --against ./dmakit.old --filter search --pairs 12")]
pub struct BenchArgs {
    /// Only rows whose name holds this; the floors that they stand on come along
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,

    /// Count only: the same answer every time
    #[arg(long, conflicts_with = "against")]
    pub counted: bool,

    /// A tenth of the operations: quick and less exact
    #[arg(long)]
    pub quick: bool,

    /// Compare with another dmakit: run both in turn
    #[arg(long, value_name = "DMAKIT")]
    pub against: Option<PathBuf>,

    /// How often both are run for a comparison
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=100))]
    pub pairs: u32,
}
