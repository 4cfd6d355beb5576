//! A trace as a load: what is asked of bounce memory, and how well it is known.

mod context;
mod facts;
mod split;

use anyhow::Context as _;
use dmakit_linux_model::{
    Demand, Engine as Linux, Known, RecordedAddresses, TraceIngest, driver_min_align_mask,
    learn_min_align_masks,
};
use dmakit_trace::{Body, Options, Sidecar, Trace};

use crate::engine::Engine;
use crate::input::Source;

pub use context::ContextShare;
pub use facts::{KernelFacts, TraceFacts};

/// A trace, read.
pub struct Load {
    pub facts: TraceFacts,
    /// The sidecar's counters. Printed beside predictions, never used to make them.
    pub kernel: KernelFacts,
    pub demand: Demand,
    /// The addresses that the kernel chose; compared with, never used to predict.
    pub recorded: RecordedAddresses,
    /// From where mappings were asked for: those that were bounced, or all where none was.
    pub contexts: ContextShare,
    /// Mappings that were not bounced and are split where they would be.
    pub split: u64,
    pub sidecar: Option<Sidecar>,
    pub begin_ns: u64,
    pub end_ns: u64,
}

impl Load {
    /// Reads all of `source`, and the sidecar beside it. `tell` hears the number of events read.
    ///
    /// # Errors
    /// What the readers refuse, with the input's name in front.
    pub fn read(source: &Source, options: Options, tell: impl Fn(u64)) -> anyhow::Result<Self> {
        let shown = || source.shown();
        let sidecar = match source {
            Source::File(path) => Sidecar::beside(path).with_context(shown)?,
            Source::Stdin => None,
        };
        let mut trace = match source {
            Source::File(path) => Trace::open(path, options),
            Source::Stdin => Trace::from_reader(std::io::stdin(), options),
        }
        .with_context(shown)?;
        let mut ingest = TraceIngest::new();
        let (mut bounced, mut mapped) = (ContextShare::default(), ContextShare::default());
        let (mut begin_ns, mut end_ns) = (u64::MAX, 0);
        for event in &mut trace {
            let event = event.with_context(shown)?;
            if event.index % 8192 == 0 {
                tell(event.index);
            }
            match &event.body {
                Body::Bounced(bounce) => bounced.note(event.context, bounce.size),
                Body::Map(map) => mapped.note(event.context, map.size),
                Body::MapSg(map) => {
                    for size in &map.sizes {
                        mapped.note(event.context, *size);
                    }
                }
                _ => {}
            }
            begin_ns = begin_ns.min(event.time_ns);
            end_ns = end_ns.max(event.time_ns);
            ingest.push(&event);
        }
        let (mut demand, mut recorded) = ingest.finish();
        know_devices(&mut demand, &recorded, sidecar.as_ref());
        let begin_ns = begin_ns.min(end_ns);
        let facts = TraceFacts::new(source, &trace, &demand, sidecar.as_ref(), end_ns - begin_ns);
        let split = split::split_unbounced(&mut demand, &mut recorded);
        Ok(Self {
            split,
            facts,
            kernel: KernelFacts::new(&demand, sidecar.as_ref()),
            recorded,
            contexts: if bounced.mappings() > 0 {
                bounced
            } else {
                mapped
            },
            demand,
            sidecar,
            begin_ns,
            end_ns,
        })
    }

    /// Whether the trace shows when mappings end. Without that, nothing can be said about
    /// occupancy.
    pub fn shows_lifetimes(&self) -> bool {
        self.demand.known != Known::Attempts || self.demand.mappings.is_empty()
    }

    /// Whether anything was bounced while the trace was taken.
    pub fn has_bounces(&self) -> bool {
        self.demand
            .mappings
            .iter()
            .any(|mapping| mapping.was_bounced)
    }

    /// The engine that models the recorded kernel, if the sidecar names it.
    pub fn recorded_engine(&self) -> Option<Engine> {
        let capture = &self.sidecar.as_ref()?.capture;
        let dynamic = capture.swiotlb_dynamic.unwrap_or(false);
        Linux::for_release(capture.kernel.as_deref()?, dynamic).map(Engine::Linux)
    }

    /// The engine that models the recorded kernel, else the latest static one.
    pub fn own_engine(&self) -> Engine {
        self.recorded_engine()
            .unwrap_or(Engine::Linux(Linux::Linux6_12))
    }

    /// The first half of the load, by operations, as a load of its own.
    pub fn first_half(&self) -> Self {
        let mut demand = self.demand.clone();
        demand.ops.truncate(demand.ops.len() / 2);
        Self {
            facts: self.facts.clone(),
            kernel: KernelFacts::default(),
            recorded: self.recorded.clone(),
            contexts: self.contexts,
            sidecar: self.sidecar.clone(),
            split: self.split,
            begin_ns: self.begin_ns,
            end_ns: demand.ops.last().map_or(self.begin_ns, |op| op.likely_ns),
            demand,
        }
    }
}

/// What a driver demands of bounce addresses is in no event; the sidecar names the drivers. Only
/// where it names none do the recorded addresses tell.
fn know_devices(demand: &mut Demand, recorded: &RecordedAddresses, sidecar: Option<&Sidecar>) {
    let pci = |name: &str| sidecar.and_then(|sidecar| sidecar.pci(name));
    if demand
        .devices
        .iter()
        .any(|device| pci(&device.name).is_none())
    {
        learn_min_align_masks(demand, recorded);
    }
    for device in &mut demand.devices {
        if let Some(pci) = pci(&device.name) {
            let driver = pci.driver.as_deref().unwrap_or("");
            device.limits.min_align_mask = driver_min_align_mask(driver).unwrap_or(0);
        }
    }
}
