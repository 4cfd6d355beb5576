//! One domain: addresses, tables, invalidation.

use std::fmt;

use crate::engine::Engine;
use crate::iommu::costs::TranslationCosts;
use crate::iommu::queue::{FlushQueue, Waiting};
use crate::iommu::space::Space;
use crate::iommu::tables::Tables;

/// When a lazy queue is flushed at the latest.
const FLUSH_EVERY_NS: u64 = 10_000_000;
const PAGE_BYTES: u64 = 4096;

/// When hardware forgets what was unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalidation {
    /// Before unmap returns (`iommu.strict=1`).
    Strict,
    /// Some time later, all of the domain at once (`iommu.strict=0`).
    Lazy,
}

/// Who tells when a lazy queue's timer runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// 10 ms after the first range began to wait.
    Modelled,
    /// The recording: [`Domain::flushed`].
    Told,
}

/// What a domain is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DomainConfig {
    /// The rules.
    pub engine: Engine,
    /// The smallest page of the IOMMU in bytes.
    pub granule: u64,
    /// CPUs.
    pub cpus: u32,
    /// When hardware forgets.
    pub invalidation: Invalidation,
    /// Who tells when the timer runs.
    pub timer: Timer,
    /// The highest address that the device, its bus and the IOMMU take.
    pub last: u64,
    /// A PCI device is first tried below 4 GiB (but for `iommu.forcedac=1`).
    pub tries_32_bits: bool,
    /// Address ranges that are withheld, first and last.
    pub reserved: Vec<(u64, u64)>,
}

impl DomainConfig {
    /// 48 bits, 4 KiB, below 4 GiB first, nothing withheld.
    pub fn new(engine: Engine, invalidation: Invalidation, cpus: u32) -> Self {
        Self {
            engine,
            granule: PAGE_BYTES,
            cpus,
            invalidation,
            timer: Timer::Modelled,
            last: (1 << 48) - 1,
            tries_32_bits: true,
            reserved: Vec::new(),
        }
    }
}

/// A range of addresses that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translated {
    /// Its first address.
    pub iova: u64,
    /// Bytes, whole granules.
    pub bytes: u64,
}

/// No addresses: what was asked, and up to where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAddresses {
    /// Bytes.
    pub bytes: u64,
    /// The highest address that was allowed.
    pub last: u64,
}

impl fmt::Display for NoAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, last } = self;
        write!(
            f,
            "no {bytes} bytes of addresses free at or below {last:#x}"
        )
    }
}

impl std::error::Error for NoAddresses {}

/// The model of one domain.
#[derive(Clone, Debug)]
pub struct Domain {
    config: DomainConfig,
    space: Space,
    tables: Tables,
    queue: FlushQueue,
    /// Whether a search below 4 GiB has failed: 6.12 does not try there again.
    left_32_bits: bool,
    costs: TranslationCosts,
}

impl Domain {
    /// An empty domain.
    pub fn new(config: DomainConfig) -> Self {
        Self {
            space: Space::new(config.engine, config.granule, config.cpus, &config.reserved),
            tables: Tables::new(config.granule),
            queue: FlushQueue::new(config.cpus),
            left_32_bits: false,
            costs: TranslationCosts::default(),
            config,
        }
    }

    /// What it has done.
    pub fn costs(&self) -> &TranslationCosts {
        &self.costs
    }

    /// Lets timers and workers run as far as `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        if let (Some((at, cpu)), Timer::Modelled) = (self.queue.timer, self.config.timer) {
            if at <= now_ns {
                self.flush_all(cpu, at, 0);
            }
        }
        self.space.advance(now_ns);
    }

    /// Maps physical runs, one after the other, to one range of whole granules.
    ///
    /// # Errors
    /// [`NoAddresses`].
    pub fn map(
        &mut self,
        cpu: u32,
        now_ns: u64,
        runs: &[(u64, u64)],
    ) -> Result<Translated, NoAddresses> {
        let bytes = runs.iter().map(|(_, bytes)| bytes).sum();
        let translated = self.reserve(cpu, now_ns, bytes)?;
        let mut at = translated.iova;
        for (phys, bytes) in runs {
            let (stores, made) = self.tables.map(at, *phys, *bytes);
            self.costs.table_stores += stores;
            self.costs.tables_made += made;
            at += bytes;
        }
        self.costs.maps += 1;
        Ok(translated)
    }

    /// Takes addresses and writes no table.
    ///
    /// # Errors
    /// [`NoAddresses`].
    pub(super) fn reserve(
        &mut self,
        cpu: u32,
        now_ns: u64,
        bytes: u64,
    ) -> Result<Translated, NoAddresses> {
        self.advance(now_ns);
        let Self { config, space, .. } = self;
        let granules = bytes / config.granule;
        let end = config.last / config.granule + 1;
        let end_32 = ((1 << 32) / config.granule).min(end);
        self.costs.allocations += 1;
        let mut start = None;
        if end > end_32 && config.tries_32_bits && !self.left_32_bits {
            start = space.take(cpu, granules, end_32, false, &mut self.costs);
            // Each time anew in 6.1.
            self.left_32_bits = start.is_none() && config.engine != Engine::Linux6_1;
        }
        let start = start.or_else(|| space.take(cpu, granules, end, true, &mut self.costs));
        let last = config.last;
        match start {
            Some(start) => Ok(Translated {
                iova: start * config.granule,
                bytes,
            }),
            None => {
                self.costs.failed += 1;
                Err(NoAddresses { bytes, last })
            }
        }
    }

    /// Unmaps, and frees the addresses now or with the next flush.
    pub fn unmap(&mut self, cpu: u32, now_ns: u64, translated: Translated) {
        self.costs.unmaps += 1;
        self.costs.table_stores += self.tables.unmap(translated.iova, translated.bytes);
        self.release(cpu, now_ns, translated);
    }

    /// Invalidates and frees a range that is out of the tables.
    pub(super) fn release(&mut self, cpu: u32, now_ns: u64, translated: Translated) {
        self.advance(now_ns);
        let start = translated.iova / self.config.granule;
        let granules = translated.bytes / self.config.granule;
        match self.config.invalidation {
            Invalidation::Strict => {
                self.costs.invalidations += 1;
                self.costs.syncs += 1;
                self.space.give(cpu, start, granules, now_ns);
            }
            Invalidation::Lazy => {
                // Another CPU's full queue may have let hardware forget what waits here.
                let forgotten = self.queue.drain_forgotten(cpu);
                self.free(cpu, now_ns, forgotten);
                if self.queue.is_full(cpu) {
                    self.flush_own(cpu, now_ns);
                }
                let waiting = Waiting {
                    start,
                    granules,
                    since_ns: Some(now_ns),
                };
                self.queue.push(cpu, waiting);
                let timer = (now_ns + FLUSH_EVERY_NS, cpu);
                self.queue.timer.get_or_insert(timer);
                let pages = self.pages(self.queue.granules());
                self.costs.exposed_pages_max = self.costs.exposed_pages_max.max(pages);
            }
        }
    }

    /// The recording says that hardware forgot the domain on `cpu`: the timer's doing, unless this
    /// CPU's queue is full, for then the unmap under way does it.
    pub fn flushed(&mut self, cpu: u32, now_ns: u64) {
        self.flushed_but(cpu, now_ns, 0);
    }

    /// As [`flushed`](Self::flushed), when the last `left` unmaps of other CPUs came too late for it
    /// to cover them.
    pub(super) fn flushed_but(&mut self, cpu: u32, now_ns: u64, left: usize) {
        if !self.queue.is_full(cpu) {
            self.flush_all(cpu, now_ns, left);
        }
    }

    /// As [`flushed`](Self::flushed), when it was the timer's doing although this CPU's queue is full.
    pub(super) fn flushed_by_timer(&mut self, cpu: u32, now_ns: u64) {
        self.flush_all(cpu, now_ns, 0);
    }

    /// No recording says when the timer ran, but this address is free again, so it has run on this CPU,
    /// and on the queue's top lies what was unmapped last before it: this range. Whether it waited.
    pub(super) fn flushed_unseen(&mut self, cpu: u32, now_ns: u64, iova: u64) -> bool {
        let Some(since_ns) = self.queue.since(iova / self.config.granule) else {
            return false;
        };
        self.queue.timer = None;
        let drained = self.queue.drain_since(since_ns);
        self.free(cpu, now_ns, drained);
        true
    }

    /// Whether a range waits for a flush.
    pub(super) fn is_waiting(&self, iova: u64) -> bool {
        self.queue.since(iova / self.config.granule).is_some()
    }

    /// Undoes the last [`reserve`](Self::reserve).
    pub(super) fn put_back(&mut self, cpu: u32, taken: Translated) {
        let granule = self.config.granule;
        self.space
            .put_back(cpu, taken.iova / granule, taken.bytes / granule);
    }

    /// Whether this CPU's next unmap flushes first.
    pub(super) fn is_full(&self, cpu: u32) -> bool {
        self.queue.is_full(cpu)
    }

    /// As [`flushed`](Self::flushed), but each other CPU frees its own with its next unmap: it comes
    /// to that before the timer does.
    pub(super) fn flushed_alone(&mut self, cpu: u32, now_ns: u64) {
        if !self.queue.is_full(cpu) {
            self.queue.timer = None;
            self.flush_own(cpu, now_ns);
        }
    }

    /// What waits at the end of a recording stays exposed until the timer.
    pub fn finish(&mut self, now_ns: u64) {
        if let Some((at, cpu)) = self.queue.timer {
            self.flush_all(cpu, at.max(now_ns), 0);
        }
    }

    /// The timer: everything that waits is freed on the CPU on which it runs.
    fn flush_all(&mut self, cpu: u32, now_ns: u64, left: usize) {
        self.queue.timer = None;
        self.count_flush(cpu, now_ns, left);
        let drained = self.queue.drain_all(cpu, left);
        self.free(cpu, now_ns, drained);
    }

    /// A full queue: hardware forgets everything, but only this CPU frees.
    fn flush_own(&mut self, cpu: u32, now_ns: u64) {
        self.count_flush(cpu, now_ns, 0);
        let drained = self.queue.drain(cpu);
        self.free(cpu, now_ns, drained);
    }

    fn free(&mut self, cpu: u32, now_ns: u64, drained: Vec<Waiting>) {
        for waiting in drained {
            self.space
                .give(cpu, waiting.start, waiting.granules, now_ns);
        }
    }

    /// Hardware forgets what waits, but for the newest few of CPUs other than `cpu`.
    fn count_flush(&mut self, cpu: u32, now_ns: u64, left: usize) {
        self.costs.invalidations += 1;
        self.costs.flushes += 1;
        self.costs.syncs += 1;
        let granule = self.config.granule;
        for waiting in self.queue.waiting(cpu, left) {
            let pages = waiting.granules * granule / PAGE_BYTES;
            // What was forgotten before is not exposed, though not yet free.
            if let Some(since) = waiting.since_ns.take() {
                let waited = now_ns.saturating_sub(since);
                self.costs.exposed_page_ns += u128::from(pages) * u128::from(waited);
            }
        }
    }

    /// The address that a CPU keeps for its next range of this size.
    pub(super) fn next_kept(&self, cpu: u32, bytes: u64) -> Option<u64> {
        let start = self.space.next_kept(cpu, bytes / self.config.granule)?;
        Some(start * self.config.granule)
    }

    /// The recording says that the last range taken is elsewhere: the one taken is free again,
    /// where it was, and the recorded one is taken from wherever it is. False where the model holds
    /// the recorded one for another buffer.
    pub(super) fn correct(&mut self, cpu: u32, taken: Translated, recorded: u64) -> bool {
        let granule = self.config.granule;
        let granules = taken.bytes / granule;
        self.put_back(cpu, taken);
        let start = recorded / granule;
        let was_waiting = self.queue.remove(start);
        let was_free = self.space.take_at(start, granules);
        was_waiting || was_free
    }

    fn pages(&self, granules: u64) -> u64 {
        granules * self.config.granule / PAGE_BYTES
    }
}
