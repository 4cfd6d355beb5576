//! The long forms: more steps of the same tests, Miri and fuzzing where they can be had.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::boot;
use crate::cargo::{cargo, shown, succeed};
use crate::environment::first_line;
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// How long the long forms are, and which of them run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Steps of each lockstep test
    #[arg(long, default_value_t = 10_000_000)]
    steps: u64,
    /// Seed of the first round, where a test takes one; each test prints the seed it used
    #[arg(long)]
    seed: Option<u64>,
    /// Run only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// List the rows and their reasons, run nothing
    #[arg(long)]
    list: bool,
}

/// One row: a test that is worth running for long.
struct Row {
    name: &'static str,
    run: Run,
    reason: &'static str,
}

enum Run {
    /// One test binary of a package, optimised, with `DMAKIT_STEPS` and `DMAKIT_SOAK` set.
    Test {
        package: &'static str,
        test: &'static str,
    },
    /// Unit tests of a package whose names contain a text, likewise.
    Unit {
        package: &'static str,
        filter: &'static str,
    },
    /// All tests of a package under Miri, on the nightly toolchain if it has Miri.
    Miri { package: &'static str },
    /// Every row of `cargo xtask boot`, with ten thousand small requests each.
    Boot,
    /// Every fuzz target in a folder, for ten minutes each, if cargo-fuzz is installed.
    Fuzz { folder: &'static str },
}

const ROWS: &[Row] = &[
    Row {
        name: "platform-locks",
        run: Run::Test {
            package: "dmakit-platform",
            test: "lock",
        },
        reason: "locks between threads in the optimised form that ships",
    },
    Row {
        name: "platform-ram",
        run: Run::Test {
            package: "dmakit-platform",
            test: "ram",
        },
        reason: "windows and segments in the optimised form that ships",
    },
    Row {
        name: "iova",
        run: Run::Test {
            package: "dmakit-iova",
            test: "lockstep",
        },
        reason: "spaces against a list of flags, with other weights each round",
    },
    Row {
        name: "iova-regions",
        run: Run::Test {
            package: "dmakit-iova",
            test: "regions",
        },
        reason: "aligned blocks of 128 MiB in a space nine tenths full, however long others churn",
    },
    Row {
        name: "io-pgtable",
        run: Run::Test {
            package: "dmakit-io-pgtable",
            test: "lockstep",
        },
        reason: "tables against a map of pages, for every granule and stage",
    },
    Row {
        name: "io-pgtable-threads",
        run: Run::Test {
            package: "dmakit-io-pgtable",
            test: "threads",
        },
        reason: "threads in ranges apart, in the optimised form that ships",
    },
    Row {
        name: "iommu-switched",
        run: Run::Test {
            package: "dmakit-iommu",
            test: "switched",
        },
        reason: "a domain from strict to lazy and back while threads unmap",
    },
    Row {
        name: "platform-miri",
        run: Run::Miri {
            package: "dmakit-platform",
        },
        reason: "the one library crate with unsafe code",
    },
    Row {
        name: "phys-allocator",
        run: Run::Test {
            package: "dmakit-phys",
            test: "allocator_lockstep",
        },
        reason: "the page allocator against a look at every frame",
    },
    Row {
        name: "phys-claims",
        run: Run::Test {
            package: "dmakit-phys",
            test: "claim_lockstep",
        },
        reason: "claims, pins and leases against a look at every frame",
    },
    Row {
        name: "cma-claims",
        run: Run::Test {
            package: "dmakit-cma",
            test: "claim_lockstep",
        },
        reason: "the search for windows against a look at every unit",
    },
    Row {
        name: "cma-areas",
        run: Run::Test {
            package: "dmakit-cma",
            test: "areas_lockstep",
        },
        reason: "claims among memory that moves, is pinned or stays, against a look at every frame",
    },
    Row {
        name: "swiotlb-area",
        run: Run::Test {
            package: "dmakit-swiotlb",
            test: "area_lockstep",
        },
        reason: "the slot search against a bit-by-bit look",
    },
    Row {
        name: "swiotlb-slots",
        run: Run::Test {
            package: "dmakit-swiotlb",
            test: "slot_pool_lockstep",
        },
        reason: "areas shared by CPUs against one flat pool",
    },
    Row {
        name: "swiotlb-bounce",
        run: Run::Test {
            package: "dmakit-swiotlb",
            test: "bounce_lockstep",
        },
        reason: "every byte of every mapping, growth and shrink included",
    },
    Row {
        name: "dma-lockstep",
        run: Run::Test {
            package: "dmakit-dma",
            test: "lockstep",
        },
        reason: "drivers and devices beside a model of every byte",
    },
    Row {
        name: "dma-translated",
        run: Run::Test {
            package: "dmakit",
            test: "translated",
        },
        reason: "the same behind an adversarial SMMU, with writes in flight as mappings end",
    },
    Row {
        name: "qemu-edu",
        run: Run::Test {
            package: "dmakit-qemu",
            test: "smmu_rounds",
        },
        reason: "100,000 rounds of map, transfer, unmap and reuse without a stale hit",
    },
    Row {
        name: "qemu-dma",
        run: Run::Test {
            package: "dmakit-qemu",
            test: "dma_clients",
        },
        reason: "100,000 I/Os of every kind on every path, on device models nobody here wrote",
    },
    Row {
        name: "trace-mutation",
        run: Run::Test {
            package: "dmakit-trace",
            test: "mutation",
        },
        reason: "readers meet whatever a broken machine printed",
    },
    Row {
        name: "model-slots",
        run: Run::Unit {
            package: "dmakit-linux-model",
            filter: "swiotlb",
        },
        reason: "the incumbent's free lists against a naive count",
    },
    Row {
        name: "diagnose-mutation",
        run: Run::Unit {
            package: "dmakit-lab",
            filter: "diagnose",
        },
        reason: "logs are pasted, wrapped, cut and mangled",
    },
    Row {
        name: "sim-contiguous",
        run: Run::Test {
            package: "dmakit-sim",
            test: "contiguous",
        },
        reason: "claims, pins and leases among programs that never stop, every byte checked",
    },
    Row {
        name: "smmuv3-sim",
        run: Run::Test {
            package: "dmakit-smmuv3",
            test: "sim",
        },
        reason: "stale hits that need an unlucky order of commands and evictions",
    },
    Row {
        name: "boot",
        run: Run::Boot,
        reason: "published drivers on bare metal, hundreds of megabytes each",
    },
    Row {
        name: "its-sim",
        run: Run::Test {
            package: "dmakit-its",
            test: "sim",
        },
        reason: "who gets which interrupt, beside a naive model",
    },
    Row {
        name: "readers-fuzz",
        run: Run::Fuzz { folder: "fuzz" },
        reason: "readers meet whatever a broken machine printed",
    },
];

/// How one row ended.
enum Ended {
    Held,
    Skipped(String),
}

/// Runs the rows one after another and fails if one did.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let chosen = |row: &&Row| {
        arguments
            .only
            .as_deref()
            .is_none_or(|part| row.name.contains(part))
    };
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    if rows.is_empty() {
        bail!("no row has such a name; `cargo xtask soak --list` names them");
    }
    let mut failed = Vec::new();
    for row in rows {
        println!("== {}: {}", row.name, row.reason);
        if arguments.list {
            continue;
        }
        let started = Instant::now();
        let ended = start(workspace, arguments, &row.run);
        let seconds = started.elapsed().as_secs_f64();
        match ended {
            Ok(Ended::Held) => println!("   {} held, {seconds:.1} s", row.name),
            Ok(Ended::Skipped(why)) => println!("   {} skipped: {why}", row.name),
            Err(error) => {
                println!("   {} FAILED, {seconds:.1} s: {error:#}", row.name);
                failed.push(row.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn start(workspace: &Workspace, arguments: &Arguments, run: &Run) -> Result<Ended> {
    match run {
        Run::Test { package, test } => {
            let mut command = cargo(&workspace.root);
            command.args([
                "test",
                "--release",
                "--locked",
                "--package",
                package,
                "--test",
                test,
            ]);
            command.args(["--", "--nocapture"]);
            go(lengthen(&mut command, arguments))
        }
        Run::Unit { package, filter } => {
            let mut command = cargo(&workspace.root);
            command.args(["test", "--release", "--locked", "--package", package]);
            command.args([filter, "--", "--nocapture"]);
            go(lengthen(&mut command, arguments))
        }
        Run::Miri { package } => {
            let mut asked = Command::new("cargo");
            asked
                .args(["+nightly", "miri", "--version"])
                .current_dir(&workspace.root);
            if first_line(&mut asked).is_none() {
                let line = "rustup component add --toolchain nightly miri rust-src";
                return Ok(Ended::Skipped(format!("no Miri here; `{line}` gets it")));
            }
            let mut command = Command::new("cargo");
            command.args(["+nightly", "miri", "test", "--package", package]);
            command.current_dir(&workspace.root);
            go(&mut command)
        }
        Run::Boot => match boot::run(workspace, &boot::Arguments::long(arguments.seed))? {
            Outcome::Held => Ok(Ended::Held),
            Outcome::Skipped(why) => Ok(Ended::Skipped(why)),
        },
        Run::Fuzz { folder } => fuzz(workspace, folder),
    }
}

fn fuzz(workspace: &Workspace, folder: &str) -> Result<Ended> {
    let path = workspace.root.join(folder);
    if !path.join("Cargo.toml").is_file() {
        return Ok(Ended::Skipped(format!("no fuzz targets in {folder}/")));
    }
    let mut asked = Command::new("cargo");
    if first_line(asked.args(["+nightly", "fuzz", "--version"])).is_none() {
        return Ok(Ended::Skipped(
            "no cargo-fuzz here; `cargo install cargo-fuzz` gets it".into(),
        ));
    }
    let mut list = Command::new("cargo");
    list.args(["+nightly", "fuzz", "list"]).current_dir(&path);
    for target in crate::cargo::output_of(&mut list)?.lines() {
        let mut command = Command::new("cargo");
        command.args([
            "+nightly",
            "fuzz",
            "run",
            target,
            "--",
            "-max_total_time=600",
        ]);
        go(command.current_dir(&path))?;
    }
    Ok(Ended::Held)
}

fn lengthen<'a>(command: &'a mut Command, arguments: &Arguments) -> &'a mut Command {
    println!("   DMAKIT_SOAK=1 {STEPS_VARIABLE}={}", arguments.steps);
    command
        .env("DMAKIT_SOAK", "1")
        .env(STEPS_VARIABLE, arguments.steps.to_string());
    if let Some(seed) = arguments.seed {
        println!("   DMAKIT_SEED={seed}");
        command.env("DMAKIT_SEED", seed.to_string());
    }
    command
}

fn go(command: &mut Command) -> Result<Ended> {
    println!("   {}", shown(command));
    succeed(command).map(|()| Ended::Held)
}

/// The variable by which a test learns how many steps to take.
pub(crate) const STEPS_VARIABLE: &str = "DMAKIT_STEPS";

/// Whether any test of a package has a long form here.
pub(crate) fn has_row_for(package: &str) -> bool {
    ROWS.iter().any(|row| match row.run {
        Run::Test { package: of, .. } | Run::Unit { package: of, .. } => of == package,
        Run::Miri { .. } | Run::Boot | Run::Fuzz { .. } => false,
    })
}

/// Rows that name a test which does not exist: `tidy` refuses them.
pub(crate) fn rows_without_a_test(workspace: &Workspace) -> Vec<&'static str> {
    let exists = |package: &str, test: Option<&str>| {
        let found = workspace
            .packages
            .iter()
            .find(|candidate| candidate.name == package);
        found.is_some_and(|package| test.is_none_or(|test| package.has_test(test)))
    };
    let dangling = ROWS.iter().filter(|row| match row.run {
        Run::Test { package, test } => !exists(package, Some(test)),
        Run::Miri { package } | Run::Unit { package, .. } => !exists(package, None),
        Run::Boot | Run::Fuzz { .. } => false,
    });
    dangling.map(|row| row.name).collect()
}
