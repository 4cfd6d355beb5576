//! Damaged inputs: whatever is done to them, readers end with events or one error.
//!
//! `DMAKIT_STEPS` multiplies the number of mutations; `DMAKIT_SEED` replays one.

use std::fmt::Write as _;
use std::path::Path;

use dmakit_trace::{Options, Sidecar, Trace};

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

fn captures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures")
}

/// The first bytes of a capture's text, whole lines.
fn text(name: &str, len: usize) -> Vec<u8> {
    let file = std::fs::File::open(captures().join(name)).unwrap();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).unwrap();
    let mut text = vec![0; len];
    std::io::Read::read_exact(&mut decoder, &mut text).unwrap();
    let end = text.iter().rposition(|&byte| byte == b'\n').unwrap();
    text.truncate(end + 1);
    text
}

fn perf_of(text: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    for line in String::from_utf8_lossy(text).lines() {
        if let Some((task, rest)) = line.split_once('[') {
            let (comm, pid) = task.trim().rsplit_once('-').unwrap();
            let mut pieces = rest.split_whitespace();
            let cpu = pieces.next().unwrap();
            let rest: Vec<_> = pieces.skip(1).collect();
            writeln!(out, "{comm} {pid} [{cpu} {}", rest.join(" ")).unwrap();
        }
    }
    out.into_bytes()
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let text = |name| text(name, 12_000);
    let uas = text("uas-swiotlb-dynamic-small.txt.zst");
    let dat = std::fs::read(captures().join("cma-x86-custom.dat.zst")).unwrap();
    let mut plain = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&dat[..]).unwrap();
    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    let packed =
        ruzstd::encoding::compress_to_vec(&uas[..], ruzstd::encoding::CompressionLevel::Fastest);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &uas).unwrap();
    vec![
        ("perf", perf_of(&uas)),
        ("trace", uas),
        ("probes", text("nvme-swiotlb-small-6.1-kprobe.txt.zst")),
        ("sg", text("cma-x86-custom.txt.zst")),
        ("zstd", packed),
        ("gzip", gzip.finish().unwrap()),
        ("dat6", support::version_6()),
        ("dat7", support::version_7(&support::Packing::Zlib)),
        ("dat7-plain", support::version_7(&support::Packing::None)),
        ("dat7-real", plain),
    ]
}

/// One to four damages: a flipped bit, another byte, a cut, a piece moved, doubled or lost, or an
/// extreme number.
fn mutate(sample: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    // Headers decide most: half of all damage goes there.
    let near = [64, 512, usize::MAX][random.below(3)];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().min(near));
        let end = (at + random.below(64)).min(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            3 => {
                let from = random.below(sample.len());
                let until = (from + 300).min(sample.len());
                drop(bytes.splice(at..end, sample[from..until].iter().copied()));
            }
            4 => bytes[at..end].fill([0, 0xff, b'9', b' ', b'='][random.below(5)]),
            5 => {
                let big = random.next() >> random.below(64);
                drop(bytes.splice(at..end, big.to_string().into_bytes()));
            }
            6 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = (random.next() & 0xff) as u8;
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn try_read(bytes: Vec<u8>, random: &mut Random) -> Result<u64, String> {
    let options = Options {
        tolerate_truncation: random.below(2) == 0,
        malformed_max: [0, 3, u64::MAX][random.below(3)],
        line_bytes_max: 1 << 16,
        image_bytes_max: 1 << 24,
        ..Options::default()
    };
    let one_line = |error: dmakit_trace::TraceError| {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        text
    };
    let mut ops = Trace::from_bytes(bytes, options).map_err(one_line)?.ops();
    let mut read = 0;
    for op in &mut ops {
        op.map_err(one_line)?;
        read += 1;
    }
    let counts = ops.fidelity();
    assert_eq!(
        counts.maps,
        counts.unmaps_matched + counts.unmaps_inferred + counts.left_mapped
    );
    assert_eq!(
        counts.attempts,
        counts.attempts_mapped
            + counts.attempts_failed
            + counts.attempts_orphaned
            + counts.attempts_unknown
    );
    Ok(read)
}

#[test]
fn no_damage_makes_a_reader_panic() {
    let steps = std::env::var("DMAKIT_STEPS")
        .ok()
        .and_then(|s| s.parse().ok());
    let replay = std::env::var("DMAKIT_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let mut refused = 0;
    let mut read = 0;
    for (name, sample) in samples() {
        // The real one has a megabyte of formats to read each time.
        let count = if name == "dat7-real" { 12 } else { 300 };
        let seeds = 0..count * steps.unwrap_or(1u64);
        for seed in replay.map_or(seeds, |seed| seed..seed + 1) {
            let outcome = std::panic::catch_unwind(|| {
                let mut random = Random(seed);
                let bytes = mutate(&sample, &mut random);
                try_read(bytes, &mut random)
            });
            match outcome {
                Ok(Ok(_)) => read += 1,
                Ok(Err(_)) => refused += 1,
                Err(_) => panic!("{name}: DMAKIT_SEED={seed} panics"),
            }
        }
    }
    // Both ends are reached, else the damage is too weak or too strong to mean anything.
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

#[test]
fn undamaged_samples_are_read_whole() {
    for (name, sample) in samples() {
        let trace = Trace::from_bytes(sample, Options::default()).unwrap();
        let events = trace.map(Result::unwrap).count();
        assert!(events >= 3, "{name}: {events}");
    }
}

#[test]
fn no_damage_makes_the_sidecar_reader_panic() {
    let sample = std::fs::read(captures().join("cma-x86-custom.toml")).unwrap();
    for seed in 0..300 {
        let bytes = mutate(&sample, &mut Random(seed));
        if let Err(error) = Sidecar::parse(&String::from_utf8_lossy(&bytes)) {
            assert!(!error.to_string().contains('\n'), "seed {seed}");
        }
    }
}

mod support;
