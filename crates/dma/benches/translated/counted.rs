//! Instructions, by callgrind.

use std::process::{Command, Stdio};

use dmakit_io_pgtable::WalkCoherence;
use dmakit_platform::host::HostPlatform;

use super::machine::{Machine, Mode, Shape};
use super::published;
use super::turns::{Incumbent, OneStep, TwoStep};

/// Turns of the two runs whose difference counts: whole queues and batches.
const TURNS: [usize; 2] = [512, 1024];

/// Who does it.
pub const WAYS: [&str; 3] = ["one step", "two steps", "incumbent's steps, modelled"];

/// Runs a way so often; what callgrind looks at.
pub fn run(way: &str, shape: Shape, count: usize, mode: Mode, turns: usize) {
    let machine = Machine::new(HostPlatform::new(1), mode, WalkCoherence::Coherent);
    let device = machine.device();
    let runs = shape.runs(count);
    match way {
        "one step" => {
            let mut way = OneStep::new(&device, mode, &runs);
            (0..turns).for_each(|_| way.turn());
        }
        "two steps" => {
            let mut way = TwoStep::new(&device, mode, &runs);
            (0..turns).for_each(|_| way.turn());
        }
        _ => {
            let mut way = Incumbent::new(&machine, mode, &runs);
            (0..turns).for_each(|_| way.turn());
        }
    }
}

/// Runs what the words of a command line name.
pub fn run_named(words: &[String]) -> Option<()> {
    let [way, shape, count, mode, turns] = words else {
        return None;
    };
    let shape = Shape::ALL.into_iter().find(|one| one.name() == shape)?;
    let mode = Mode::ALL.into_iter().find(|one| one.name() == mode)?;
    run(way, shape, count.parse().ok()?, mode, turns.parse().ok()?);
    Some(())
}

/// Prints instructions of a map and an unmap of each list whose name holds `filter`.
pub fn print(filter: &str) {
    let valgrind = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if valgrind.is_err() {
        println!("skipped: valgrind is not installed; `apt-get install valgrind` gets it");
        return;
    }
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>12} {:>12}",
        "instructions of map+unmap",
        "one step",
        "two steps",
        "modelled",
        "list, publ.",
        "links, publ."
    );
    for shape in Shape::ALL {
        for count in [1, 16, 128, 1024] {
            for mode in Mode::ALL {
                let name = format!("{} {count} {}", shape.name(), mode.name());
                if name.contains(filter) {
                    row(&name, shape, count, mode);
                }
            }
        }
    }
}

fn row(name: &str, shape: Shape, count: usize, mode: Mode) {
    let counts = WAYS.map(|way| match (way, mode) {
        // It has no batches.
        ("incumbent's steps, modelled", Mode::Batched) => "-".to_owned(),
        _ => {
            let [few, many] = TURNS.map(|turns| counted(way, shape, count, mode, turns));
            ((many - few) / (TURNS[1] - TURNS[0]) as u64).to_string()
        }
    });
    let published = published::of(shape, count, mode);
    let [list, links] = [0, 1].map(|way| {
        let figure = published.map(|figures| figures[way].instructions);
        figure.map_or("-".to_owned(), |figure| figure.to_string())
    });
    println!(
        "{name:<28} {:>9} {:>9} {:>9} {list:>12} {links:>12}",
        counts[0], counts[1], counts[2]
    );
}

/// Instructions of a whole run.
fn counted(way: &str, shape: Shape, count: usize, mode: Mode, turns: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["run", way, shape.name(), &count.to_string(), mode.name()])
        .arg(turns.to_string())
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said.split("Collected : ").nth(1);
    let figure = collected.and_then(|rest| rest.split_whitespace().next());
    figure
        .and_then(|figure| figure.parse().ok())
        .expect("a count")
}
