//! A trace as a load: what is asked of bounce memory, and how well it is known.

mod claims;
mod context;
mod facts;
mod split;

use anyhow::Context as _;
use dmakit_linux_model::{
    Architecture, Demand, Engine as Linux, Known, Machine, Mapping, RecordedAddresses,
    RecordedMachine, TraceIngest, cma, learn_min_align_masks,
};
use dmakit_trace::{Body, Event, Options, Sidecar, Trace};

use crate::engine::Engine;
use crate::input::Source;

pub use claims::{BLOCK_BYTES, Claims, named_pages};
pub use context::ContextShare;
pub use facts::{KernelFacts, TraceFacts};

/// CPUs of the largest machine that a damaged trace is believed to show.
const CPUS_MAX: u32 = 8192;

/// A trace, read.
pub struct Load {
    pub facts: TraceFacts,
    /// The sidecar's counters. Printed beside predictions, never used to make them.
    pub kernel: KernelFacts,
    pub demand: Demand,
    /// What is asked of contiguous areas, where anything is.
    pub claims: Option<Claims>,
    /// The addresses that the kernel chose; compared with, never used to predict.
    pub recorded: RecordedAddresses,
    /// From where mappings were asked for: those that were bounced, or all where none was.
    pub contexts: ContextShare,
    /// Mappings that were not bounced and are split where they would be.
    pub split: u64,
    /// What the sidecar says of the machine, its counters left out.
    pub recorded_machine: Option<RecordedMachine>,
    /// What the kernel said beside the trace.
    pub sidecar: Option<Sidecar>,
    pub begin_ns: u64,
    pub end_ns: u64,
}

/// In which contexts memory was bounced, and mapped.
#[derive(Default)]
struct Contexts {
    bounced: ContextShare,
    mapped: ContextShare,
}

impl Contexts {
    fn note(&mut self, event: &Event) {
        match &event.body {
            Body::Bounced(bounce) => self.bounced.note(event.context, bounce.size),
            Body::Map(map) => self.mapped.note(event.context, map.size),
            Body::MapSg(map) => {
                for size in &map.sizes {
                    self.mapped.note(event.context, *size);
                }
            }
            _ => {}
        }
    }

    /// Those of bounces; where nothing bounced, those of what could have.
    fn of_bounces(self) -> ContextShare {
        match self.bounced.mappings() {
            0 => self.mapped,
            _ => self.bounced,
        }
    }
}

impl Load {
    /// Reads all of `source`, and the sidecar beside it. `tell` hears the number of events read.
    ///
    /// # Errors
    /// What the readers refuse, with the input's name in front.
    pub fn read(source: &Source, options: Options, tell: impl Fn(u64)) -> anyhow::Result<Self> {
        Self::observed(source, options, tell, |_| ())
    }

    /// The same, with each event shown to `see`.
    ///
    /// # Errors
    /// As [`Load::read`].
    pub fn observed(
        source: &Source,
        options: Options,
        tell: impl Fn(u64),
        mut see: impl FnMut(&Event),
    ) -> anyhow::Result<Self> {
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
        let mut claims = cma::Ingest::new();
        let mut contexts = Contexts::default();
        let (mut begin_ns, mut end_ns) = (u64::MAX, 0);
        for event in &mut trace {
            let event = event.with_context(shown)?;
            if event.index % 8192 == 0 {
                tell(event.index);
            }
            contexts.note(&event);
            begin_ns = begin_ns.min(event.time_ns);
            end_ns = end_ns.max(event.time_ns);
            ingest.push(&event);
            claims.push(&event);
            see(&event);
        }
        let (mut demand, mut recorded) = ingest.finish();
        let machine = sidecar.as_ref().map(RecordedMachine::new);
        match &machine {
            Some(machine) => machine.settle_masks(&mut demand, &recorded),
            None => drop(learn_min_align_masks(&mut demand, &recorded)),
        }
        let begin_ns = begin_ns.min(end_ns);
        let claims = Claims::new(claims, sidecar.as_ref());
        let mut facts =
            TraceFacts::new(source, &trace, &demand, sidecar.as_ref(), end_ns - begin_ns);
        facts.unmatched += claims.as_ref().map_or(0, Claims::unmatched);
        let split = split::split_unbounced(&mut demand, &mut recorded);
        Ok(Self {
            split,
            claims,
            facts,
            kernel: KernelFacts::new(&demand, sidecar.as_ref()),
            sidecar,
            recorded,
            contexts: contexts.of_bounces(),
            demand,
            recorded_machine: machine,
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

    /// What the recorded kernel was booted with. Without a sidecar only what the trace itself
    /// shows: that bouncing was forced.
    pub fn command_line(&self) -> &str {
        let was_forced = || {
            self.demand
                .mappings
                .iter()
                .any(|mapping| mapping.was_forced)
        };
        match &self.facts.command_line {
            Some(line) => line,
            None if was_forced() => "swiotlb=force",
            None => "",
        }
    }

    /// The engine that models the recorded kernel, if the sidecar names it.
    pub fn recorded_engine(&self) -> Option<Engine> {
        self.recorded_machine.as_ref()?.engine.map(Engine::Linux)
    }

    /// The machine of the sidecar; without one, a PC with as many CPUs as the trace shows, and
    /// with memory that not all devices reach, so that there is a pool.
    pub fn machine(&self) -> Machine {
        let shown = self
            .demand
            .mappings
            .iter()
            .map(|mapping| mapping.cpu.saturating_add(1).min(CPUS_MAX))
            .max();
        let natural = |mapping: &Mapping| mapping.was_bounced && !mapping.was_forced;
        let mut machine = match &self.recorded_machine {
            Some(recorded) => recorded.machine,
            None => Machine {
                architecture: Architecture::X86_64,
                ram_bytes: 0,
                cpus: shown.unwrap_or(1),
                page_bytes: 4096,
                has_unreachable_memory: true,
                is_confidential: false,
                largest_free_slots: None,
            },
        };
        machine.has_unreachable_memory |= self.demand.mappings.iter().any(natural);
        machine
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
            recorded_machine: self.recorded_machine.clone(),
            sidecar: self.sidecar.clone(),
            split: self.split,
            claims: self.claims.as_ref().map(Claims::first_half),
            begin_ns: self.begin_ns,
            end_ns: demand.ops.last().map_or(self.begin_ns, |op| op.likely_ns),
            demand,
        }
    }
}
