//! One capture: the trace's demand and what its sidecar says.

use std::fmt;
use std::path::Path;

use dmakit_linux_model::{
    Demand, Engine, Known, OpKind, Recorded, RecordedAddresses, RecordedMachine, ReplayConfig,
    Setup, TraceIngest, Unbounced, replay_bounded, setup,
};
use dmakit_trace::{Options, Sidecar, Trace};

pub struct Capture {
    pub name: String,
    pub demand: Demand,
    pub recorded: RecordedAddresses,
    pub machine: RecordedMachine,
    sidecar: Sidecar,
}

impl Capture {
    /// Captures of a folder that go through the software IO TLB.
    pub fn all_in(folder: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect();
        paths.sort();
        paths.iter().filter_map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Option<Self> {
        let trace = ["txt.zst", "txt.gz", "txt", "dat.zst", "dat"].map(|e| path.with_extension(e));
        let trace = trace.into_iter().find(|path| path.exists())?;
        let text = std::fs::read_to_string(path).expect("a readable sidecar");
        let sidecar = Sidecar::parse(&text).expect("a sidecar");
        let mut ingest = TraceIngest::new();
        for event in Trace::open(&trace, Options::default()).expect("a trace") {
            ingest.push(&event.expect("a well-formed event"));
        }
        let (mut demand, recorded) = ingest.finish();
        if !demand.mappings.iter().any(|mapping| mapping.was_bounced) {
            return None;
        }
        let machine = RecordedMachine::new(&sidecar);
        machine.settle_masks(&mut demand, &recorded);
        let name = path.file_stem()?.to_str()?.to_owned();
        Some(Self {
            name,
            demand,
            recorded,
            machine,
            sidecar,
        })
    }

    pub fn engine(&self) -> Engine {
        self.machine.engine.expect("a kernel release")
    }

    /// What the kernel's counter says of its pools at the first phase's end.
    pub fn kernel_slots(&self) -> Option<u32> {
        self.sidecar
            .phases
            .first()?
            .swiotlb_nslabs
            .map(|slots| slots as u32)
    }

    pub fn setup(&self) -> Result<Setup, Unbounced> {
        let params = self
            .machine
            .command_line
            .swiotlb()
            .expect("a valid swiotlb=");
        setup(self.engine(), &self.machine.machine, params)
    }

    /// How to replay it as it was recorded; `None` where the recording shows no lifetimes.
    pub fn config(&self) -> Option<ReplayConfig> {
        if self.demand.known == Known::Attempts {
            return None;
        }
        let setup = self.setup().ok()?;
        let start = self.machine.pool_start.unwrap_or(0);
        let page_bytes = self.machine.machine.page_bytes;
        Some(ReplayConfig::new(setup.config(
            self.engine(),
            page_bytes,
            start,
        )))
    }

    pub fn phase_rows(&self) -> Vec<PhaseRow> {
        let Some(config) = self.config() else {
            return Vec::new();
        };
        let report = replay_bounded(&self.demand, &config);
        let kernel = |index: usize| self.sidecar.phases.get(index)?.swiotlb_hiwater;
        let row = |(index, phase): (usize, &dmakit_linux_model::PhaseReport)| PhaseRow {
            name: phase.name.clone(),
            kernel: kernel(index).map(|slots| slots as u32),
            ours: phase.high_water_slots,
            interval: phase.high_water_interval,
        };
        report.phases.iter().enumerate().map(row).collect()
    }

    /// Per phase: visible failures, and scatterlists that were given up. Attempts of lists that
    /// fail one after another look like one list, so there are at least as many.
    pub fn recorded_failures(&self) -> Vec<(u64, u64)> {
        let mut failures = vec![(0, 0); self.demand.phases.len()];
        let mut open = None;
        for op in &self.demand.ops {
            match op.kind {
                OpKind::PhaseBegin(phase) => open = Some(phase as usize),
                OpKind::PhaseEnd(_) => open = None,
                OpKind::Map(mapping) => {
                    let recorded = self.demand.mappings[mapping as usize].recorded;
                    if let (Some(phase), Recorded::Failed) = (open, recorded) {
                        failures[phase].0 += 1;
                    }
                }
                OpKind::GiveUp(_) => open.into_iter().for_each(|phase| failures[phase].1 += 1),
                _ => {}
            }
        }
        failures
    }
}

/// A line of the table.
pub struct PhaseRow {
    pub name: String,
    pub kernel: Option<u32>,
    pub ours: u32,
    pub interval: (u32, u32),
}

impl fmt::Display for PhaseRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kernel,
            ours,
            interval: (low, high),
        } = self;
        match kernel {
            Some(kernel) => write!(f, "{name:14} kernel {kernel:5}")?,
            None => write!(f, "{name:14} kernel     -")?,
        }
        let word = if *kernel == Some(*ours) { "exact" } else { "" };
        write!(f, " ours {ours:5} [{low:5}, {high:5}] {word}")
    }
}
