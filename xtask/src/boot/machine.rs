//! What the image runs on: QEMU's `virt` with an SMMU and an ITS, and its `q35` without an IOMMU.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A machine of QEMU's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Machine {
    Virt,
    Q35,
}

impl Machine {
    /// What the image is built for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Virt => "aarch64-unknown-none",
            Self::Q35 => "x86_64-unknown-none",
        }
    }

    /// QEMU with one CPU and 512 MiB, on `virt` half of it on each of two nodes.
    fn command(self) -> Command {
        match self {
            Self::Virt => {
                let mut command = Command::new("qemu-system-aarch64");
                command.args(["-machine", "virt,gic-version=3,its=on,iommu=smmuv3"]);
                command.args(["-cpu", "cortex-a57"]);
                for node in ["m0", "m1"] {
                    let memory = format!("memory-backend-ram,id={node},size=256M");
                    command.args(["-object", &memory]);
                }
                command.args(["-numa", "node,nodeid=0,memdev=m0,cpus=0"]);
                command.args(["-numa", "node,nodeid=1,memdev=m1"]);
                command
            }
            Self::Q35 => {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-machine", "q35", "-cpu", "qemu64"]);
                command
            }
        }
    }
}

/// Boots, and gives what the image printed.
pub(crate) fn boot(
    machine: Machine,
    image: &Path,
    append: &str,
    devices: &[String],
    time_max: Duration,
) -> Result<Vec<String>> {
    let mut command = machine.command();
    command.args(["-accel", "tcg", "-smp", "1", "-m", "512M"]);
    command.args(["-display", "none", "-nodefaults", "-serial", "stdio"]);
    command.arg("-no-reboot");
    command.arg("-kernel").arg(image).args(["-append", append]);
    command.args(devices);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    listen(Running(child), time_max)
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
fn listen(mut machine: Running, time_max: Duration) -> Result<Vec<String>> {
    let console = machine.0.stdout.take().context("no console")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let until = Instant::now() + time_max;
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
                    time_max.as_secs()
                );
            }
        }
    }
}
