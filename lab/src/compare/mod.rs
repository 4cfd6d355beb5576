//! Engines and policies side by side on one load.

mod args;
mod bounced;
mod cost;
mod counts;
mod incumbent;
mod machine;
mod mode;
mod own;
mod page;
pub mod pools;
mod published;
mod report;
mod text;

use anyhow::Context as _;
use dmakit_linux_model as model;
use model::{
    CallSource, Calls, CallsIngest, CommandLine, DeviceLimits, Invalidation, Swiotlb,
    SwiotlbConfig, TranslationAgreement, TranslationSetup, agree_on_translation,
};

use crate::engine::{Bounce, Engine};
use crate::exit::Outcome;
use crate::input::Source;
use crate::load::Load;
use crate::load_args::LoadArgs;
use crate::output::{Closing, Confidence, Show, envelope};
use crate::progress::Progress;
use cost::Constants;
use counts::Counts;
use mode::Mode;
use own::Forgetting;
use report::{Agreement, CompareReport, ModeResult};

pub use args::CompareArgs;

/// The least agreement with which a model counts as validated, in percent.
const VALID: f64 = 99.0;
/// The kernel's default: 64 MiB.
const POOL_SLOTS: u32 = model::DEFAULT_SLOTS;

/// What to compare.
pub struct Plan {
    source: Source,
    modes: Vec<Mode>,
    args: LoadArgs,
}

/// A trace, read.
struct Recording {
    load: Load,
    calls: Calls,
    setup: TranslationSetup,
    limits: Vec<DeviceLimits>,
    /// Where there is an IOMMU: the recorded kernel's model against it.
    agreement: Option<(model::Engine, TranslationAgreement)>,
}

impl Plan {
    /// Takes what was typed.
    pub fn new(typed: CompareArgs) -> Self {
        Self {
            source: Source::new(Some(typed.trace)),
            modes: match typed.modes.is_empty() {
                true => Mode::ALL.to_vec(),
                false => typed.modes,
            },
            args: typed.load,
        }
    }

    /// Reads, runs, answers.
    pub fn run(&self, show: Show) -> anyhow::Result<(Vec<u8>, Outcome)> {
        let progress = Progress::new(self.args.quiet);
        let recording = self.read(&progress)?;
        let constants = Constants::new();
        let mut results = Vec::new();
        for engine in self.args.engines(&recording.load) {
            for mode in &self.modes {
                progress.say(format!("{} {}", engine.name(), mode.name()));
                if let Some(counts) = self.count(&recording, engine, *mode)? {
                    let time = constants.per_io(&counts);
                    let confidence = recording.confidence(engine, *mode);
                    results.push(ModeResult::new(
                        engine.name(),
                        *mode,
                        &counts,
                        time,
                        confidence,
                    ));
                }
            }
        }
        drop(progress);
        let report = recording.report(results, &constants);
        let closing = self.closing(&report);
        if let Some(path) = &self.args.html {
            crate::page::write(path, &page::render(&report, &closing))?;
        }
        let answer = match show {
            Show::Json => envelope("compare", &report, &closing)?,
            Show::Text(look) => text::render(&report, &closing, look).into_bytes(),
        };
        Ok((answer, Outcome::Answered))
    }

    fn read(&self, progress: &Progress) -> anyhow::Result<Recording> {
        let mut ingest = CallsIngest::new();
        let tell = |events| progress.say(format!("{events} events read"));
        let load = Load::observed(&self.source, self.args.options(), tell, |event| {
            ingest.push(event);
        })?;
        let (calls, recorded) = ingest.finish();
        anyhow::ensure!(
            !calls.buffers.is_empty(),
            "{}: no calls of the mapping API and no iommu events in it, so there is nothing to \
             compare; record dma:* events (Linux 6.12 and later), or iommu:* behind an IOMMU",
            self.source.shown()
        );
        let engine = match load.own_engine() {
            Engine::Linux(engine) => engine,
            Engine::Dmakit => model::Engine::Linux6_12,
        };
        let setup = TranslationSetup::new(load.sidecar.as_ref(), &calls, &recorded, engine);
        let agreement = (!recorded.ops.is_empty())
            .then(|| (engine, agree_on_translation(&calls, &recorded, &setup)));
        let limits = calls
            .devices
            .iter()
            .map(|device| {
                let known = load.demand.devices.iter().find(|d| d.name == device.name);
                known.map_or_else(DeviceLimits::default, |device| device.limits)
            })
            .collect();
        Ok(Recording {
            load,
            calls,
            setup,
            limits,
            agreement,
        })
    }

    /// `None` where the engine has no such mode.
    fn count(
        &self,
        recording: &Recording,
        engine: Engine,
        mode: Mode,
    ) -> anyhow::Result<Option<Counts>> {
        let Recording { calls, setup, .. } = recording;
        let translated = |policy| match engine {
            Engine::Linux(engine) => Some(incumbent::run(calls, setup, engine, policy)),
            Engine::Dmakit => None,
        };
        let own = |forgetting| own::run(calls, setup, forgetting).map(Some);
        Ok(match (mode, engine) {
            (Mode::Passthrough, _) => Some(passed(calls)),
            (Mode::Lazy, Engine::Dmakit) => own(Forgetting::Lazy)?,
            (Mode::Strict, Engine::Dmakit) => own(Forgetting::Strict)?,
            (Mode::Batched, Engine::Dmakit) => own(Forgetting::Batched)?,
            (Mode::Lazy, _) => translated(Invalidation::Lazy),
            (Mode::Strict, _) => translated(Invalidation::Strict),
            (Mode::Batched, _) => None,
            (Mode::Bounce, _) => Some(self.bounce(recording, engine)?),
        })
    }

    /// Through a pool of the size asked for, or of the kernel's default.
    fn bounce(&self, recording: &Recording, engine: Engine) -> anyhow::Result<Counts> {
        let asked = self.args.params.as_deref().unwrap_or("");
        let asked = CommandLine::parse_dma(asked)?.swiotlb()?;
        let areas = asked.areas.unwrap_or(recording.setup.cpus).max(1);
        let areas = areas.min(model::DEFAULT_SLOTS).next_power_of_two();
        let slots = asked.slots.unwrap_or(POOL_SLOTS);
        // As the kernel rounds: whole areas of at least a segment.
        let slots = slots
            .max(areas.saturating_mul(model::SEGMENT_SLOTS))
            .checked_next_power_of_two()
            .context("--params: swiotlb= asks for too many slots")?;
        let Recording { calls, limits, .. } = recording;
        Ok(match engine {
            Engine::Dmakit => {
                let mut pool = Bounce::fixed(u64::from(slots), u64::from(areas))?;
                bounced::run(calls, limits, &mut pool)
            }
            Engine::Linux(engine) => {
                let mut pool = Swiotlb::new(SwiotlbConfig {
                    engine,
                    slots,
                    areas,
                    page_bytes: 4096,
                    start: 0,
                    growth_run_ns: SwiotlbConfig::GROWTH_RUN_NS,
                });
                bounced::run(calls, limits, &mut pool)
            }
        })
    }

    fn closing(&self, report: &CompareReport) -> Closing {
        Closing {
            setting: text::setting(report),
            // The choice rests on times, whatever the counts are held to.
            confidence: Confidence::Modelled,
            why: text::why(report),
            reproduce: format!(
                "dmakit compare {}{}{}",
                self.source.argument(),
                self.modes_typed(),
                self.args.reproduce()
            ),
        }
    }

    fn modes_typed(&self) -> String {
        if self.modes == Mode::ALL {
            return String::new();
        }
        let names: Vec<&str> = self.modes.iter().map(|mode| mode.name()).collect();
        format!(" --modes {}", names.join(","))
    }
}

/// Nothing is done for a device that reaches everything.
fn passed(calls: &Calls) -> Counts {
    let mut counts = Counts::default();
    for buffer in &calls.buffers {
        if buffer.kind != model::BufferKind::Coherent {
            counts.ios += 1;
            counts.bytes += buffer.bytes;
        }
    }
    counts
}

impl Recording {
    /// What was compared with a real kernel, in the mode in which it was recorded.
    fn confidence(&self, engine: Engine, mode: Mode) -> Confidence {
        let recorded = match self.setup.invalidation {
            Invalidation::Strict => Mode::Strict,
            Invalidation::Lazy => Mode::Lazy,
        };
        match &self.agreement {
            Some((of, found))
                if engine == Engine::Linux(*of)
                    && mode == recorded
                    && found.percent() >= Some(VALID) =>
            {
                Confidence::Validated
            }
            _ => Confidence::Modelled,
        }
    }

    fn report(self, results: Vec<ModeResult>, constants: &Constants) -> CompareReport {
        let counted = passed(&self.calls);
        let notes = self.notes(&results);
        CompareReport {
            trace: self.load.facts,
            calls: match self.calls.source {
                CallSource::Calls => "calls",
                CallSource::Translations => "translations",
            },
            ios: counted.ios,
            bytes: counted.bytes,
            granule: self.setup.granule,
            results,
            agreement: self
                .agreement
                .map(|(engine, found)| Agreement::new(engine.name(), &found)),
            constants: constants.all().to_vec(),
            check: published::check(constants),
            notes,
        }
    }

    fn notes(&self, results: &[ModeResult]) -> Vec<String> {
        let mut notes = vec![
            "times are not the trace's: they are its counts times the constants below, added to \
             what an I/O takes without translation; all engines are charged alike, so only their \
             counts differ"
                .to_owned(),
            "one command forgets one range, as on VT-d and on an SMMUv3 with range invalidation"
                .to_owned(),
            "how long a batch or a lazy queue is open follows from the trace's clock; a load \
             recorded under emulation is slower than on hardware, so exposure is longer and \
             batches are smaller"
                .to_owned(),
        ];
        if self.calls.source == CallSource::Translations {
            notes.push(
                "this kernel records no calls: each is what one unmap ends, so segments of a list \
                 and directions are not known, and the agreement is of addresses alone"
                    .to_owned(),
            );
        }
        if self.calls.cut_lists > 0 || self.load.facts.truncated > 0 {
            notes.push(format!(
                "{} lists are cut short in the trace",
                self.load.facts.truncated.max(self.calls.cut_lists)
            ));
        }
        if self.calls.mixed_domains > 0 {
            notes.push(format!(
                "{} ranges overlap: several domains that this kernel's events do not tell apart",
                self.calls.mixed_domains
            ));
        }
        let has = |mode: Mode| results.iter().any(|result| result.mode == mode);
        if has(Mode::Passthrough) || has(Mode::Bounce) {
            notes.push(
                "without translation a device reaches all memory at any time, unless the host \
                 keeps it out, as of a confidential guest's private memory"
                    .to_owned(),
            );
        }
        notes
    }
}
