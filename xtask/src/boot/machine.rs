//! QEMU's `virt`, with an SMMU and an ITS.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Boots, and gives what the image printed.
pub(crate) fn boot(
    image: &Path,
    append: &str,
    devices: &[String],
    time_max: Duration,
) -> Result<Vec<String>> {
    let mut command = Command::new("qemu-system-aarch64");
    command.args(["-machine", "virt,gic-version=3,its=on,iommu=smmuv3"]);
    command.args(["-cpu", "cortex-a57", "-smp", "1", "-m", "512M"]);
    for node in ["m0", "m1"] {
        let memory = format!("memory-backend-ram,id={node},size=256M");
        command.args(["-object", &memory]);
    }
    command.args(["-numa", "node,nodeid=0,memdev=m0,cpus=0"]);
    command.args(["-numa", "node,nodeid=1,memdev=m1"]);
    command.args(["-display", "none", "-nodefaults", "-serial", "stdio"]);
    command.arg("-no-reboot");
    command.arg("-kernel").arg(image).args(["-append", append]);
    command.args(devices);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command
        .spawn()
        .context("cannot start qemu-system-aarch64")?;
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
