//! Instructions, by callgrind, and table stores, by a machine that counts them.

use std::process::{Command, Stdio};

use dmakit_io_pgtable::WalkCoherence;
use dmakit_platform::host::HostPlatform;

use super::machine::{Machine, Mode, Shape};
use super::turns::Way;
use super::{meter, published};

/// Turns of the two runs whose difference counts: whole queues and batches.
const TURNS: [usize; 2] = [512, 1024];

/// Runs what the words of a command line name.
pub fn run_named(words: &[String]) -> Option<()> {
    let [way, shape, count, mode, turns] = words else {
        return None;
    };
    let way = Way::ALL.into_iter().find(|one| one.name() == way)?;
    let shape = Shape::ALL.into_iter().find(|one| one.name() == shape)?;
    let mode = Mode::ALL.into_iter().find(|one| one.name() == mode)?;
    let runs = shape.runs(count.parse().ok()?);
    let machine = Machine::new(HostPlatform::new(1), mode, WalkCoherence::Coherent);
    way.take(&machine, mode, &runs, turns.parse().ok()?, |_| ());
    Some(())
}

/// Prints what a map and an unmap of each list whose name holds `filter` take: instructions where
/// valgrind is installed, and table entries written.
pub fn print(filter: &str) {
    let valgrind = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let has_valgrind = valgrind.is_ok();
    if !has_valgrind {
        println!("no instructions: valgrind is not installed; `apt-get install valgrind` gets it");
    }
    println!(
        "{:<24} {:^29} {:^17} {:^29}",
        "", "instructions", "published", "table stores"
    );
    println!(
        "{:<24} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "map+unmap",
        "one step",
        "two steps",
        "modelled",
        "list",
        "links",
        "one step",
        "two steps",
        "modelled"
    );
    for shape in Shape::ALL {
        for count in [1, 16, 128, 1024] {
            for mode in Mode::ALL {
                let name = format!("{} {count} {}", shape.name(), mode.name());
                if name.contains(filter) {
                    row(&name, shape, count, mode, has_valgrind);
                }
            }
        }
    }
}

fn row(name: &str, shape: Shape, count: usize, mode: Mode, has_valgrind: bool) {
    let instructions = Way::ALL.map(|way| {
        let counts = has_valgrind && way.has(mode);
        let each = || {
            let [few, many] = TURNS.map(|turns| instructions(way, shape, count, mode, turns));
            (many - few) / (TURNS[1] - TURNS[0]) as u64
        };
        counts
            .then(each)
            .map_or("-".to_owned(), |each| each.to_string())
    });
    let published = published::of(shape, count, mode);
    let published = [0, 1].map(|way| {
        let figure = published.map(|figures| figures[way].instructions);
        figure.map_or("-".to_owned(), |figure| figure.to_string())
    });
    let runs = shape.runs(count);
    let stores = Way::ALL.map(|way| match way.has(mode) {
        true => {
            let stores = meter::counted(way, mode, &runs).stores;
            format!("{:.1}", stores as f64 / meter::COUNTED as f64)
        }
        false => "-".to_owned(),
    });
    let [one, two, modelled] = instructions;
    let [list, links] = published;
    print!("{name:<24} {one:>9} {two:>9} {modelled:>9} {list:>8} {links:>8}");
    println!(" {:>9} {:>9} {:>9}", stores[0], stores[1], stores[2]);
}

/// Instructions of a whole run.
fn instructions(way: Way, shape: Shape, count: usize, mode: Mode, turns: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["run", way.name(), shape.name(), &count.to_string()])
        .args([mode.name(), &turns.to_string()])
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
