//! A running machine.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::host::{HostPlatform, HostRam};
use dmakit_platform::{Mmio, Segment};
use tempfile::TempDir;

use crate::child::Qemu;
use crate::qtest::{ANSWER_MAX, Qtest, Trouble};
use crate::ram::{self, memories};
use crate::{Board, Clock, Config, PciBus, QemuError, Version};

/// The longest that QEMU may take to open its socket.
const START_MAX: Duration = Duration::from_secs(20);

/// The name of the firmware that keeps an x86 CPU idle.
const FIRMWARE: &str = "idle";

/// QEMU, its RAM and the way to its registers. A clone is the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    board: Board,
    version: Version,
    platform: HostPlatform,
    ram: Vec<HostRam>,
    /// The next free address for a BAR.
    next_bar: AtomicU64,
    line: Mutex<Line>,
}

/// The socket and the process behind it; the process ends after the socket closes.
struct Line {
    qtest: Qtest,
    qemu: Qemu,
    _files: TempDir,
}

impl Machine {
    /// Starts a machine; gives the RAM of each node as an owning segment, in the order of nodes. On
    /// `q35` the first MiB, part of which is no memory, is left out.
    ///
    /// # Errors
    /// [`QemuError`] with what to install, or with the end of QEMU's log.
    pub fn start(config: &Config) -> Result<(Self, Vec<Segment>), QemuError> {
        ram::check(config)?;
        let version = Version::of(&config.program(), config.board.package())?;
        let files = tempfile::tempdir().map_err(system("making a directory"))?;
        let memories = memories(config)?;
        let socket = files.path().join("qtest");
        let listener = UnixListener::bind(&socket).map_err(system("opening a socket"))?;
        let log = File::options()
            .create_new(true)
            .read(true)
            .append(true)
            .open(files.path().join("log"))
            .map_err(system("making a log file"))?;
        if config.board == Board::Q35 {
            let firmware = files.path().join(FIRMWARE);
            std::fs::write(firmware, idle_firmware()).map_err(system("making firmware"))?;
        }
        let command = command(config, &socket, &memories);
        let mut qemu = Qemu::start(command, log).map_err(system("starting QEMU"))?;
        let stream = accept(&listener, &mut qemu)?;
        let qtest = Qtest::new(stream).map_err(system("setting up the socket"))?;
        let mut ram = Vec::new();
        let mut segments = Vec::new();
        let mut base = ram::base(config.board);
        for memory in &memories {
            let (node, segment) =
                HostRam::from_file(memory.as_file(), base).map_err(system("mapping RAM"))?;
            base = segment.range().end();
            ram.push(node);
            segments.push(ram::without_holes(config.board, segment));
        }
        let line = Mutex::new(Line {
            qtest,
            qemu,
            _files: files,
        });
        let platform = HostPlatform::new(thread::available_parallelism().map_or(1, usize::from));
        let inner = Inner {
            board: config.board,
            version,
            platform,
            ram,
            next_bar: AtomicU64::new(crate::pci::bars(config.board).0),
            line,
        };
        let machine = Self {
            inner: Arc::new(inner),
        };
        // QEMU connects before it opens its RAM and makes its devices; it answers after. Only then
        // may the files lose their names.
        machine.sync()?;
        drop(memories);
        machine.set_up()?;
        Ok((machine, segments))
    }

    /// The board.
    pub fn board(&self) -> Board {
        self.inner.board
    }

    /// The release of QEMU.
    pub fn version(&self) -> Version {
        self.inner.version
    }

    /// Time, locks and CPUs: those of this process, which is the machine's CPU.
    pub fn platform(&self) -> HostPlatform {
        self.inner.platform.clone()
    }

    /// RAM as the device models see it, for checks; `None` for a range that is not all RAM.
    pub fn hardware_window(&self, range: PhysRange) -> Option<dmakit_platform::Window<'_>> {
        self.inner
            .ram
            .iter()
            .find_map(|ram| ram.hardware_window(range))
    }

    /// The registers at `base`.
    pub fn mmio(&self, base: PhysAddr) -> QemuMmio {
        QemuMmio {
            machine: self.clone(),
            base: base.raw(),
        }
    }

    /// The PCI functions of the machine. Every bus is the same one: no address is given to two BARs.
    pub fn pci(&self) -> PciBus {
        PciBus::new(self.clone())
    }

    /// Waits until `done`, looking again and again; gives what it returned.
    ///
    /// # Errors
    /// [`QemuError::Timeout`] after `limit`.
    pub fn wait_for<T>(
        &self,
        waiting: &str,
        limit: Duration,
        mut done: impl FnMut() -> Option<T>,
    ) -> Result<T, QemuError> {
        let start = Instant::now();
        loop {
            if let Some(value) = done() {
                return Ok(value);
            }
            if start.elapsed() > limit {
                let log = self.lock().qemu.log();
                return Err(QemuError::Timeout {
                    waiting: waiting.into(),
                    after: limit,
                    log,
                });
            }
            self.sync()?;
            thread::yield_now();
        }
    }

    /// Waits until every register write so far has taken effect.
    ///
    /// # Errors
    /// [`QemuError`] where QEMU does not answer.
    pub fn sync(&self) -> Result<(), QemuError> {
        self.ask("being waited for", |qtest| qtest.command("endianness"))
            .map(drop)
    }

    /// The next free address for a BAR.
    pub(crate) fn next_bar(&self) -> &AtomicU64 {
        &self.inner.next_bar
    }

    pub(crate) fn read(&self, width: char, address: u64) -> Result<u64, QemuError> {
        self.ask("reading a register", |qtest| qtest.read(width, address))
    }

    pub(crate) fn write(&self, width: char, address: u64, value: u64) -> Result<(), QemuError> {
        self.ask("writing a register", |qtest| {
            qtest.write(width, address, value)
        })
    }

    fn ask<T>(
        &self,
        doing: &str,
        run: impl FnOnce(&mut Qtest) -> Result<T, Trouble>,
    ) -> Result<T, QemuError> {
        let mut line = self.lock();
        let result = run(&mut line.qtest);
        result.map_err(|trouble| match trouble {
            Trouble::Refused(answer) => QemuError::Refused {
                command: doing.into(),
                answer,
            },
            Trouble::Io(error) if is_timeout(&error) => QemuError::Timeout {
                waiting: format!("answer while {doing}"),
                after: ANSWER_MAX,
                log: line.qemu.log(),
            },
            Trouble::Io(_) | Trouble::Closed => QemuError::Ended {
                doing: doing.into(),
                log: line.qemu.log(),
            },
        })
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // A panic while talking leaves at worst an unread answer, which the next command reports.
        self.inner
            .line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What firmware would have done.
    fn set_up(&self) -> Result<(), QemuError> {
        if self.inner.board == Board::Q35 {
            // The host bridge's PCIEXBAR: configuration space into memory.
            for (register, value) in [
                (0x8000_0064_u64, 0),
                (0x8000_0060, crate::pci::Q35_ECAM | 1),
            ] {
                self.ask("setting up PCI", |qtest| {
                    qtest.command(&format!("outl 0xcf8 {register:#x}"))?;
                    qtest.command(&format!("outl 0xcfc {value:#x}"))
                })?;
            }
        }
        Ok(())
    }
}

/// Registers of a device model, reached over the socket: a write is posted, a read waits.
///
/// A machine that has died answers all ones, as a bus without a device does; the error itself comes
/// from the next call that can return one.
#[derive(Clone)]
pub struct QemuMmio {
    machine: Machine,
    base: u64,
}

impl Mmio for QemuMmio {
    fn read32(&self, offset: u64) -> u32 {
        self.machine
            .read('l', self.base + offset)
            .map_or(u32::MAX, |value| value as u32)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.machine
            .read('q', self.base + offset)
            .unwrap_or(u64::MAX)
    }

    fn write32(&self, offset: u64, value: u32) {
        // Lost only with the machine, which the next fallible call reports.
        let _ = self.machine.write('l', self.base + offset, value.into());
    }

    fn write64(&self, offset: u64, value: u64) {
        let _ = self.machine.write('q', self.base + offset, value);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
    )
}

fn system(doing: &'static str) -> impl FnOnce(std::io::Error) -> QemuError {
    move |error| QemuError::System { doing, error }
}

/// Firmware whose first instructions, at the reset vector, are `cli; hlt; jmp` to the `hlt`. A CPU
/// that is stopped instead would stop the clock of devices with it.
fn idle_firmware() -> Vec<u8> {
    let mut image = vec![0; 64 << 10];
    image[0xfff0..0xfff4].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    image
}

fn accept(listener: &UnixListener, qemu: &mut Qemu) -> Result<UnixStream, QemuError> {
    listener
        .set_nonblocking(true)
        .map_err(system("setting up the socket"))?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(system("setting up the socket"))?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                return Err(system("waiting for QEMU")(error));
            }
            Err(_) if !qemu.is_running() => {
                return Err(QemuError::Ended {
                    doing: "starting".into(),
                    log: qemu.log(),
                });
            }
            Err(_) if start.elapsed() > START_MAX => {
                let log = qemu.log();
                return Err(QemuError::Timeout {
                    waiting: "start".into(),
                    after: START_MAX,
                    log,
                });
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn command(config: &Config, socket: &Path, memories: &[tempfile::NamedTempFile]) -> Command {
    let mut command = Command::new(config.program());
    command.args([
        "-accel",
        "tcg",
        "-display",
        "none",
        "-nodefaults",
        "-qtest-log",
        "/dev/null",
    ]);
    command
        .arg("-qtest")
        .arg(format!("unix:{}", socket.display()));
    let machine = match (config.board, &config.iommu) {
        (Board::Virt, Some(_)) => "virt,gic-version=3,its=on,iommu=smmuv3",
        (Board::Virt, None) => "virt,gic-version=3,its=on",
        (Board::Q35, _) => "q35,pit=off",
    };
    command.args(["-M", machine]);
    match config.board {
        // Without code to run a CPU would spin; powered off it costs nothing.
        Board::Virt => command.args([
            "-cpu",
            "cortex-a57",
            "-global",
            "arm-cpu.start-powered-off=on",
        ]),
        Board::Q35 => command
            .args(["-cpu", "qemu64", "-bios"])
            .arg(socket.with_file_name(FIRMWARE)),
    };
    if let (Board::Q35, Some(iommu)) = (config.board, &config.iommu) {
        command.args(["-device", iommu]);
    }
    if config.clock == Clock::Jumping {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    let total: u64 = config.nodes.iter().sum();
    command.args([
        "-m",
        &format!("{}M", total >> 20),
        "-smp",
        &config.nodes.len().to_string(),
    ]);
    for (node, (memory, bytes)) in memories.iter().zip(&config.nodes).enumerate() {
        let path = memory.path().display();
        command.arg("-object").arg(format!(
            "memory-backend-file,id=m{node},size={bytes},mem-path={path},share=on"
        ));
        command
            .arg("-numa")
            .arg(format!("node,nodeid={node},memdev=m{node},cpus={node}"));
    }
    for drive in &config.drives {
        command.args(["-drive", drive]);
    }
    for device in &config.devices {
        command.args(["-device", device]);
    }
    command
}
