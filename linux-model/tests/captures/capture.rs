//! One capture: the trace's demand and what its sidecar says.

use std::fmt;
use std::path::Path;

use dmakit_linux_model::{
    Architecture, CommandLine, Demand, Engine, Known, Machine, OpKind, Order, Recorded,
    RecordedAddresses, ReplayConfig, Setup, TraceIngest, Unbounced, driver_min_align_mask,
    learn_min_align_masks, replay, setup,
};
use dmakit_trace::{Options, Trace};

pub struct Capture {
    pub name: String,
    pub demand: Demand,
    pub recorded: RecordedAddresses,
    /// Where the kernel's log says the boot pool begins.
    pub start: Option<u64>,
    sidecar: toml::Table,
}

impl Capture {
    /// Captures of a folder that go through the software IO TLB.
    pub fn all_in(folder: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        let sidecars = paths
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "toml"));
        sidecars.filter_map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Option<Self> {
        let trace = ["txt.zst", "txt.gz", "txt"].map(|e| path.with_extension(e));
        let trace = trace.into_iter().find(|path| path.exists())?;
        let sidecar: toml::Table = std::fs::read_to_string(path)
            .expect("readable")
            .parse()
            .expect("valid TOML");
        let mut ingest = TraceIngest::new();
        for event in Trace::open(&trace, Options::default()).expect("a trace") {
            ingest.push(&event.expect("a well-formed event"));
        }
        let (mut demand, recorded) = ingest.finish();
        if !demand.mappings.iter().any(|mapping| mapping.was_bounced) {
            return None;
        }
        learn_min_align_masks(&mut demand, &recorded);
        for device in &mut demand.devices {
            let line = strings(&sidecar, "devices", "pci")
                .into_iter()
                .find(|line| line.starts_with(&device.name));
            let driver = line.as_deref().and_then(|line| line.split("drv=").nth(1));
            let known = driver.and_then(|driver| driver_min_align_mask(driver.split(' ').next()?));
            device.limits.min_align_mask = known.unwrap_or(device.limits.min_align_mask);
        }
        let start = strings(&sidecar, "dmesg", "lines").iter().find_map(|line| {
            let range = line.split("software IO TLB: mapped [mem 0x").nth(1)?;
            u64::from_str_radix(range.split('-').next()?, 16).ok()
        });
        let name = path.file_stem()?.to_str()?.to_owned();
        Some(Self {
            name,
            demand,
            recorded,
            start,
            sidecar,
        })
    }

    fn text(&self, key: &str) -> &str {
        self.sidecar["capture"]
            .get(key)
            .and_then(toml::Value::as_str)
            .unwrap_or("")
    }

    fn number(&self, key: &str) -> u64 {
        let value = self.sidecar["capture"]
            .get(key)
            .and_then(toml::Value::as_integer);
        value.map_or(0, |value| value as u64)
    }

    fn phase_numbers(&self, key: &str) -> Vec<Option<u32>> {
        let phases = self.sidecar.get("phase").and_then(toml::Value::as_array);
        let number = |phase: &toml::Value| Some(phase.get(key)?.as_integer()? as u32);
        phases.map_or_else(Vec::new, |phases| phases.iter().map(number).collect())
    }

    pub fn engine(&self) -> Engine {
        let dynamic = self.sidecar["capture"].get("swiotlb_dynamic");
        let is_dynamic = dynamic.and_then(toml::Value::as_bool).unwrap_or(false);
        Engine::for_release(self.text("kernel"), is_dynamic).expect("a kernel release")
    }

    /// What the kernel's counter says of the boot pool.
    pub fn kernel_slots(&self) -> Option<u32> {
        self.phase_numbers("swiotlb_nslabs")
            .first()
            .copied()
            .flatten()
    }

    pub fn setup(&self) -> Result<Setup, Unbounced> {
        let ram_bytes = self.number("mem_total_kib") * 1024;
        let machine = Machine {
            architecture: Architecture::from_name(self.text("arch")),
            // The kernel's total is without its own image and tables.
            ram_bytes: ram_bytes.next_multiple_of(1 << 28),
            cpus: self.number("cpus") as u32,
            page_bytes: 4096,
            has_unreachable_memory: self.text("arch") == "x86_64" && ram_bytes > 3 << 30,
            is_confidential: false,
            largest_free_slots: None,
        };
        let params = CommandLine::parse(self.text("cmdline"))
            .swiotlb()
            .expect("a valid swiotlb=");
        setup(self.engine(), &machine, params)
    }

    /// How to replay it as it was recorded; `None` where the recording shows no lifetimes.
    pub fn config(&self) -> Option<ReplayConfig> {
        if self.demand.known == Known::Attempts {
            return None;
        }
        let setup = self.setup().ok()?;
        Some(ReplayConfig::new(setup.config(
            self.engine(),
            4096,
            self.start.unwrap_or(0),
        )))
    }

    pub fn phase_rows(&self) -> Vec<PhaseRow> {
        let Some(mut config) = self.config() else {
            return Vec::new();
        };
        let mut run = |order| {
            config.order = order;
            replay(&self.demand, &config)
        };
        let [likely, least, most] = [Order::Likely, Order::Least, Order::Most].map(&mut run);
        let kernel = self.phase_numbers("swiotlb_hiwater");
        let row = |(index, phase): (usize, &dmakit_linux_model::PhaseReport)| PhaseRow {
            name: phase.name.clone(),
            kernel: kernel.get(index).copied().flatten(),
            ours: phase.high_water_slots,
            low: least.phases[index]
                .high_water_slots
                .min(phase.high_water_slots),
            high: most.phases[index]
                .high_water_slots
                .max(phase.high_water_slots),
        };
        likely.phases.iter().enumerate().map(row).collect()
    }

    /// Per phase: visible failures, and scatterlists that were given up.
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

fn strings(sidecar: &toml::Table, table: &str, key: &str) -> Vec<String> {
    let list = sidecar
        .get(table)
        .and_then(|table| table.get(key))
        .and_then(toml::Value::as_array);
    let text = |value: &toml::Value| value.as_str().map(str::to_owned);
    list.map_or_else(Vec::new, |list| list.iter().filter_map(text).collect())
}

/// A line of the table.
pub struct PhaseRow {
    pub name: String,
    pub kernel: Option<u32>,
    pub ours: u32,
    pub low: u32,
    pub high: u32,
}

impl fmt::Display for PhaseRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kernel,
            ours,
            low,
            high,
        } = self;
        match kernel {
            Some(kernel) => write!(f, "{name:14} kernel {kernel:5}")?,
            None => write!(f, "{name:14} kernel     -")?,
        }
        let is_exact = *kernel == Some(*ours);
        write!(
            f,
            " ours {ours:5} [{low:5}, {high:5}] {}",
            if is_exact { "exact" } else { "" }
        )
    }
}
