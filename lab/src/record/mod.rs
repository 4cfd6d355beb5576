//! Capturing a trace on this machine, and what the machine says beside it.

mod args;
mod counters;
mod files;
mod kprobes;
mod machine;
mod packing;
mod read_back;
mod report;
mod root;
mod script;
mod stream;
mod tally;
mod text;
mod tracing;
mod watch;

use std::process::Stdio;

use anyhow::{Context, bail};
use dmakit_trace::sidecar::KprobeProfile;

use crate::exit::Outcome;
use crate::output::{Show, envelope};

pub use args::{Packing, RecordArgs};
use counters::Counters;
use files::Files;
use kprobes::Kprobes;
use report::RecordReport;
use root::Root;
use stream::{PHASE, Stream};
use tally::Tally;
use tracing::{Setting, Tracing};
use watch::{Ended, Signals, Watch};

/// What to record.
pub struct Plan {
    args: RecordArgs,
}

/// What came of it.
struct Recorded {
    ended: Ended,
    tally: Tally,
    lost: u64,
    before: Counters,
    after: Counters,
    probes: Vec<KprobeProfile>,
    used_instance: bool,
}

impl Plan {
    /// Checks what was typed.
    pub fn new(args: RecordArgs) -> anyhow::Result<Self> {
        let is_word = |word: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            !word.is_empty() && word.chars().all(plain)
        };
        for event in &args.events {
            let (group, name) = event.split_once(':').unwrap_or((event, "all"));
            if !(is_word(group) && is_word(name)) {
                bail!("'{event}' is no event, expected GROUP or GROUP:EVENT");
            }
        }
        if args.buffer == 0 {
            bail!("--buffer 0: expected a size, such as 16M");
        }
        Files::named(&args)?;
        Ok(Self { args })
    }

    /// Records, reads back, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        if self.args.print_script {
            let text = script::script(&self.args)?;
            return Ok((text.into_bytes(), Outcome::Answered));
        }
        let root = Root::new(self.args.root.clone());
        if root.is_own() && !rustix::process::geteuid().is_root() {
            bail!("recording needs root: run it again with `sudo`");
        }
        let top = tracing::find(&root)?;
        let (events, missing) = tracing::present(&top, &self.args.events);
        if events.is_empty() {
            bail!(
                "this kernel has none of the events {}",
                self.args.events.join(", ")
            );
        }
        if self.args.reset_high_water && Counters::read(&root).pool().used_hiwater.is_none() {
            bail!(
                "--reset-high-water: this kernel has no high-water mark of its bounce pool \
                 (Linux 6.4 has), or no debugfs is mounted"
            );
        }
        let files = Files::create(&self.args)?;
        let result = self.record(&root, &top, &events, &files, show);
        let recorded = match result {
            Ok(recorded) => recorded,
            Err(error) => {
                files.discard();
                return Err(error);
            }
        };
        let report = RecordReport::new(&self.args, &root, &files, &recorded, missing)?;
        files.write_sidecar(&report.sidecar_text()?)?;
        let closing = report.closing(&files);
        let answer = match show {
            Show::Json => envelope("record", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, Outcome::Answered))
    }

    /// Everything between taking tracefs and giving it back. Whatever fails, it is given back.
    fn record(
        &self,
        root: &Root,
        top: &std::path::Path,
        events: &[String],
        files: &Files,
        show: Show,
    ) -> anyhow::Result<Recorded> {
        let mut watch = Watch::new(Signals::catch()?, self.args.duration);
        let release = root.text("proc/sys/kernel/osrelease").unwrap_or_default();
        let mut tracing = Tracing::take(top)?;
        let probes = match self.args.kprobes {
            true => Some(Kprobes::set(top, &release)?),
            false => None,
        };
        let mut events = events.to_vec();
        events.extend(probes.is_some().then(|| kprobes::GROUP.to_owned()));
        tracing.prepare(&Setting {
            events: &events,
            buffer_bytes: self.args.buffer,
        })?;
        if self.args.reset_high_water {
            counters::reset_high_water(root)
                .context("--reset-high-water: the kernel's mark cannot be set back")?;
        }
        let before = Counters::read(root);
        let mut stream = Stream::open(root, &tracing, &mut watch)
            .with_context(|| tracing.pipe().display().to_string())?;
        tracing.start()?;
        tracing.mark(&format!("PHASE_BEGIN {PHASE}"))?;
        // An answer for programs must not be mixed with what the command prints.
        let output = match show {
            Show::Json => Stdio::from(std::io::stderr()),
            Show::Text(_) => Stdio::inherit(),
        };
        stream.start(&self.args.command, &tracing.marker(), output)?;
        self.args
            .packing
            .pack(&mut stream, files.trace_file()?)
            .with_context(|| files.trace.display().to_string())?;
        let used_instance = tracing.is_instance();
        let end = stream.finish();
        let lost = tracing.lost().unwrap_or(0).max(end.tally.lost);
        let profile = probes.as_ref().map(Kprobes::profile).unwrap_or_default();
        tracing.restore()?;
        probes.map(Kprobes::remove).transpose()?;
        Ok(Recorded {
            ended: end.ended.context("the recording ended by itself")?,
            after: end.counters.unwrap_or_else(|| Counters::read(root)),
            tally: end.tally,
            lost,
            before,
            probes: profile,
            used_instance,
        })
    }
}
