//! What this project's own stack writes down is read again: the lines that its tests hold it to.

use dmakit_trace::{Body, Options, Step, Trace};

const LINES: &str = include_str!("../../crates/dmakit/tests/translated/traced.trace");

fn bodies() -> Vec<Body> {
    let trace = Trace::from_bytes(LINES.as_bytes().to_vec(), Options::default()).unwrap();
    trace.map(|event| event.unwrap().body).collect()
}

#[test]
fn every_line_is_an_event_and_says_what_was_done() {
    let (mut live, mut reserved, mut links, mut moved) = (0_i64, 0_i64, 0, 0);
    let (mut of_peers, mut mapped_peers, mut others) = (0, 0_i64, Vec::new());
    for body in bodies() {
        match body {
            Body::Map(_) | Body::Alloc(_) => live += 1,
            Body::Unmap(_) | Body::Free(_) => live -= 1,
            Body::Stage(stage) => {
                assert_eq!(stage.device.as_str(), "device");
                assert_eq!(stage.size % 4096, 0);
                match stage.step {
                    Step::Reserve => reserved += 1,
                    Step::Destroy => reserved -= 1,
                    Step::Link { peer: None, .. } => links += 1,
                    Step::Link { peer, .. } => of_peers += u32::from(peer == Some(3)),
                    Step::Withhold => moved += 1,
                    Step::Readmit { phys } => moved += i64::from(phys.raw() > 0),
                    Step::MapPeer { peer, .. } => mapped_peers += i64::from(peer == 3),
                    Step::UnmapPeer { peer } => mapped_peers -= i64::from(peer == 3),
                    Step::Unlink => {}
                }
            }
            other => others.push(other),
        }
    }
    assert_eq!((live, reserved, mapped_peers), (0, 0, 0));
    assert_eq!((links, of_peers, moved), (4, 2, 2));
    assert_eq!(others.len(), 1, "the device is removed: {others:?}");
}

#[test]
fn a_mapping_in_one_step_pairs_with_its_end() {
    let trace = Trace::from_bytes(LINES.as_bytes().to_vec(), Options::default()).unwrap();
    let mut ops = trace.ops();
    for op in &mut ops {
        op.unwrap();
    }
    let fidelity = ops.fidelity();
    assert_eq!(fidelity.unmaps_unmatched, 0);
    assert_eq!(fidelity.malformed, 0);
}

#[test]
fn a_step_without_its_fields_is_malformed() {
    let whole = "dmakit-0 [000] ..... 1.000000000: dma_iova_link: d dir=TO_DEVICE dma_addr=1000";
    for (rest, is_good) in [
        (" size=4096 phys_addr=2000", true),
        (" size=4096 phys_addr=2000 peer=7", true),
        (" size=4096", false),
        (" phys_addr=2000", false),
        (" size=4096 phys_addr=2000 peer=x", false),
    ] {
        let text = format!("# tracer: nop\n{whole}{rest}\n");
        let mut trace = Trace::from_bytes(text.into_bytes(), Options::default()).unwrap();
        let read = trace
            .next()
            .is_some_and(|event| event.is_ok_and(|event| matches!(event.body, Body::Stage(_))));
        assert_eq!(read, is_good, "{rest}");
    }
}
