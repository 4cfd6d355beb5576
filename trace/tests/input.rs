//! What comes in: formats, packing, damage, and what is said about it.

use std::io::Write;

use dmakit_trace::{Body, Compression, Fidelity, Format, Marker, Options, Trace, TraceError};

const LINE: &str = "    fio-7   [000] ..... 1.000001: dma_unmap_page: 0000:00:01.0 dir=TO_DEVICE dma_addr=7b400000 size=512 attrs=\n";
const PERF: &str = "    fio     7 [000]     1.000001: dma:dma_unmap_page: 0000:00:01.0 dir=TO_DEVICE dma_addr=7b400000 size=512 attrs=\n";

fn read(bytes: impl Into<Vec<u8>>, options: Options) -> Result<(u64, Trace), TraceError> {
    let mut trace = Trace::from_bytes(bytes.into(), options)?;
    let mut events = 0;
    for event in &mut trace {
        event?;
        events += 1;
    }
    Ok((events, trace))
}

fn counts(text: &str) -> Fidelity {
    read(text, Options::default()).unwrap().1.fidelity()
}

fn error(bytes: impl Into<Vec<u8>>) -> String {
    let text = match read(bytes, Options::default()) {
        Ok((events, _)) => panic!("{events} events read"),
        Err(error) => error.to_string(),
    };
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lines(count: usize) -> String {
    LINE.repeat(count)
}

#[test]
fn formats_are_recognised_by_their_content() {
    let header = format!("# tracer: nop\n#\n{LINE}");
    let report = format!("cpus=2\n{}", LINE.replace("..... ", ""));
    for (text, format) in [
        (header.as_str(), Format::Trace),
        (LINE, Format::TracePipe),
        (&report, Format::TraceCmdReport),
        (PERF, Format::PerfScript),
    ] {
        let (events, trace) = read(text, Options::default()).unwrap();
        assert_eq!((events, trace.format()), (1, format), "{text}");
    }
}

#[test]
fn a_given_format_is_not_doubted() {
    let options = Options {
        format: Some(Format::PerfScript),
        ..Options::default()
    };
    assert_eq!(read(PERF, options).unwrap().0, 1);
    let error = read(LINE, options).err().unwrap().to_string();
    assert!(
        error.starts_with("line 1: expected task pid [cpu] time: event"),
        "{error}"
    );
    for format in Format::ALL {
        assert_eq!(Format::by_name(format.name()), Some(format));
    }
}

#[test]
fn a_file_says_its_format_without_being_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures");
    let of = |name: &str| Format::of_file(&folder.join(name)).unwrap();
    let zstd = Compression::Zstd;
    assert_eq!(of("cma-x86-custom.dat.zst"), (Format::TraceDat, zstd));
    assert_eq!(of("cma-x86-custom.txt.zst"), (Format::Trace, zstd));
    let log = Format::detect(b"[    0.000000] Linux version 6.1\n").unwrap();
    assert_eq!(log, Format::KernelLog);
}

#[test]
fn packing_is_recognised_and_may_come_in_pieces() {
    let (first, second) = (lines(3), lines(4));
    let many =
        |pack: fn(&[u8]) -> Vec<u8>| [pack(first.as_bytes()), pack(second.as_bytes())].concat();
    for (bytes, compression) in [
        (many(gzip), Compression::Gzip),
        (many(zstd), Compression::Zstd),
        (
            [first.as_bytes(), second.as_bytes()].concat(),
            Compression::Plain,
        ),
    ] {
        let (events, trace) = read(bytes, Options::default()).unwrap();
        assert_eq!((events, trace.compression()), (7, compression));
    }
    let mut skipped = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    skipped.extend(zstd(first.as_bytes()));
    assert_eq!(read(skipped, Options::default()).unwrap().0, 3);
}

#[test]
fn a_cut_archive_is_an_error_unless_that_is_tolerated() {
    let text: String = (0..5000)
        .map(|i| LINE.replace("7b400000", &format!("{:x}", i * 7919)))
        .collect();
    let tolerant = Options {
        tolerate_truncation: true,
        ..Options::default()
    };
    for pack in [gzip, zstd] {
        let mut bytes = pack(text.as_bytes());
        bytes.truncate(bytes.len() * 2 / 3);
        let said = error(bytes.clone());
        assert!(
            said.contains("ends inside its archive after line"),
            "{said}"
        );
        let (events, trace) = read(bytes, tolerant).unwrap();
        assert!(events > 0 && events < 5000, "{events}");
        assert!(trace.fidelity().cut && !trace.fidelity().is_complete());
    }
}

#[test]
fn a_damaged_archive_is_an_error_even_where_a_cut_is_tolerated() {
    let text: String = (0..5000)
        .map(|i| LINE.replace("7b400000", &format!("{:x}", i * 7919)))
        .collect();
    for pack in [gzip, zstd] {
        let mut bytes = pack(text.as_bytes());
        let middle = bytes.len() / 2;
        for byte in &mut bytes[middle..middle + 40] {
            *byte ^= 0x5a;
        }
        let options = Options {
            tolerate_truncation: true,
            malformed_max: u64::MAX,
            ..Options::default()
        };
        assert!(matches!(
            read(bytes, options),
            Err(TraceError::Archive { .. } | TraceError::LineTooLong { .. })
        ));
    }
}

#[test]
fn a_cut_last_line_is_an_error_unless_that_is_tolerated() {
    let text = lines(2);
    let cut = &text[..text.len() - 30];
    assert_eq!(
        error(cut),
        "the input ends inside a line after line 1; expected it whole"
    );
    let tolerant = Options {
        tolerate_truncation: true,
        ..Options::default()
    };
    let (events, trace) = read(cut, tolerant).unwrap();
    assert_eq!((events, trace.fidelity().cut), (1, true));
    // Only the line feed is missing: nothing is lost.
    assert_eq!(read(text.trim_end(), Options::default()).unwrap().0, 2);
}

#[test]
fn what_is_no_trace_is_refused_in_one_line() {
    assert_eq!(error(""), "the input is empty; expected a trace");
    assert_eq!(error(gzip(b"")), "the input is empty; expected a trace");
    assert!(error("hello\nworld\n").starts_with("unrecognised format at line 1"));
    assert!(error(vec![0u8; 5000]).starts_with("unrecognised format"));
    assert!(error(vec![0xff; 100_000]).starts_with("unrecognised format"));
    assert!(error("PERFILE2rest").contains("perf.data"));
    for log in [
        "[    0.000000] Linux version 6.1\n",
        "<4>[    1.5] x\n",
        "Nov 1 10:00:00 h kernel: x\n",
    ] {
        assert!(error(log).contains("a kernel log"), "{log}");
    }
}

#[test]
fn a_huge_line_is_an_error_with_its_number_and_takes_no_memory() {
    let options = Options {
        line_bytes_max: 4096,
        ..Options::default()
    };
    let text = format!("{LINE}{}\n", "x".repeat(1 << 20));
    assert!(matches!(
        read(text, options),
        Err(TraceError::LineTooLong {
            line: 2,
            limit_bytes: 4096
        })
    ));
}

#[test]
fn malformed_lines_are_tolerated_up_to_the_given_number() {
    let bad = "what is this\n";
    let worse = LINE.replace("dir=TO_DEVICE", "dir=SIDEWAYS");
    let text = format!("{LINE}{bad}{LINE}{worse}{LINE}");
    let said = error(text.clone());
    assert!(
        said.starts_with("line 2: expected task-pid [cpu]"),
        "{said}"
    );
    let tolerant = |malformed_max| Options {
        malformed_max,
        ..Options::default()
    };
    let said = read(text.clone(), tolerant(1)).err().unwrap().to_string();
    assert!(said.starts_with("line 4: expected dir=TO_DEVICE"), "{said}");
    let (events, trace) = read(text, tolerant(2)).unwrap();
    assert_eq!((events, trace.fidelity().malformed), (3, 2));
}

#[test]
fn lost_events_reach_the_counts_however_they_are_told() {
    let with = |aside: &str| counts(&format!("{LINE}{aside}\n{LINE}"));
    assert_eq!(with("CPU:1 [LOST 213 EVENTS]").lost_marked, 213);
    assert_eq!(with("CPU:0 [12 EVENTS DROPPED]").lost_marked, 12);
    assert_eq!(with("CPU:0 [EVENTS DROPPED]").lost_unnumbered, 1);
    assert_eq!(with("[LINE TOO BIG]").lost_marked, 1);
    assert_eq!(with("##### CPU 1 buffer started ####").lost(), 0);
    let header =
        format!("# tracer: nop\n#\n# entries-in-buffer/entries-written: 100/140   #P:2\n{LINE}");
    assert_eq!(counts(&header).overwritten, 40);
    assert!(!counts(&header).is_complete());
    let perf = format!("{PERF} fio 7 [000] 2.0: PERF_RECORD_LOST lost 5\n");
    assert_eq!(counts(&perf).lost_marked, 5);
}

#[test]
fn call_chains_and_comments_are_no_events() {
    let perf = format!(
        "# header\n{PERF}\tffffffff8152f3a1 dma_unmap_page_attrs+0x51 ([kernel.kallsyms])\n\n{PERF}"
    );
    assert_eq!(read(perf, Options::default()).unwrap().0, 2);
    let stack = format!("{LINE} => dma_unmap_page_attrs\n => nvme_irq\n{LINE}");
    assert_eq!(read(stack, Options::default()).unwrap().0, 2);
}

#[test]
fn line_ends_of_other_systems_and_other_bytes_are_read() {
    let text = format!("{}\r\n", LINE.trim_end());
    assert_eq!(read(text, Options::default()).unwrap().0, 1);
    let mut bytes = LINE.as_bytes().to_vec();
    bytes[4] = 0xe9;
    let event = Trace::from_bytes(bytes, Options::default()).unwrap().next();
    assert_eq!(event.unwrap().unwrap().task.comm, "\u{fffd}io");
}

#[test]
fn reading_twice_gives_the_same_events() {
    let text = format!("{LINE}sh-1 [001] ..... 2.0: tracing_mark_write: note\n{LINE}");
    let all = || -> Vec<_> {
        let trace = Trace::from_bytes(text.clone().into_bytes(), Options::default()).unwrap();
        trace.map(Result::unwrap).collect()
    };
    assert_eq!(all(), all());
    assert_eq!(all()[1].body, Body::Marker(Marker::Text("note".into())));
}
