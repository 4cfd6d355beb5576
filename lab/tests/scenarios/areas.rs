//! The scenarios about contiguous memory: that they hold, and that each check can fail.

use serde_json::Value;

use super::{answer, changed, check, is_refused, run, untimed};

/// A built-in page with one thing changed, which then ends with `code`.
fn with(page: &str, from: &str, to: &str, code: i32) -> Value {
    let (_directory, path) = changed(page, "mine.toml", from, to);
    answer(&[path.to_str().unwrap()], code)
}

/// The one check that is violated.
fn violated(answer: &Value) -> Vec<&str> {
    let checks = answer["checks"].as_array().unwrap().iter();
    let violated = checks.filter(|check| check["held"] == false);
    violated
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

/// The memory table of `per-node-cma`, for a machine of so many nodes that are all 20 apart.
const FOUR_NODES: &str = r#"nodes = ["256M", "256M", "256M", "256M"]
# Row by row, how far nodes are apart, as firmware has it: 10 is the node itself. Without this line
# it is 20 everywhere.
distances = [[10, 20, 20, 20], [20, 10, 20, 20], [20, 20, 10, 20], [20, 20, 20, 10]]
"#;

fn nodes(count: usize) -> String {
    format!("nodes = {:?}\n", vec!["256M"; count])
}

#[test]
fn with_room_everything_is_local_on_two_to_sixteen_nodes() {
    for count in [2, 4, 8, 16] {
        let answer = with("per-node-cma", FOUR_NODES, &nodes(count), 0);
        let side = &answer["locality"]["per_node"];
        assert_eq!(side["nodes"].as_array().unwrap().len(), count);
        assert_eq!(side["local"], side["allocations"]);
        assert_eq!(side["sync_mean_ns"], 240.0);
        // One node in so many has the default area.
        let far = (count - 1) as f64 / count as f64;
        let mean = &answer["locality"]["default_area"]["sync_mean_ns"];
        let expected = far * 550.0 + (1.0 - far) * 240.0;
        assert!((mean.as_f64().unwrap() - expected).abs() < 0.001, "{mean}");
        assert_eq!(check(&answer, "fall-back-order")["failed"], 0);
        assert_eq!(answer["closing"]["confidence"], "modelled");
    }
}

#[test]
fn each_figure_says_how_it_is_known() {
    let answer = with(
        "per-node-cma",
        FOUR_NODES,
        "nodes = [\"256M\", \"256M\"]\ndistances = [[10, 32], [32, 10]]\n",
        0,
    );
    let figures = answer["locality"]["figures"].as_array().unwrap();
    let told: Vec<_> = figures
        .iter()
        .map(|figure| {
            (
                figure["ns"].as_u64().unwrap(),
                figure["source"].as_str().unwrap(),
            )
        })
        .collect();
    // 240 and 550 at 10 and 20 are published; 32 lies on the line through them.
    assert_eq!(told, [(240, "published"), (922, "assumed")]);
}

#[test]
fn a_node_without_memory_or_without_an_area_is_not_local() {
    let bare = "nodes = [\"256M\", \"0\", \"256M\"]\n";
    let answer = with("per-node-cma", FOUR_NODES, bare, 1);
    assert_eq!(violated(&answer), ["local"]);
    let answer = with("per-node-cma", "cma_pernuma=16M numa_cma=1:8M", "", 1);
    assert_eq!(violated(&answer), ["local"]);
    let first = check(&answer, "local")["first_failure"].as_str().unwrap();
    assert!(first.contains("for node1 lie on node0"), "{first}");
}

#[test]
fn areas_are_carved_as_expected_or_the_run_says_what_is_not() {
    let held = answer(&["boot-carving"], 0);
    let line = "cma=64M cma_pernuma=32M numa_cma=1:16M hugetlb_cma=0:1G,1:1G";
    assert_eq!(held["boot"]["effective"], line);
    assert_eq!(held["closing"]["setting"], line);
    assert_eq!(untimed(held), untimed(answer(&["boot-carving"], 0)));
    let early = with(
        "boot-carving",
        "early = [\"2M\", \"4M\"]",
        "early = [\"8M\"]",
        0,
    );
    assert!(check(&early, "early-claims")["tried"].as_u64().unwrap() > 10);
    for (from, to) in [
        ("gigantic = \"first\"", "gigantic = \"last\""),
        ("\"16M\", \"1G\"]", "\"64M\", \"1G\"]"),
        ("cma_pernuma=32M", "cma_pernuma=2G"),
    ] {
        let answer = with("boot-carving", from, to, 1);
        assert_eq!(violated(&answer), ["order"], "{to}");
    }
}

#[test]
fn what_is_lent_comes_back_unless_the_gate_is_closed() {
    let (from, to) = ("claims = 120", "claims = 30");
    let held = with("movable-pressure", from, to, 0);
    let rows = held["lending"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let [moved, least] = ["frames_moved", "frames_least"].map(|key| row[key].as_u64().unwrap());
        assert!(moved * 10 <= least * 11, "{row}");
        assert_eq!(
            row["served"].as_u64().unwrap() + row["refused"].as_u64().unwrap(),
            30
        );
    }
    assert!(
        rows[2]["frames_moved"].as_u64() > Some(0),
        "nothing was in the way"
    );
    assert!(
        rows.iter()
            .any(|row| row["moved_by_others"].as_u64() > Some(0))
    );
    let (from, to) = ("gate = \"open\"", "gate = \"closed\"");
    let closed = with("movable-pressure", from, to, 1);
    assert_eq!(violated(&closed), ["claims"]);
}

#[test]
fn leases_keep_both_the_claims_and_the_device_happy() {
    let answer = answer(&["pins-versus-cma", "--seed", "3"], 0);
    let rows = answer["holding"]["rows"].as_array().unwrap();
    let of = |by: &str, key: &str| -> Vec<u64> {
        let rows = rows.iter().filter(|row| row["by"] == by);
        rows.map(|row| row[key].as_u64().unwrap()).collect()
    };
    for by in ["pin", "lease", "nothing"] {
        assert!(of(by, "refused").iter().all(|count| *count == 0), "{by}");
    }
    assert!(of("short-pin", "refused").iter().any(|count| *count > 0));
    for by in ["pin", "short-pin", "lease"] {
        assert!(
            of(by, "device_faults").iter().all(|count| *count == 0),
            "{by}"
        );
    }
    assert!(
        of("nothing", "device_faults")
            .iter()
            .any(|count| *count > 0)
    );
    assert!(of("lease", "recalled").iter().any(|count| *count > 0));
    assert!(of("pin", "left_the_area").iter().all(|count| *count > 0));
    let restless = with("pins-versus-cma", "rests = true", "rests = false", 1);
    assert_eq!(violated(&restless), ["no-device-faults"]);
}

#[test]
fn pages_that_make_no_sense_for_areas_are_refused() {
    for (page, from, to, says) in [
        (
            "movable-pressure",
            "cma=16M",
            "cma=16Q",
            "cma= takes a number",
        ),
        (
            "movable-pressure",
            "cma=16M",
            "cmaa=16M",
            "did you mean cma?",
        ),
        (
            "movable-pressure",
            "cma=16M",
            "swiotlb=1",
            "says nothing about areas",
        ),
        (
            "movable-pressure",
            "[0, 50, 90]",
            "[0, 101]",
            "pressure.lent is 101",
        ),
        (
            "per-node-cma",
            "[10, 20, 20, 20]",
            "[11, 20, 20, 20]",
            "memory.distances has 11",
        ),
        ("per-node-cma", "256K", "100K", "expected a power of two"),
        (
            "pins-versus-cma",
            "\"short-pin\"",
            "\"long-pin\"",
            "long-pin",
        ),
        ("boot-carving", "\"4G\"", "\"3M\"", "memory.nodes"),
        (
            "movable-pressure",
            "cma=16M",
            "cma=128M",
            "params: reserved: failed: no room",
        ),
        (
            "pins-versus-cma",
            "cma=8M",
            "cma=8M numa_cma=7:8M",
            "params: numa7: failed: there are only 2 nodes",
        ),
        ("pins-versus-cma", "cma=8M", "", "params has no cma="),
        (
            "movable-pressure",
            "\"2M\"]",
            "\"32M\"]",
            "pressure.claim is 32M, more than the area has: 16M",
        ),
        (
            "movable-pressure",
            "[\"16K\", \"2M\"]",
            "[\"2M\", \"16K\"]",
            "expected the smaller before 16K",
        ),
        (
            "movable-pressure",
            "[0, 50, 90]",
            "[]",
            "pressure.lent has 0 entries, expected 1 to 16",
        ),
        (
            "movable-pressure",
            "machines = [\"sim\"]",
            "machines = []",
            "machines is empty",
        ),
    ] {
        let (_directory, path) = changed(page, "odd.toml", from, to);
        let words = [path.to_str().unwrap()];
        let output = run(&words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {error}");
        assert!(error.contains(says), "{to}: {error}");
    }
    is_refused(
        &["boot-carving", "--machine", "qemu:virt"],
        "try --machine sim",
    );
}
