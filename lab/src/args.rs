//! Raw arguments as typed. Nothing is judged here that clap cannot judge.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::bench::BenchArgs;
use crate::compare::CompareArgs;
use crate::load_args::LoadArgs;
use crate::quantity::{parse_duration, parse_size};
use crate::record::RecordArgs;
use crate::scenario::MachineName;
use crate::size::its::SizeItsArgs;
use crate::size::mr::SizeMrArgs;

/// What was typed, or an early answer that clap itself gives.
pub enum Typed {
    /// A command to plan and run.
    Command(Box<Args>),
    /// Help or version text, already laid out.
    Text(String),
}

/// Replay, size and diagnose DMA memory.
#[derive(Debug, Parser)]
#[command(name = "dmakit", version, max_term_width = 100)]
#[command(after_help = "\
Examples:
  dmesg | dmakit diagnose             why did a mapping or allocation fail?
  dmakit diagnose boot.log --json     the same for a program
  dmakit replay io.trace              what did bounce buffers do under this load?
  dmakit size swiotlb io.trace        how large must the pool be?
  dmakit size cma io.trace            how large must contiguous areas be?
  dmakit compare io.trace             what do strict, lazy and bouncing cost?
  sudo dmakit record -- fio job.fio   capture such a trace
  dmakit run --machine qemu:virt      watch a disk being read through an SMMU
  dmakit completions bash             shell completions

Exit status: 0 answered, 1 the property asked about does not hold,
2 usage, input or environment.")]
pub struct Args {
    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Colour the answer
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub color: Colour,

    #[command(subcommand)]
    pub command: Command,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Diagnose(DiagnoseArgs),
    Replay(ReplayArgs),
    /// Find the smallest setting that serves a load
    #[command(subcommand)]
    Size(SizeCommand),
    /// The same as `size its`
    #[command(hide = true)]
    Its(SizeItsArgs),
    /// The same as `size pins`
    #[command(hide = true)]
    Pins(SizePinsArgs),
    /// The same as `size mr`
    #[command(hide = true)]
    Mr(SizeMrArgs),
    Compare(CompareArgs),
    Bench(BenchArgs),
    Record(RecordArgs),
    Run(RunArgs),
    /// Print shell completions
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// The command it is about; without one, the whole
        command: Option<String>,
    },
}

/// Say what a configuration does under a recorded load
///
/// Runs what a trace asked of bounce buffers through the model of a Linux
/// version and through this project's own pool: occupancy over time, failures,
/// high water, cost counts, per device and phase. Claims of contiguous memory
/// run through the areas of both and beside the kernel's own answers. Exits 1
/// if a mapping or a claim failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit replay io.trace
  dmakit replay io.txt.zst --engine linux-6.12 --params swiotlb=4096,2,force
  dmakit replay io.trace --html io.html --json")]
pub struct ReplayArgs {
    /// Trace; `-` is standard input
    #[arg(value_name = "TRACE")]
    pub trace: PathBuf,

    #[command(flatten)]
    pub load: LoadArgs,
}

/// Bring up a machine with the stack and drive it
///
/// A scenario says which devices do what, and what must hold. Without one, a
/// short one runs. On qemu:virt the devices are QEMU's own models, behind its
/// SMMUv3; on qemu:q35 they have no IOMMU. Exits 1 if a property is violated,
/// 2 if the machine cannot do it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit run
  dmakit run --machine qemu:virt
  dmakit run smmu-nvme --machine qemu:virt --json
  dmakit run nvme-bounce --machine qemu:q35 --seed 7
  dmakit run --list
  dmakit run smmu-nvme --page > my.toml
  dmakit run my.toml --machine qemu:virt")]
pub struct RunArgs {
    /// A built-in scenario, or a file of the same form
    #[arg(value_name = "SCENARIO")]
    pub scenario: Option<String>,

    /// The machine to run it on
    #[arg(long, value_enum, default_value_t = MachineName::Sim, value_name = "MACHINE")]
    pub machine: MachineName,

    /// The QEMU program, if not the one on the path
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,

    /// What everything random follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Name the built-in scenarios and what they show
    #[arg(long)]
    pub list: bool,

    /// Print a built-in scenario's page, to be copied and changed
    #[arg(long, requires = "scenario", conflicts_with = "list")]
    pub page: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// What to size.
#[derive(Debug, Subcommand)]
pub enum SizeCommand {
    Swiotlb(SizeSwiotlbArgs),
    Its(SizeItsArgs),
    Cma(SizeCmaArgs),
    Pins(SizePinsArgs),
    Mr(SizeMrArgs),
}

/// Find the smallest bounce pool that serves
///
/// Proves the answer: no mapping fails at it, and one fails at the next
/// smaller setting that the kernel would really make. Of several traces, the
/// setting that serves them all. Exits 1 if no setting serves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit size swiotlb io.trace
  dmakit size swiotlb disk.trace net.trace --html size.html
  dmakit size swiotlb io.trace --engine linux-6.12-dynamic --max 256M")]
pub struct SizeSwiotlbArgs {
    /// Traces; `-` is standard input
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,

    /// The largest pool to try, in bytes with K, M, G (binary) or KB, MB, GB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub max: u64,

    #[command(flatten)]
    pub load: LoadArgs,
}

/// Find the smallest contiguous areas that serve
///
/// Sizes every area that the traces claim from, in whole pageblocks of 2 MiB,
/// and proves each: no claim fails at it, and one fails one pageblock below.
/// Of several traces, the sizes that serve them all. Exits 1 if none serves.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit size cma camera.trace
  dmakit size cma io.trace --per-node --html cma.html
  dmakit size cma boot.trace load.trace --max 256M")]
pub struct SizeCmaArgs {
    /// Traces with cma events; `-` is standard input
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,

    /// Move the claims of each device to an area on its own node
    #[arg(long)]
    pub per_node: bool,

    /// The largest area to try, in bytes with K, M, G (binary) or KB, MB, GB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub max: u64,

    #[command(flatten)]
    pub load: LoadArgs,
}

/// Say what limits pins need, and what it costs to migrate instead
///
/// Traces have no pin events. A mapping that outlives a limit stands for a
/// long-term pin: how much memory such mappings hold at most, by device, with
/// each frame charged once and with each mapping charged for itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmakit size pins io.trace
  dmakit pins io.trace --longer-than 100ms --json")]
pub struct SizePinsArgs {
    /// Traces with dma events; `-` is standard input
    #[arg(value_name = "TRACE", required = true)]
    pub traces: Vec<PathBuf>,

    /// How long a mapping lives to count as a pin: 500ms, 30s, 5m
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub longer_than: Duration,

    #[command(flatten)]
    pub load: LoadArgs,
}

/// Say why a mapping or allocation failed
///
/// Reads a kernel log, a debugfs snapshot or a trace and names the cause of
/// each failure in it: what proves it, what fixes it and what will not.
/// `certain` is said only where the arithmetic printed beside it proves it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dmesg | dmakit diagnose
  journalctl -k | dmakit diagnose -
  dmakit diagnose boot.log --json
  grep -r . /sys/kernel/debug/swiotlb /sys/kernel/debug/cma | dmakit diagnose")]
pub struct DiagnoseArgs {
    /// Log, debugfs snapshot or trace; `-` or nothing is standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// What the input is, if its content does not say
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
}

/// The kinds of input that `diagnose` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Kernel log text: dmesg, journalctl -k, syslog, a serial console
    Log,
    /// `grep -r .` over debugfs swiotlb and cma directories
    Debugfs,
    /// ftrace or perf script text
    Trace,
}

/// Reads the process's own arguments.
pub fn read() -> anyhow::Result<Typed> {
    parse(std::env::args_os())
}

fn parse(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Typed> {
    use clap::error::ErrorKind;
    match Args::try_parse_from(words) {
        Ok(args) => Ok(Typed::Command(Box::new(args))),
        Err(e) => match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Typed::Text(e.render().to_string()))
            }
            _ => Err(anyhow::anyhow!("{}", condensed(&e.render().to_string()))),
        },
    }
}

/// The command line's own description, for completions and the manual page.
pub fn description() -> clap::Command {
    Args::command()
}

/// One line of clap's several: the complaint and the tip, without the usage
/// block.
fn condensed(rendered: &str) -> String {
    let body = rendered.split("\nUsage:").next().unwrap_or(rendered);
    if !rendered.starts_with("error:") {
        let names: Vec<String> = Args::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
            .map(|c| c.get_name().to_owned())
            .collect();
        return format!(
            "no command given, expected one of {}; see `dmakit --help`",
            names.join(", ")
        );
    }
    let lines: Vec<&str> = body
        .trim_start_matches("error:")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    format!("{}; see `dmakit --help`", lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(words: &[&str]) -> String {
        let typed = parse(words.iter().map(OsString::from));
        typed.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_misspelt_word_is_one_line_with_the_nearest() {
        let said = complaint(&["dmakit", "diagnos"]);
        assert!(!said.contains('\n'), "{said}");
        assert!(said.contains("'diagnose'"), "{said}");
    }

    #[test]
    fn no_command_names_the_commands() {
        let said = complaint(&["dmakit"]);
        assert!(
            said.contains("diagnose, replay, size, compare, bench, record, run, completions, man"),
            "{said}"
        );
    }

    #[test]
    fn help_is_an_answer_not_an_error() {
        let typed = parse(["dmakit", "diagnose", "--help"].map(OsString::from));
        let Ok(Typed::Text(text)) = typed else {
            panic!("no help text");
        };
        assert!(text.contains("Examples:"));
    }
}
