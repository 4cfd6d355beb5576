//! What was recorded, as the sidecar and the answer tell it.

use std::collections::BTreeMap;

use dmakit_trace::Sidecar;
use dmakit_trace::sidecar::{Capture, Devices, Dmesg, Kprobes};
use serde::Serialize;

use super::counters::{Counters, high_water_between};
use super::files::Files;
use super::kprobes;
use super::read_back::read_back;
use super::root::Root;
use super::stream::PHASE;
use super::{RecordArgs, Recorded, machine};
use crate::input::{Source, quoted};
use crate::output::{Closing, Confidence};
use crate::quantity::grouped;

/// The answer.
#[derive(Debug, Serialize)]
pub struct RecordReport {
    /// Base names.
    pub trace: String,
    pub sidecar: String,
    /// Why the recording ended.
    pub ended: String,
    /// The command's exit status, where it ended by itself.
    pub command_status: Option<i32>,
    pub kernel: Option<String>,
    pub events_total: u64,
    pub events_lost: u64,
    pub events: BTreeMap<String, u64>,
    /// Events that were wished and that the kernel does not have.
    pub missing: Vec<String>,
    pub phases: Vec<String>,
    pub counters: Readings,
    /// What the trace cannot show, and what to do about it.
    pub notes: Vec<String>,
    #[serde(skip)]
    command: String,
    #[serde(skip)]
    written: Sidecar,
}

/// The kernel's counters around the recording.
#[derive(Debug, Serialize)]
pub struct Readings {
    pub before: Counters,
    pub after: Counters,
}

/// What the sidecar has beyond what the readers know.
#[derive(Serialize)]
struct Extra<'a> {
    counters: &'a Readings,
}

impl RecordReport {
    /// Reads the trace back and gathers what the machine says.
    pub fn new(
        args: &RecordArgs,
        root: &Root,
        files: &Files,
        recorded: &Recorded,
        missing: Vec<String>,
    ) -> anyhow::Result<Self> {
        let base = |path: &std::path::Path| Source::File(path.to_path_buf()).name();
        let found = read_back(&files.trace);
        let written = sidecar(args, root, recorded, &found.phases);
        let mut report = Self {
            trace: base(&files.trace),
            sidecar: base(&files.sidecar),
            ended: recorded.ended.describe(),
            command_status: recorded.ended.command_status(),
            kernel: written.capture.kernel.clone(),
            events_total: recorded.tally.total(),
            events_lost: recorded.lost,
            events: recorded.tally.events.clone(),
            missing,
            phases: found.phases.iter().map(|p| p.name.clone()).collect(),
            counters: Readings {
                before: recorded.before.clone(),
                after: recorded.after.clone(),
            },
            notes: Vec::new(),
            command: reproduce(args),
            written,
        };
        report.notes = report.notes(args, root, recorded);
        if let Some(failure) = found.failure {
            report
                .notes
                .push(format!("the trace cannot be read back: {failure}"));
        }
        if found.fidelity.malformed > 0 {
            report.notes.push(format!(
                "{} lines cannot be read; `--tolerate-malformed` skips them",
                grouped(found.fidelity.malformed)
            ));
        }
        Ok(report)
    }

    fn notes(&self, args: &RecordArgs, root: &Root, recorded: &Recorded) -> Vec<String> {
        let mut notes = Vec::new();
        if self.events_lost > 0 {
            notes.push(format!(
                "{} events were lost: record again with a larger --buffer than {}",
                grouped(self.events_lost),
                crate::quantity::bytes(args.buffer)
            ));
        }
        let lacks = |event: &str| self.missing.iter().any(|missing| missing == event);
        if lacks("dma") && !args.kprobes {
            let way = match super::tracing::find(root) {
                Ok(top) if kprobes::Kprobes::are_possible(&top) => {
                    "--kprobes records slots and ends"
                }
                _ => "it has no kprobes either",
            };
            notes.push(format!(
                "this kernel has no dma events: the trace shows attempts to bounce, but neither \
                 whether they succeeded nor when they ended; {way}"
            ));
        }
        let others: Vec<&str> = (self.missing.iter().map(String::as_str))
            .filter(|event| *event != "dma")
            .collect();
        if !others.is_empty() {
            notes.push(format!("this kernel has no {} events", others.join(", ")));
        }
        if let Some(probe) = recorded.probes.iter().find(|probe| probe.misses > 0) {
            notes.push(format!(
                "the kernel missed {} of {} calls at the probe {}: a missing end is no leak",
                grouped(probe.misses),
                grouped(probe.hits + probe.misses),
                probe.name
            ));
        }
        if !recorded.used_instance {
            notes.push("this kernel has no tracing instances: the machine's only buffer was used, and is as it was".to_owned());
        }
        let high = |counters: &Counters| counters.pool().used_hiwater;
        if high(&recorded.after).is_some() && self.written_high_water().is_none() {
            notes.push(
                "the kernel's high-water mark was reached before the recording, or the command \
                 marked phases: --reset-high-water makes it the recording's own"
                    .to_owned(),
            );
        }
        notes
    }

    fn written_high_water(&self) -> Option<u64> {
        let mut phases = self.written.phases.iter();
        phases.find_map(|phase| phase.swiotlb_hiwater)
    }

    /// The sidecar's text.
    pub fn sidecar_text(&self) -> anyhow::Result<String> {
        let extra = Extra {
            counters: &self.counters,
        };
        Ok(format!(
            "# What the kernel itself said during the capture of the same name.\n{}\n{}",
            toml::to_string_pretty(&self.written)?,
            toml::to_string(&extra)?
        ))
    }

    /// The last four lines.
    pub fn closing(&self, files: &Files) -> Closing {
        let trace = quoted(&files.trace.display().to_string());
        let whole = match self.events_lost {
            0 => "no event was lost".to_owned(),
            lost => format!("{} events were lost", grouped(lost)),
        };
        Closing {
            setting: format!("dmakit replay {trace}; dmakit size swiotlb {trace}"),
            confidence: match self.events_lost {
                0 => Confidence::Exact,
                _ => Confidence::Modelled,
            },
            why: format!("{} events recorded, {whole}", grouped(self.events_total)),
            reproduce: self.command.clone(),
        }
    }
}

fn sidecar(
    args: &RecordArgs,
    root: &Root,
    recorded: &Recorded,
    phases: &[dmakit_trace::sidecar::Phase],
) -> Sidecar {
    let name = Source::File(args.output.clone()).name();
    let mut phases = phases.to_vec();
    let after = recorded.after.pool();
    // Counters are read at the end of the whole: they belong to a phase only if it is the whole.
    if let [only] = phases.as_mut_slice() {
        if only.name == PHASE && recorded.tally.phases == 0 {
            only.swiotlb_used = after.used;
            only.swiotlb_nslabs = after.nslabs;
            only.swiotlb_hiwater =
                high_water_between(recorded.before.pool(), after, args.reset_high_water);
        }
    }
    let words: Vec<String> = (args.command.iter())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    Sidecar {
        capture: Capture {
            name,
            description: "recorded by dmakit record".to_owned(),
            workload: (!words.is_empty()).then(|| words.join(" ")),
            events_total: Some(recorded.tally.total()),
            events_lost: Some(recorded.lost),
            ..machine::capture(root)
        },
        events: recorded.tally.events.clone(),
        phases,
        dmesg: Dmesg {
            lines: machine::dmesg(root),
        },
        devices: Devices {
            pci: machine::pci(root),
        },
        kprobes: Kprobes {
            profile: recorded.probes.clone(),
        },
    }
}

/// The command line that records the same again.
fn reproduce(args: &RecordArgs) -> String {
    let mut text = format!(
        "dmakit record -o {} --events {} --buffer {}",
        quoted(&Source::File(args.output.clone()).name()),
        args.events.join(","),
        args.buffer
    );
    if let Some(duration) = args.duration {
        text.push_str(&format!(" --duration {}ms", duration.as_millis()));
    }
    let flags = [
        (args.kprobes, " --kprobes"),
        (args.reset_high_water, " --reset-high-water"),
        (args.packing == super::Packing::Plain, " --packing plain"),
    ];
    for (is_set, flag) in flags {
        text.push_str(if is_set { flag } else { "" });
    }
    if !args.command.is_empty() {
        text.push_str(" --");
        for word in &args.command {
            text.push(' ');
            text.push_str(&quoted(&word.to_string_lossy()));
        }
    }
    text
}
