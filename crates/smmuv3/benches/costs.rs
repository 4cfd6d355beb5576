//! Instructions of a map and unmap through all layers: addresses, tables, invalidation, sync.
//!
//! `cargo bench -p dmakit-smmuv3 --bench costs`. Each figure is the difference of two runs of this
//! program under callgrind, so that what starting costs falls out. Where valgrind is not installed
//! it says so and counts nothing.

mod instant;
mod translation;

use std::process::{Command, Stdio};

use translation::{Invalidation, map_unmap};

/// Operations of the two runs: both whole flushes of 256.
const COUNTS: [u32; 2] = [512, 2560];

const POLICIES: [(&str, Invalidation); 3] = [
    ("strict", Invalidation::Strict),
    ("batched by 32", Invalidation::Batched),
    ("lazy by 256", Invalidation::Lazy),
];

fn main() {
    let words: Vec<_> = std::env::args().collect();
    if let [_, word, policy, len, count] = &words[..] {
        if word == "run" {
            let policy = policy.parse::<usize>().unwrap();
            map_unmap(
                POLICIES[policy].1,
                len.parse().unwrap(),
                count.parse().unwrap(),
            );
            return;
        }
    }
    if Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("skipped: valgrind is not installed; `apt-get install valgrind` gets it");
        return;
    }
    println!("instructions of a map and unmap");
    println!(
        "{:<10} {}",
        "",
        POLICIES.map(|(name, _)| format!("{name:>15}")).concat()
    );
    for (name, len) in [
        ("4 KiB", 4_u64 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", 1 << 20),
        ("2 MiB", 2 << 20),
    ] {
        let figures: String = (0..POLICIES.len())
            .map(|policy| {
                let [few, many] = COUNTS.map(|count| counted(policy, len, count));
                let each = (many - few) / u64::from(COUNTS[1] - COUNTS[0]);
                format!("{each:>15}")
            })
            .collect();
        println!("{name:<10} {figures}");
    }
}

/// Instructions of a whole run.
fn counted(policy: usize, len: u64, count: u32) -> u64 {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["run", &policy.to_string()])
        .args([len.to_string(), count.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said.split("Collected : ").nth(1);
    let figure = collected.and_then(|rest| rest.split_whitespace().next());
    figure.and_then(|figure| figure.parse().ok()).unwrap()
}
