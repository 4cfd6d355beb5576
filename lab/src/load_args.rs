//! Arguments that every command about a load shares.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::engine::Engine;

/// Which engines, with which setting, on traces read how.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// Engine to run; may be given several times [default: the trace's own kernel, then dmakit]
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Vec<Engine>,

    /// Kernel parameters laid over those the trace was booted with: "swiotlb=4096,1,force"
    #[arg(long, value_name = "PARAMS")]
    pub params: Option<String>,

    /// Start from the kernel's defaults instead of the trace's own parameters
    #[arg(long)]
    pub params_only: bool,

    /// Also write the answer as one self-contained page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// What the traces are, if their content does not say
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<TraceFormat>,

    /// Read a trace or archive that ends early as far as it goes
    #[arg(long)]
    pub tolerate_truncation: bool,

    /// Skip up to this many malformed lines, counted in the answer
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub tolerate_malformed: u64,

    /// Taken by every command; replay and size draw no random numbers, so it changes nothing
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// A trace format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceFormat(pub dmakit_trace::Format);

impl ValueEnum for TraceFormat {
    fn value_variants<'a>() -> &'a [Self] {
        use dmakit_trace::Format;
        &[
            Self(Format::Trace),
            Self(Format::TracePipe),
            Self(Format::TraceCmdReport),
            Self(Format::TraceDat),
            Self(Format::PerfScript),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}
