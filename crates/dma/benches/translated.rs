//! What mapping through a domain costs: the sequences of the incumbent's scatterlist benchmark.
//!
//! `cargo bench -p dmakit-dma --bench translated [-- PART-OF-A-ROW'S-NAME]`. Hardware is a counter here: commands cost what
//! building and counting them costs, as for the incumbent's figures.

#[path = "../../iova/benches/passes.rs"]
mod passes;

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use dmakit_addr::{
    Attributes, DmaMask, FromDevice, Granule, Iova, IovaRange, NodeId, PhysAddr, PhysRange,
};
use dmakit_dma::{
    Batch, BatchConfig, CoherentSource, Device, DeviceId, DeviceInfo, DmaSegment, Path, Switched,
};
use dmakit_io_pgtable::lpae::{ContiguousHint, Lpae, Stage};
use dmakit_io_pgtable::{PageTable, WalkCoherence};
use dmakit_iommu::{Domain, DomainId, Hardware, Invalidation, Lazy, LazyConfig, SyncError};
use dmakit_iova::{CpuCache, Policy, Space};
use dmakit_platform::host::{HostPlatform, HostRam, SegmentStore};
use dmakit_platform::{CopySource, CopyTarget, CpuBuffer, CpuSlot, Window};
use passes::{Draws, Rows, measure, measure_pair};

/// Hardware that counts.
#[derive(Default)]
struct Counted {
    invalidations: AtomicU64,
    syncs: AtomicU64,
}

impl Hardware for Counted {
    fn invalidate(&self, what: &Invalidation) -> Result<(), SyncError> {
        black_box(what);
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn invalidate_all(&self) -> Result<(), SyncError> {
        self.invalidations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), SyncError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

type Domains = Switched<HostPlatform, Vec<CpuSlot<CpuCache>>, Lpae, SegmentStore, Counted>;
type Dev<'a> = Device<'a, HostPlatform, dmakit_swiotlb::NoGrowth, dmakit_dma::Unchecked, Domains>;

const NONE: Attributes = Attributes::NONE;

/// So many bytes that nobody looks at: nothing bounces here.
struct Bytes(u64);

impl CopySource for Bytes {
    fn len_bytes(&self) -> u64 {
        self.0
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

/// Memory that somebody else holds.
#[derive(Debug)]
struct Nothing;

impl CopySource for Nothing {
    fn len_bytes(&self) -> u64 {
        0
    }

    fn copy_to(&self, _: u64, _: Window<'_>) {}
}

impl CopyTarget for Nothing {
    fn copy_from(&mut self, _: u64, _: Window<'_>) {}
}

struct Machine {
    platform: HostPlatform,
    domain: Domains,
}

fn machine(is_lazy: bool) -> Machine {
    let platform = HostPlatform::new(1);
    let tables = PhysRange::new(PhysAddr::new(1 << 40), 64 << 20).expect("a range");
    let (_ram, segments) = HostRam::new(&[tables]).expect("memory");
    let memory = SegmentStore::new();
    for segment in segments {
        memory.add(NodeId::new(0), segment);
    }
    let format =
        Lpae::new(Stage::One, Granule::K4, 48, 48, ContiguousHint::Never).expect("a format");
    let coherence = WalkCoherence::Coherent;
    let table = PageTable::new(format, platform.clone(), memory, None, coherence).expect("a table");
    let aperture = IovaRange::new(Iova::new(0), 1 << 47).expect("a range");
    let cpus = vec![CpuSlot::default()];
    let space = Space::new(Granule::K4, aperture, Policy::TopDown, cpus).expect("a space");
    let domain = Domain::new(DomainId(1), space, table, Counted::default());
    let domain = match is_lazy {
        false => Switched::Strict(domain),
        true => match Lazy::new(domain, platform.clone(), LazyConfig::default()) {
            Ok(lazy) => Switched::Lazy(lazy),
            Err(_) => unreachable!("memory for the queues"),
        },
    };
    Machine { platform, domain }
}

impl Machine {
    fn device(&self) -> Dev<'_> {
        let info = DeviceInfo::new(
            DeviceId::new(1),
            "bench",
            DmaMask::bits(48).expect("48 bits"),
        );
        let path = Path::Translated {
            domain: &self.domain,
            bounce: None,
        };
        Device::new(self.platform.clone(), info, path, CoherentSource::None)
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Scattered,
    Large,
    Contiguous,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Scattered => "4K scattered",
            Self::Large => "64K scattered",
            Self::Contiguous => "4K contiguous",
        }
    }

    fn runs(self, count: usize) -> Vec<PhysRange> {
        let mut draws = Draws::default();
        let mut run = |index: usize| {
            let far = |draws: &mut Draws| (1 << 32) + draws.below(1 << 18) as u64 * 0x1_0000;
            let (start, len) = match self {
                Self::Scattered => (far(&mut draws), 4096),
                Self::Large => (far(&mut draws), 0x1_0000),
                Self::Contiguous => ((1 << 33) + 4096 * (index as u64 + 1), 4096),
            };
            PhysRange::new(PhysAddr::new(start), len).expect("a run")
        };
        (0..count).map(&mut run).collect()
    }
}

/// When hardware forgets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strict,
    Batched,
    Lazy,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Batched => "batched",
            Self::Lazy => "lazy",
        }
    }
}

/// The same memory as a list that a mapping owns.
fn list_of(runs: &[PhysRange]) -> CpuBuffer {
    let segment = |run: &PhysRange| {
        let (_ram, mut segments) = HostRam::new(&[*run]).expect("memory");
        segments.pop().expect("a segment")
    };
    let len = runs.iter().map(PhysRange::len).sum();
    CpuBuffer::from_segments(runs.iter().map(segment).collect(), len).expect("long enough")
}

/// One step: a list under one range.
struct OneStep<'a> {
    device: &'a Dev<'a>,
    batch: Option<Batch<CpuBuffer>>,
    free: Vec<CpuBuffer>,
    segments: Vec<DmaSegment>,
}

impl OneStep<'_> {
    #[inline(never)]
    fn turn(&mut self) {
        let memory = self.free.pop().expect("a list");
        let segments = &mut self.segments[..];
        let mapping = self
            .device
            .map_scatter::<FromDevice, _>(memory, NONE, segments);
        let mapping = black_box(mapping.expect("mapped"));
        let free = &mut self.free;
        match &mut self.batch {
            Some(batch) => self
                .device
                .unmap_batched(batch, mapping, |memory| free.push(memory))
                .expect("unmapped"),
            None => free.push(self.device.unmap_and_sync(mapping).expect("unmapped")),
        }
    }
}

/// Two steps, of memory that somebody else holds.
struct TwoStep<'a> {
    device: &'a Dev<'a>,
    batch: Option<Batch<Nothing>>,
    runs: &'a [PhysRange],
}

impl TwoStep<'_> {
    #[inline(never)]
    fn turn(&mut self) {
        let len = self.runs.iter().map(PhysRange::len).sum();
        let first = self.runs[0].start();
        let request = self.device.reserve::<FromDevice>(first, len, 1, NONE);
        let mut request = request.expect("reserved");
        let mut linker = self.device.linker(&mut request).expect("own");
        for run in self.runs {
            linker.link(*run, &Bytes(run.len())).expect("linked");
        }
        let sealed = black_box(self.device.seal(request).expect("sealed"));
        let none = core::iter::empty();
        match &mut self.batch {
            Some(batch) => {
                let ended = self
                    .device
                    .destroy_batched(batch, sealed, Nothing, none, drop);
                ended.expect("own").expect("closed");
            }
            None => {
                let debt = self.device.destroy(sealed, Nothing, none).expect("own");
                let proof = self.device.sync().expect("a sync");
                self.device.redeem(debt, &proof).expect("paid");
            }
        }
    }
}

/// Each run by itself, as a driver without lists maps.
fn page_by_page(device: &Dev<'_>, runs: &[PhysRange], handles: &mut Vec<DmaSegment>) {
    let way = dmakit_addr::Direction::FromDevice;
    for run in runs {
        let handle = device.map_raw(*run, &Bytes(run.len()), way, NONE);
        handles.push(handle.expect("mapped"));
    }
    for (run, handle) in runs.iter().zip(handles.drain(..)) {
        let unmapped = device.unmap_raw(handle, way, *run, &mut Nothing, NONE);
        unmapped.expect("unmapped");
    }
}

/// What nobody can do without: a checked store for each entry, and one that clears it.
fn floor(words: &[AtomicU64], entries: usize) {
    for word in &words[..entries] {
        assert_eq!(word.load(Ordering::Relaxed), 0);
        word.store(black_box(1), Ordering::Relaxed);
    }
    for word in &words[..entries] {
        assert_ne!(word.load(Ordering::Relaxed), 0);
        word.store(0, Ordering::Relaxed);
    }
}

/// The incumbent's median for a scatterlist, for its link loop and page by page.
fn peers(shape: Shape, count: usize, mode: Mode) -> [Option<f64>; 3] {
    let is_lazy = mode == Mode::Lazy;
    let all = |lazy: [f64; 3], strict: [f64; 3]| if is_lazy { lazy } else { strict };
    let figures = match (shape, count) {
        (Shape::Scattered, 1) => all([74.2, 59.8, 76.5], [70.9, 56.0, 71.5]),
        (Shape::Scattered, 16) => all([516.0, 417.0, 1232.0], [542.0, 440.0, 1154.0]),
        (Shape::Scattered, 128) => all([3947.0, 3042.0, 9789.0], [4227.0, 3472.0, 9534.0]),
        (Shape::Scattered, _) => all([31.0e3, 23.7e3, 81.4e3], [30.6e3, 23.1e3, 77.4e3]),
        (Shape::Large, 1) => all([105.0, 90.9, 108.0], [139.0, 123.0, 144.0]),
        (Shape::Large, 16) => all([1028.0, 925.0, 2078.0], [1859.0, 1668.0, 2248.0]),
        (Shape::Large, 128) => all([6407.0, 5376.0, 14.2e3], [6476.0, 5421.0, 17.8e3]),
        (Shape::Large, _) => all([49.9e3, 42.4e3, 112.0e3], [50.1e3, 43.8e3, 150.0e3]),
        (Shape::Contiguous, 1) => all([73.5, 59.2, f64::NAN], [79.8, 57.3, f64::NAN]),
        (Shape::Contiguous, 16) => all([217.0, 406.0, f64::NAN], [278.0, 456.0, f64::NAN]),
        (Shape::Contiguous, 128) => all([1362.0, 3029.0, f64::NAN], [1737.0, 3420.0, f64::NAN]),
        (Shape::Contiguous, _) => all([9632.0, 23.5e3, f64::NAN], [9868.0, 24.7e3, f64::NAN]),
    };
    figures.map(|figure| Some(figure).filter(|figure| !figure.is_nan()))
}

fn rows_of(rows: &Rows, shape: Shape, count: usize, mode: Mode) {
    let name = |what: &str| format!("{} {count} {} {what}", shape.name(), mode.name());
    let names = ["one step", "two steps", "page by page"].map(name);
    if !names.iter().any(|name| rows.has(name)) {
        return;
    }
    let machine = machine(mode == Mode::Lazy);
    let device = machine.device();
    let runs = shape.runs(count);
    let words: Vec<AtomicU64> = (0..16 << 10).map(|_| AtomicU64::new(0)).collect();
    let entries = runs.iter().map(|run| run.len() >> 12).sum::<u64>() as usize;
    let ops = 400_000 / count.max(2);
    let config = BatchConfig::default();
    let [one, two, pages] = peers(shape, count, mode);
    let lists = if mode == Mode::Batched {
        config.debts + 1
    } else {
        1
    };
    if rows.has(&names[0]) {
        let batch = Batch::new(device.domain(), config).expect("memory");
        let mut turns = OneStep {
            device: &device,
            batch: (mode == Mode::Batched).then_some(batch),
            free: (0..lists).map(|_| list_of(&runs)).collect(),
            segments: vec![DmaSegment::default(); count],
        };
        let floor = |n| (0..n).for_each(|_| floor(&words, entries));
        let (least, figures) = measure_pair(ops, floor, |n| (0..n).for_each(|_| turns.turn()));
        rows.print(
            &format!("floor: {entries} checked stores, twice"),
            least,
            None,
            None,
        );
        rows.print(&names[0], figures, Some(least), one);
        if let Some(mut batch) = turns.batch {
            device.close_batch(&mut batch, drop).expect("closed");
        }
    }
    if rows.has(&names[1]) {
        let batch = Batch::new(device.domain(), config).expect("memory");
        let mut turns = TwoStep {
            device: &device,
            batch: (mode == Mode::Batched).then_some(batch),
            runs: &runs,
        };
        let floor = |n| (0..n).for_each(|_| floor(&words, entries));
        let (least, figures) = measure_pair(ops, floor, |n| (0..n).for_each(|_| turns.turn()));
        rows.print(&names[1], figures, Some(least), two);
        if let Some(mut batch) = turns.batch {
            device.close_batch(&mut batch, drop).expect("closed");
        }
    }
    if rows.has(&names[2]) && mode != Mode::Batched {
        let mut handles = Vec::with_capacity(count);
        let figures = measure(ops / 4 + 50, |n| {
            (0..n).for_each(|_| page_by_page(&device, &runs, &mut handles));
        });
        rows.print(&names[2], figures, None, pages);
    }
}

fn main() {
    let rows = Rows::chosen();
    for shape in [Shape::Scattered, Shape::Large, Shape::Contiguous] {
        for count in [1, 16, 128, 1024] {
            for mode in [Mode::Strict, Mode::Batched, Mode::Lazy] {
                rows_of(&rows, shape, count, mode);
            }
        }
    }
}
