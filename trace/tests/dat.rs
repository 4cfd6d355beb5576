//! `trace.dat` against the text of the same run.

use std::path::Path;

use dmakit_trace::{Body, Event, Format, Options, Trace};

fn events(path: &Path) -> Vec<Event> {
    let trace = Trace::open(path, Options::default()).unwrap();
    trace.map(Result::unwrap).collect()
}

/// What must agree: text has microseconds and symbols, and its record of where a probe stands.
fn comparable(mut event: Event) -> Event {
    event.time_ns = (event.time_ns + 500) / 1000;
    event.position = dmakit_trace::Position::Line(0);
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
