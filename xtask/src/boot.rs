//! The bare-metal image: built, booted on QEMU's `virt`, and held to what its disk holds.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::bare::{self, TARGET};
use crate::cargo::{cargo, succeed};
use crate::packages::{self, Need, Provided};
use crate::steps::Outcome;
use crate::workspace::Workspace;

/// What to boot with.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Kernel parameters instead of those of the rows
    #[arg(long)]
    append: Option<String>,
    /// Run only rows whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Seed of the disk's contents
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// One boot: kernel parameters, and the devices on the bus.
struct Row {
    name: &'static str,
    append: &'static str,
    device: &'static str,
}

const VIRTIO_BLK: &str = "virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on";
const NVME: &str = "nvme,drive=disk,serial=1";

const ROWS: &[Row] = &[
    Row {
        name: "virtio-blk",
        append: "cma=32M cma_pernuma=16M client=virtio-blk",
        device: VIRTIO_BLK,
    },
    Row {
        name: "virtio-blk-lazy",
        append: "cma=32M cma_pernuma=16M iommu.strict=0 client=virtio-blk",
        device: VIRTIO_BLK,
    },
    Row {
        name: "virtio-blk-direct",
        append: "cma=32M cma_pernuma=16M iommu.passthrough=1 client=virtio-blk",
        device: VIRTIO_BLK,
    },
    Row {
        name: "nvme",
        append: "cma=32M cma_pernuma=16M client=nvme",
        device: NVME,
    },
    Row {
        name: "nvme-lazy",
        append: "cma=32M cma_pernuma=16M iommu.strict=0 client=nvme",
        device: NVME,
    },
    Row {
        name: "nvme-direct",
        append: "cma=32M cma_pernuma=16M iommu.passthrough=1 client=nvme",
        device: NVME,
    },
    Row {
        name: "virtio-blk-bounced",
        append: "cma=32M cma_pernuma=16M iommu.passthrough=1 swiotlb=force client=virtio-blk",
        device: VIRTIO_BLK,
    },
    Row {
        name: "virtio-blk-untrusted",
        append: "cma=32M cma_pernuma=16M untrusted client=virtio-blk",
        device: VIRTIO_BLK,
    },
];

const DISK_BYTES: usize = 8 << 20;
const TIME_MAX: Duration = Duration::from_secs(60);

/// Builds the image, boots each row, and compares what it says of its disk with the file.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Outcome> {
    let Some(image) = build(&workspace.root)? else {
        return Ok(Outcome::Skipped(format!("no compiler for {TARGET}")));
    };
    if let Provided::NotHere(reason) = packages::provide(Need::DeviceModels)? {
        return Ok(Outcome::Skipped(reason));
    }
    let folder = workspace.root.join("target/boot");
    let disk = folder.join("disk.img");
    let contents = noise(arguments.seed, DISK_BYTES);
    println!("   a disk of {DISK_BYTES} bytes, seed {}", arguments.seed);
    let chosen = |row: &&Row| {
        arguments
            .only
            .as_deref()
            .is_none_or(|part| row.name.contains(part))
    };
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    ensure!(!rows.is_empty(), "no row has such a name");
    for row in rows {
        fs::write(&disk, &contents).with_context(|| disk.display().to_string())?;
        let append = arguments.append.as_deref().unwrap_or(row.append);
        println!("   {}: -append \"{append}\"", row.name);
        let lines = boot(&image, &disk, append, row.device)?;
        check(&lines, &contents).with_context(|| row.name.to_owned())?;
    }
    Ok(Outcome::Held)
}

/// The image as one flat file; `None` where there is no compiler for the target.
fn build(root: &Path) -> Result<Option<PathBuf>> {
    let Some(compiler) = bare::find_or_install(root)? else {
        return Ok(None);
    };
    let mut command = cargo(&root.join("boot"));
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--target",
        TARGET,
    ]);
    command.args(["--target-dir", "../target/boot"]);
    compiler.configure(&mut command);
    succeed(&mut command)?;
    let image = root
        .join("target/boot")
        .join(TARGET)
        .join("release/dmakit-boot");
    Ok(Some(image))
}

/// Bytes that look random, the same for the same seed (xorshift64*).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    (0..len / 8).flat_map(|_| next()).collect()
}

/// Boots, and gives what the image printed.
fn boot(image: &Path, disk: &Path, append: &str, device: &str) -> Result<Vec<String>> {
    let mut command = Command::new("qemu-system-aarch64");
    command.args(["-machine", "virt,gic-version=3,its=on,iommu=smmuv3"]);
    command.args(["-cpu", "cortex-a57", "-smp", "1", "-m", "512M"]);
    for node in ["m0", "m1"] {
        command.args([
            "-object",
            &format!("memory-backend-ram,id={node},size=256M"),
        ]);
    }
    command.args(["-numa", "node,nodeid=0,memdev=m0,cpus=0"]);
    command.args(["-numa", "node,nodeid=1,memdev=m1"]);
    command.args([
        "-display",
        "none",
        "-nodefaults",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    command.arg("-kernel").arg(image).args(["-append", append]);
    let drive = format!("file={},if=none,id=disk,format=raw", disk.display());
    command.args(["-drive", &drive, "-device", device]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command
        .spawn()
        .context("cannot start qemu-system-aarch64")?;
    listen(Running(child))
}

/// A machine that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Shows each line as it comes, until the machine turns itself off.
fn listen(mut machine: Running) -> Result<Vec<String>> {
    let console = machine.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let until = Instant::now() + TIME_MAX;
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("   | {line}");
                seen.push(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(seen),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!(
                    "the image did not turn the machine off in {} s",
                    TIME_MAX.as_secs()
                );
            }
        }
    }
}

/// The image's word: `sha256=… irqs=N completions=N`, and `faults=N` behind an SMMU.
fn check(lines: &[String], contents: &[u8]) -> Result<()> {
    let faults = lines.iter().find_map(|line| line.strip_prefix("faults="));
    ensure!(
        faults.is_none_or(|faults| faults == "0"),
        "the SMMU refused something"
    );
    let said = lines.iter().find_map(|line| line.strip_prefix("sha256="));
    let said = said.context("the image says nothing of its disk")?;
    let mut words = said.split(' ');
    let digest = words.next().unwrap_or_default();
    let held: String = Sha256::digest(contents)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ensure!(
        digest == held,
        "the disk holds {held}, and the image read {digest}"
    );
    let count = |name: &str| {
        let mut words = said.split(' ');
        words.find_map(|word| {
            word.strip_prefix(name)?
                .strip_prefix('=')?
                .parse::<u64>()
                .ok()
        })
    };
    let (interrupts, completions) = (count("irqs"), count("completions"));
    if let (Some(interrupts), Some(completions)) = (interrupts, completions) {
        ensure!(
            interrupts >= completions && completions > 0,
            "{completions} completions and {interrupts} interrupts"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_disk_is_noticed() {
        let contents = noise(1, 4096);
        let held: String = Sha256::digest(&contents)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let line = |digest: &str, rest: &str| vec![format!("sha256={digest}{rest}")];
        assert!(check(&line(&held, ""), &contents).is_ok());
        assert!(check(&line(&held, " irqs=3 completions=3"), &contents).is_ok());
        assert!(check(&line(&held, " irqs=2 completions=3"), &contents).is_err());
        assert!(check(&line(&held, ""), &noise(2, 4096)).is_err());
        assert!(check(&[], &contents).is_err());
    }
}
