//! The bare-metal image: built for each machine, booted on QEMU, and held to what its disk and its wire saw.

mod machine;
// The image's own: it makes what a disk holds and what a wire carries.
#[allow(unreachable_pub)]
#[path = "../../../boot/src/noise.rs"]
mod noise;
mod rows;
mod said;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bare;
use crate::cargo::{cargo, succeed};
use crate::packages::{self, Need, Provided};
use crate::steps::Outcome;
use crate::workspace::Workspace;
use machine::Machine;
use noise::Noise;
use rows::{Client, ROWS, Row};
use said::Said;
use wire::Wire;

/// What to boot with.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Kernel parameters instead of those of the rows
    #[arg(long)]
    append: Option<String>,
    /// Run only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Seed of the disk's contents and of all requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Small requests of each row; unless given, 64, or 10 000 in the long form
    #[arg(long)]
    requests: Option<u64>,
    /// The long form: ten thousand requests in each row, some 300 MiB
    #[arg(long)]
    soak: bool,
}

impl Arguments {
    /// The long form.
    pub(crate) fn long(seed: Option<u64>) -> Self {
        Self {
            seed: seed.unwrap_or(1),
            soak: true,
            ..Self::default()
        }
    }

    fn requests(&self) -> u64 {
        self.requests.unwrap_or(if self.soak { 10_000 } else { 64 })
    }
}

const DISK_BYTES: usize = 8 << 20;
/// The longest boot, without small requests.
const TIME_MAX: Duration = Duration::from_secs(60);
/// What each request may add to it.
const REQUEST_TIME_MAX: Duration = Duration::from_millis(200);

/// Builds the image, boots each row, and compares what it says with what its devices saw.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Outcome> {
    if let Provided::NotHere(reason) = packages::provide(Need::DeviceModels)? {
        return Ok(Outcome::Skipped(reason));
    }
    let disk = workspace.root.join("target/boot/disk.img");
    println!("   a disk of {DISK_BYTES} bytes, seed {}", arguments.seed);
    let chosen = |row: &&Row| {
        arguments
            .only
            .as_deref()
            .is_none_or(|part| row.name.contains(part))
    };
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    ensure!(!rows.is_empty(), "no row has such a name");
    let mut images = HashMap::new();
    for machine in rows.iter().map(|row| row.machine) {
        if let Entry::Vacant(place) = images.entry(machine) {
            let Some(image) = build(&workspace.root, machine)? else {
                let target = machine.target();
                return Ok(Outcome::Skipped(format!("no compiler for {target}")));
            };
            place.insert(image);
        }
    }
    for row in rows {
        let image = &images[&row.machine];
        let started = Instant::now();
        run_row(image, &disk, row, arguments).with_context(|| row.name.to_owned())?;
        println!(
            "   {} held, {:.1} s",
            row.name,
            started.elapsed().as_secs_f64()
        );
    }
    Ok(Outcome::Held)
}

fn run_row(image: &Path, disk: &Path, row: &Row, arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed;
    let requests = row.requests(arguments.requests());
    let append = match &arguments.append {
        Some(append) => append.clone(),
        None => row.append(requests, seed),
    };
    println!("   {}: -append \"{append}\"", row.name);
    let time_max = TIME_MAX + REQUEST_TIME_MAX * u32::try_from(requests)?;
    if row.client == Client::VirtioNet {
        let wire = Wire::open(seed)?;
        let lines = machine::boot(
            row.machine,
            image,
            &append,
            &row.devices(&wire.netdev()),
            time_max,
        )?;
        return Said::new(lines).check_wire(row, requests, &wire.close()?);
    }
    let mut before = vec![0; DISK_BYTES];
    Noise::new(seed).fill(&mut before);
    fs::write(disk, &before).with_context(|| disk.display().to_string())?;
    let drive = format!("file={},if=none,id=disk,format=raw", disk.display());
    let lines = machine::boot(row.machine, image, &append, &row.devices(&drive), time_max)?;
    let after = fs::read(disk).with_context(|| disk.display().to_string())?;
    Said::new(lines).check_disk(row, requests, &before, &after)
}

/// The image for a machine; `None` where there is no compiler for it.
fn build(root: &Path, machine: Machine) -> Result<Option<PathBuf>> {
    let target = machine.target();
    let Some(compiler) = bare::find_or_install(root, target)? else {
        return Ok(None);
    };
    if compiler.wants_linker() {
        if let Provided::NotHere(reason) = packages::provide(Need::BareLink)? {
            println!("   {reason}");
            return Ok(None);
        }
    }
    let mut command = cargo(&root.join("boot"));
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--target",
        target,
    ]);
    command.args(["--target-dir", "../target/boot"]);
    compiler.configure(&mut command, target);
    succeed(&mut command)?;
    let image = root
        .join("target/boot")
        .join(target)
        .join("release/dmakit-boot");
    Ok(Some(image))
}
