//! The model of Linux's IOMMU layer against what real kernels recorded.
//!
//! Runs over the captures kept in the project; `DMAKIT_CAPTURES=DIR` adds those of another folder.
//! The model sees the calls of the mapping API, and which domain was flushed when; the recorded
//! `iommu` events and addresses are compared with.
//! `cargo test -p dmakit-linux-model --test translation -- --nocapture` prints the table.

use std::path::Path;
use std::sync::OnceLock;

use dmakit_linux_model::{
    CallSource, Calls, CallsIngest, DifferenceReason, Engine, Invalidation, RecordedOpKind,
    RecordedTranslation, TranslationSetup, agree_on_translation,
};
use dmakit_trace::{Body, Event, Name, Options, Sidecar, Trace};

struct Capture {
    name: String,
    calls: Calls,
    recorded: RecordedTranslation,
    setup: TranslationSetup,
}

/// The trace beside a sidecar.
fn trace_of(path: &Path) -> Option<Trace> {
    let names = ["txt.zst", "txt.gz", "txt", "dat.zst", "dat"].map(|e| path.with_extension(e));
    let found = names.into_iter().find(|path| path.exists())?;
    Some(Trace::open(&found, Options::default()).expect("a trace"))
}

impl Capture {
    /// `None` for a capture without an IOMMU.
    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).expect("a readable sidecar");
        let sidecar = Sidecar::parse(&text).expect("a sidecar");
        if !sidecar.events.contains_key("map") {
            return None;
        }
        let mut ingest = CallsIngest::new();
        for event in trace_of(path)? {
            ingest.push(&event.expect("a well-formed event"));
        }
        let (calls, recorded) = ingest.finish();
        let kernel = sidecar.capture.kernel.as_deref().expect("a kernel release");
        let engine = Engine::for_release(kernel, false).expect("a known release");
        Some(Self {
            name: path.file_stem()?.to_str()?.to_owned(),
            setup: TranslationSetup::new(Some(&sidecar), &calls, &recorded, engine),
            calls,
            recorded,
        })
    }
}

/// Read once for all tests.
fn captures() -> &'static [Capture] {
    static CAPTURES: OnceLock<Vec<Capture>> = OnceLock::new();
    CAPTURES.get_or_init(|| {
        let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../captures").to_owned()];
        folders.extend(std::env::var("DMAKIT_CAPTURES"));
        let mut paths: Vec<_> = folders
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        paths.dedup_by(|a, b| a.file_name() == b.file_name());
        let captures: Vec<Capture> = paths.iter().filter_map(|p| Capture::read(p)).collect();
        assert!(captures.len() >= 3, "captures are missing from {folders:?}");
        captures
    })
}

#[test]
fn what_enters_and_leaves_the_tables_is_what_the_kernel_recorded() {
    for Capture {
        name,
        calls,
        recorded,
        setup,
    } in captures()
    {
        let agreement = agree_on_translation(calls, recorded, setup);
        let percent = agreement.percent().expect("recorded events");
        println!(
            "{name:26} {percent:6.2} % of {} ({} lengths by their sum, {} coherent, {} reordered) {:?}",
            agreement.recorded,
            agreement.lengths_by_sum,
            agreement.coherent,
            agreement.reordered,
            agreement.reasons,
        );
        assert!(
            percent >= 99.0,
            "{name}: {:?}",
            agreement.differences.first()
        );
    }
}

#[test]
fn addresses_are_the_kernels_wherever_the_recording_fixes_the_order() {
    for capture in captures() {
        let Capture {
            name,
            calls,
            recorded,
            setup,
        } = capture;
        let addresses = agree_on_translation(calls, recorded, setup).addresses;
        let percent = addresses.percent().expect("recorded addresses");
        println!("{name:26} {percent:6.2} % {addresses:?}");
        // With a lazy queue, two CPUs race for what a flush gives back.
        let (least, open_max) = match setup.invalidation {
            Invalidation::Strict => (99.5, 1),
            Invalidation::Lazy => (98.0, 10),
        };
        assert!(percent >= least, "{name}: {addresses:?}");
        assert!(
            addresses.open * 100 <= addresses.compared * open_max,
            "{name}"
        );
    }
}

/// The comparison can fail: what was recorded is changed, and what was equal no longer is.
#[test]
fn other_runs_and_other_addresses_are_not_equal() {
    for capture in captures() {
        let mut changed = capture.recorded.clone();
        for op in &mut changed.ops {
            match &mut op.kind {
                RecordedOpKind::Map { bytes, .. } | RecordedOpKind::Unmap { bytes, .. } => {
                    *bytes += 1;
                }
            }
        }
        for (index, dma) in changed.dma.iter_mut().enumerate() {
            // No two in a row differ alike, or one would be the other's given back.
            let bits = (index as u64).wrapping_mul(0x9e37) % 997 + 1;
            *dma = dma.map(|dma| dma ^ bits << 20);
        }
        let agreement = agree_on_translation(&capture.calls, &changed, &capture.setup);
        assert_eq!(agreement.equal, 0, "{}", capture.name);
        if capture.calls.source == CallSource::Calls {
            assert!(agreement.reasons[&DifferenceReason::NotRecorded] > 0);
        }
        let addresses = &agreement.addresses;
        assert!(
            addresses.equal * 10 < addresses.compared,
            "{}",
            capture.name
        );
    }
}

/// The same device once more, on CPUs and in tasks of its own, at the same addresses in a domain of
/// its own: the events name no domain.
fn twin(event: &Event, cpus: u32) -> Event {
    let mut twin = event.clone();
    twin.cpu += cpus;
    if twin.task.pid > 0 {
        twin.task.pid += 100_000;
    }
    let device = match &mut twin.body {
        Body::Map(map) => &mut map.device,
        Body::Unmap(unmap) => &mut unmap.device,
        Body::MapSg(map) => &mut map.device,
        Body::UnmapSg(unmap) => &mut unmap.device,
        Body::Alloc(alloc) | Body::Free(alloc) => &mut alloc.device,
        _ => return twin,
    };
    *device = Name::new(&format!("twin of {device}"));
    twin
}

#[test]
fn two_devices_at_the_same_addresses_are_told_apart() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../captures/nvme-smmu-strict-arm64.toml"
    );
    let capture = captures()
        .iter()
        .find(|capture| capture.name == "nvme-smmu-strict-arm64")
        .expect("it is kept in the project");
    let mut ingest = CallsIngest::new();
    let mut index = 0;
    for event in trace_of(path.as_ref()).expect("a trace") {
        let event = event.expect("a well-formed event");
        for mut event in [twin(&event, capture.setup.cpus), event] {
            event.index = index;
            index += 1;
            ingest.push(&event);
        }
    }
    let (calls, recorded) = ingest.finish();
    let mut setup = capture.setup.clone();
    setup.cpus *= 2;
    let agreement = agree_on_translation(&calls, &recorded, &setup);
    let alone = agree_on_translation(&capture.calls, &capture.recorded, &capture.setup);
    assert_eq!(agreement.recorded, alone.recorded * 2);
    assert_eq!(agreement.equal, alone.equal * 2, "{:?}", agreement.reasons);
    let (both, one) = (&agreement.addresses, &alone.addresses);
    assert_eq!(both.compared, one.compared * 2);
    assert_eq!(both.missed, one.missed * 2);
}

/// Without what the sidecar says the machine is read off the calls.
#[test]
fn a_trace_alone_tells_granule_and_policy() {
    for Capture {
        name,
        calls,
        recorded,
        setup,
    } in captures()
    {
        let alone = TranslationSetup::new(None, calls, recorded, setup.engine);
        assert_eq!(alone.granule, setup.granule, "{name}");
        assert_eq!(alone.invalidation, setup.invalidation, "{name}");
        assert_eq!(alone.cpus, setup.cpus, "{name}");
    }
}
