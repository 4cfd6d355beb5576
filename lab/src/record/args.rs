//! What `record` is asked.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::quantity::{parse_duration, parse_size};

/// Capture on this machine what `replay` and `size` read
///
/// Traces bounce buffers, DMA mappings, IOMMU and CMA through tracefs until
/// COMMAND ends, --duration is over or Ctrl-C is typed. Writes the trace, and
/// beside it what the kernel itself says: its version, command line, memory,
/// devices and counters. Works in a tracefs instance of its own, so that other
/// tracing goes on, and removes it at the end. Needs root.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo dmakit record -- fio job.fio
  sudo dmakit record -o disk --duration 30s
  dmakit record --print-script > record.sh     for a machine without dmakit

COMMAND may name phases of its load by writing to the file that the variable
DMAKIT_MARKER names:
  echo PHASE_BEGIN read > \"$DMAKIT_MARKER\"; …; echo PHASE_END read > \"$DMAKIT_MARKER\"")]
pub struct RecordArgs {
    /// Name of the files to write: NAME.txt.zst and NAME.toml
    #[arg(short, long, value_name = "NAME", default_value = "dma-trace")]
    pub output: PathBuf,

    /// Events to record, as GROUP or GROUP:EVENT
    #[arg(
        long,
        value_name = "EVENTS",
        value_delimiter = ',',
        default_value = "swiotlb,dma,iommu,cma"
    )]
    pub events: Vec<String>,

    /// Size of the ring buffer of each CPU
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_size)]
    pub buffer: u64,

    /// Stop after this long: 500ms, 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,

    /// Also probe the bounce functions: slots and lifetimes on kernels without DMA events
    #[arg(long)]
    pub kprobes: bool,

    /// Let the kernel's high-water mark begin anew, so that it is the recording's own
    #[arg(long)]
    pub reset_high_water: bool,

    /// How to pack the trace
    #[arg(long, value_enum, value_name = "PACKING", default_value_t = Packing::Zstd)]
    pub packing: Packing,

    /// Overwrite files that exist
    #[arg(long)]
    pub force: bool,

    /// Print a shell script that records the same, and record nothing
    #[arg(long)]
    pub print_script: bool,

    /// Where the machine's files lie
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub root: PathBuf,

    /// What to run while recording
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How the trace is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    /// NAME.txt.zst
    Zstd,
    /// NAME.txt
    Plain,
}
