//! `trace.dat` against the text of the same run.

mod support;

use std::path::Path;

use dmakit_trace::{
    Body, Event, Format, Level, Marker, Name, Options, Position, Trace, TraceError,
};
use support::Packing;

fn events(path: &Path) -> Vec<Event> {
    let trace = Trace::open(path, Options::default()).unwrap();
    trace.map(Result::unwrap).collect()
}

/// What must agree: text has microseconds and symbols, and its record of where a probe stands.
fn comparable(mut event: Event) -> Event {
    event.time_ns = (event.time_ns + 500) / 1000;
    event.position = Position::Line(0);
    if let Body::Probe(probe) = &mut event.body {
        probe.location = "".into();
    }
    event
}

#[test]
fn the_binary_form_says_what_the_text_of_the_same_run_says() {
    let folder = std::env::var_os("DMAKIT_CAPTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures"),
        Into::into,
    );
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let dat = entry.unwrap().path();
        let Some(stem) = dat.to_str().and_then(|p| p.strip_suffix(".dat.zst")) else {
            continue;
        };
        let text = events(format!("{stem}.txt.zst").as_ref());
        let binary = events(&dat);
        let trace = Trace::open(&dat, Options::default()).unwrap();
        assert_eq!(trace.format(), Format::TraceDat);
        for (text, binary) in text.iter().zip(&binary) {
            assert_eq!(comparable(text.clone()), comparable(binary.clone()));
        }
        assert_eq!(text.len(), binary.len());
        compared += 1;
    }
    assert!(compared > 0);
}

fn built(bytes: Vec<u8>) -> (Vec<Event>, Trace) {
    let mut trace = Trace::from_bytes(bytes, Options::default()).unwrap();
    let events = trace.by_ref().map(Result::unwrap).collect();
    (events, trace)
}

#[test]
fn every_version_and_packing_gives_the_same_events() {
    let (expected, trace) = built(support::version_6());
    assert_eq!(trace.format(), Format::TraceDat);
    for packing in [Packing::None, Packing::Zlib] {
        let (events, other) = built(support::version_7(&packing));
        assert_eq!(events, expected);
        assert_eq!(other.fidelity(), trace.fidelity());
    }
}

#[test]
fn events_of_all_cpus_come_in_the_order_of_their_times() {
    let (events, trace) = built(support::version_6());
    let order: Vec<_> = events.iter().map(|e| (e.time_ns, e.cpu)).collect();
    let extended = 2_010 + (1 << 27);
    assert_eq!(
        order,
        [
            (1_005, 0),
            (1_501, 1),
            (2_505, 0),
            (2_505, 0),
            (extended, 0)
        ]
    );
    let names: Vec<_> = events.iter().map(|e| e.task.comm.to_string()).collect();
    assert_eq!(names, ["fio", "<...>", "<idle>", "kworker/0:1", "fio"]);
    let counts = trace.fidelity();
    assert_eq!(
        (counts.lost_marked, counts.overwritten, counts.events),
        (9, 3, 5)
    );
    assert!(!counts.is_complete());
}

#[test]
fn fields_are_found_where_the_file_says() {
    let (events, _) = built(support::version_6());
    let context = events[0].context.unwrap();
    assert_eq!(context.level, Level::SoftIrq);
    assert_eq!((context.preempt_depth, context.migrate_depth), (1, 2));
    assert_eq!(events[0].position, Position::Page { cpu: 0, offset: 16 });
    let Body::Unmap(unmap) = &events[0].body else {
        panic!("not an unmap");
    };
    assert_eq!((unmap.dma.raw(), unmap.size), (0x7b40_0000, 512));
    assert_eq!(unmap.attributes.names().to_string(), "NO_WARN");
    let begin = Marker::PhaseBegin(Name::new("a"));
    assert_eq!(events[2].body, Body::Marker(begin));
    let Body::UnmapSg(sg) = &events[3].body else {
        panic!("not a scatterlist");
    };
    assert_eq!((sg.phys.len(), sg.phys[39].raw()), (40, 39 << 12));
    assert_eq!(sg.device, "dev");
}

#[test]
fn a_cut_file_is_an_error_unless_that_is_tolerated() {
    let mut bytes = support::version_6();
    bytes.truncate(bytes.len() - 5000);
    let refused = Trace::from_bytes(bytes.clone(), Options::default())
        .and_then(|trace| trace.collect::<Result<Vec<_>, _>>());
    assert!(
        matches!(refused, Err(TraceError::Cut { .. })),
        "{refused:?}"
    );
    let options = Options {
        tolerate_truncation: true,
        ..Options::default()
    };
    let mut trace = Trace::from_bytes(bytes, options).unwrap();
    let events = trace.by_ref().map(Result::unwrap).count();
    assert_eq!((events, trace.fidelity().cut), (3, true));
}

#[test]
fn a_file_too_large_to_hold_is_refused() {
    let options = Options {
        image_bytes_max: 1000,
        ..Options::default()
    };
    let refused = Trace::from_bytes(support::version_6(), options);
    assert!(matches!(
        refused,
        Err(TraceError::TooLarge { limit_bytes: 1000 })
    ));
}

#[test]
fn an_unknown_version_or_codec_is_named() {
    let mut bytes = support::version_6();
    bytes[10] = b'9';
    let error = Trace::from_bytes(bytes, Options::default()).err().unwrap();
    assert_eq!(error.to_string(), "not supported: trace.dat version 9");
    let mut bytes = support::version_7(&Packing::Zlib);
    bytes[18..22].copy_from_slice(b"lzma");
    let error = Trace::from_bytes(bytes, Options::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "not supported: trace.dat compressed with lzma"
    );
}

#[test]
fn a_large_header_is_read_and_a_cut_one_said() {
    let symbols = "ffffffff81000000 T _text\n".repeat(800_000);
    let bytes = support::version_6_with(&symbols);
    assert!(symbols.len() > 17 << 20);
    assert_eq!(built(bytes.clone()).0, built(support::version_6()).0);
    let cut = bytes[..bytes.len() / 2].to_vec();
    let error = Trace::from_bytes(cut, Options::default()).err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("the input ends inside its header"),
        "{error}"
    );
}
