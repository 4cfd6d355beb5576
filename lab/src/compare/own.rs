//! The load behind this project's domains: the code that ships, over hardware that counts.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use dmakit_addr::{DmaMask, Granule, Iova, IovaRange, NodeId, PAGE_BYTES, PhysAddr, PhysRange};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, Permissions, WalkCoherence};
use dmakit_iommu::{Batch, BatchConfig, Domain, DomainId, Lazy, LazyConfig, Mapped};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_linux_model::{BufferKind, CallKind, Calls, TranslationSetup};
use dmakit_platform::host::{HostRam, SegmentStore};
use dmakit_platform::{CpuSlot, Platform};

use super::counts::Counts;
use super::machine::{Counting, Replayed};

/// Memory that tables may take; only what they use is touched.
const TABLE_BYTES: u64 = 256 << 20;
const ADDRESS_BITS: u32 = 48;

/// When hardware forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgetting {
    Strict,
    Batched,
    Lazy,
}

impl Forgetting {
    /// The longest that an unmap waits.
    fn age_max(self) -> Option<Duration> {
        match self {
            Self::Strict => None,
            Self::Batched => Some(BatchConfig::default().age_max),
            Self::Lazy => Some(LazyConfig::default().age_max),
        }
    }
}

type Cpus = Vec<CpuSlot<CpuCache>>;
type Own = Domain<Replayed, Cpus, Lpae, SegmentStore, Counting>;
type OwnLazy = Lazy<Replayed, Cpus, Lpae, SegmentStore, Counting>;

/// A domain, and who unmaps.
enum Served {
    Strict(Own),
    /// A batch for each CPU: batches belong to one ring.
    Batched(Own, HashMap<u32, Batch<()>>),
    Lazy(Box<OwnLazy>),
}

/// Runs the calls, one domain for each device.
///
/// # Errors
/// Where the system has no memory, or the granule is none of ours.
pub fn run(
    calls: &Calls,
    setup: &TranslationSetup,
    forgetting: Forgetting,
) -> anyhow::Result<Counts> {
    let ram = PhysRange::new(PhysAddr::new(1 << 40), TABLE_BYTES)?;
    let (_ram, segments) = HostRam::new(&[ram]).context("memory for page tables")?;
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    let mut run = Run {
        calls,
        setup,
        granule: Granule::of_bytes(setup.granule).context("granule of the trace")?,
        forgetting,
        platform: Replayed::new(setup.cpus),
        memory,
        served: HashMap::new(),
        due_ns: VecDeque::new(),
        held: HashMap::new(),
        counts: Counts::default(),
    };
    for call in &calls.order {
        run.maintain(call.at_ns, call.cpu)?;
        run.platform.go_to(call.at_ns, call.cpu);
        match call.kind {
            CallKind::Map(number) => run.map(number)?,
            CallKind::Unmap(number) => run.unmap(number)?,
            CallKind::Sync { .. } | CallKind::Flush { .. } => {}
        }
    }
    run.finish()
}

struct Run<'a> {
    calls: &'a Calls,
    setup: &'a TranslationSetup,
    granule: Granule,
    forgetting: Forgetting,
    platform: Replayed,
    memory: SegmentStore,
    served: HashMap<u32, Served>,
    /// When what was unmapped has waited for the longest time allowed.
    due_ns: VecDeque<u64>,
    /// With the entries that each has in the tables.
    held: HashMap<u32, (Mapped, u64)>,
    counts: Counts,
}

impl Run<'_> {
    fn map(&mut self, number: u32) -> anyhow::Result<()> {
        let buffer = &self.calls.buffers[number as usize];
        if buffer.kind == BufferKind::Coherent {
            return Ok(());
        }
        if !self.served.contains_key(&buffer.device) {
            let served = self.serve(buffer.device)?;
            self.served.insert(buffer.device, served);
        }
        self.counts.ios += 1;
        self.counts.bytes += buffer.bytes;
        let runs = whole(&buffer.runs(self.setup.granule), self.setup.granule);
        let Some(served) = self.served.get(&buffer.device) else {
            return Ok(());
        };
        let domain = served.domain();
        let cpu = self.platform.enter_cpu();
        let tables = domain.table().statistics().used;
        let write = Permissions::READ_WRITE;
        let mapped = domain.map(&cpu, runs.iter().copied(), write, 1, DmaMask::ALL);
        let Ok(mapped) = mapped else {
            self.counts.failed += 1;
            return Ok(());
        };
        let leaves = domain.table().leaves(mapped.range()).count() as u64;
        let made = domain.table().statistics().used - tables;
        self.counts.runs += runs.len() as u64;
        self.counts.iova_operations += 1;
        self.counts.table_stores += leaves + made as u64;
        self.held.insert(number, (mapped, leaves));
        Ok(())
    }

    fn unmap(&mut self, number: u32) -> anyhow::Result<()> {
        let Some((mapped, leaves)) = self.held.remove(&number) else {
            return Ok(());
        };
        self.counts.iova_operations += 1;
        self.counts.table_stores += leaves;
        let device = self.calls.buffers[number as usize].device;
        let cpu = self.platform.enter_cpu();
        if let Some(age) = self.forgetting.age_max() {
            let due = self.platform.now().saturating_add(age);
            self.due_ns.push_back(due.as_nanos());
        }
        match self.served.get_mut(&device) {
            Some(Served::Strict(domain)) => {
                let ticket = domain.unmap(mapped).map_err(lost)?;
                let proof = domain.sync()?;
                domain.redeem(&cpu, ticket, &proof)?;
            }
            Some(Served::Batched(domain, batches)) => {
                let ring = dmakit_platform::CpuGuard::cpu(&cpu).index() as u32;
                if let std::collections::hash_map::Entry::Vacant(place) = batches.entry(ring) {
                    place.insert(Batch::new(domain.id(), BatchConfig::default())?);
                }
                if let Some(batch) = batches.get_mut(&ring) {
                    let now = self.platform.now();
                    let done = batch.unmap(domain, &cpu, now, mapped, (), drop);
                    done.map_err(|failure| lost(format!("{failure:?}")))?;
                }
            }
            Some(Served::Lazy(lazy)) => {
                // Something is owed only where hardware does not flush.
                if let Some(ticket) = lazy.unmap(&cpu, mapped).map_err(lost)? {
                    let proof = lazy.domain().sync()?;
                    lazy.domain().redeem(&cpu, ticket, &proof)?;
                }
            }
            None => {}
        }
        Ok(())
    }

    /// What the embedder calls from time to time: here whenever something has waited long enough,
    /// up to a moment.
    fn maintain(&mut self, until_ns: u64, on: u32) -> anyhow::Result<()> {
        while let Some(due) = self.due_ns.front().copied().filter(|due| *due <= until_ns) {
            self.due_ns.pop_front();
            self.platform.go_to(due, on);
            let now = self.platform.now();
            let cpu = self.platform.enter_cpu();
            for served in self.served.values_mut() {
                match served {
                    Served::Lazy(lazy) => lazy.maintain(&cpu, now)?,
                    Served::Batched(domain, batches) => {
                        for batch in batches.values_mut().filter(|batch| batch.is_due(now)) {
                            batch.close(domain, &cpu, drop)?;
                        }
                    }
                    Served::Strict(_) => {}
                }
            }
        }
        Ok(())
    }

    fn serve(&self, device: u32) -> anyhow::Result<Served> {
        let bits = ADDRESS_BITS;
        let format = Lpae::new(Stage::One, self.granule, bits, bits, ContiguousHint::Never)?;
        let coherence = WalkCoherence::Coherent;
        let table = PageTable::new(
            format,
            self.platform.clone(),
            self.memory.clone(),
            None,
            coherence,
        )?;
        let aperture = IovaRange::new(Iova::new(0), 1 << bits)?;
        let cpus = (0..self.setup.cpus)
            .map(|_| CpuSlot::default())
            .collect::<Cpus>();
        let space = Space::new(self.granule, aperture, Policy::TopDown, cpus)?;
        for (first, last) in &self.setup.reserved {
            let (first, end) = (Iova::new(*first), Iova::new(last.saturating_add(1)));
            if let Some(range) = IovaRange::between(first, end) {
                space.reserve(range)?;
            }
        }
        let id = DomainId(u64::from(device));
        let domain = Domain::new(id, space, table, Counting::default());
        Ok(match self.forgetting {
            Forgetting::Strict => Served::Strict(domain),
            Forgetting::Batched => Served::Batched(domain, HashMap::new()),
            Forgetting::Lazy => {
                let config = LazyConfig {
                    // Time is the trace's: looking costs nothing.
                    ranges_per_look: 1,
                    ..LazyConfig::default()
                };
                let lazy = Lazy::new(domain, self.platform.clone(), config);
                let lazy = lazy.map_err(|_| anyhow::anyhow!("no memory for flush queues"))?;
                Served::Lazy(Box::new(lazy))
            }
        })
    }

    /// Lets time pass until nothing waits, and adds up.
    fn finish(mut self) -> anyhow::Result<Counts> {
        self.maintain(u64::MAX, 0)?;
        for served in self.served.values() {
            match served {
                Served::Lazy(lazy) => {
                    let exposure = lazy.exposure();
                    self.counts.exposed_page_ns += u128::from(exposure.page_microseconds) * 1000;
                }
                Served::Batched(_, batches) => {
                    for batch in batches.values() {
                        let most = batch.held().bytes_max / PAGE_BYTES;
                        self.counts.withheld_pages_max += most;
                    }
                }
                Served::Strict(_) => {}
            }
            let domain = served.domain();
            self.counts.cache_hits += domain.space().statistics().hits;
            let hardware = domain.hardware();
            self.counts.invalidations += hardware.invalidations.load(Ordering::Relaxed);
            self.counts.syncs += hardware.syncs.load(Ordering::Relaxed);
        }
        Ok(self.counts)
    }
}

impl Served {
    fn domain(&self) -> &Own {
        match self {
            Self::Strict(domain) | Self::Batched(domain, _) => domain,
            Self::Lazy(lazy) => lazy.domain(),
        }
    }
}

/// Runs rounded out to granules, neighbours joined.
fn whole(runs: &[(u64, u64)], granule: u64) -> Vec<PhysRange> {
    let mut whole: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (phys, bytes) in runs {
        let start = phys - phys % granule;
        let end = (phys + bytes).next_multiple_of(granule);
        match whole.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => whole.push((start, end)),
        }
    }
    let range = |(start, end): (u64, u64)| PhysRange::new(PhysAddr::new(start), end - start).ok();
    whole.into_iter().filter_map(range).collect()
}

/// An unmap that lost something is a defect of ours.
fn lost(failure: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("an unmap failed: {failure}")
}
