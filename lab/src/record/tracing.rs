//! Tracefs, taken over for one recording and left as it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::root::{Root, names, number, text, write};

/// The name of the instance that recordings use.
const INSTANCE: &str = "dmakit";

/// How long the kernel is waited for when an instance comes or goes: it goes only when the last
/// reader has closed its files.
const INSTANCE_WAIT: Duration = Duration::from_secs(3);

/// Whose settings a recording changes.
enum Place {
    /// An instance of its own, which goes when it is done.
    Instance,
    /// The machine's only buffer, put back as it was; on kernels without instances.
    Shared(Settings),
}

/// What is put back.
struct Settings {
    on: String,
    clock: String,
    buffer_kib: String,
}

/// Tracing under this program's control. Dropping it restores everything.
pub struct Tracing {
    dir: PathBuf,
    place: Place,
    enabled: Vec<PathBuf>,
    is_restored: bool,
}

/// What to record.
pub struct Setting<'a> {
    /// `GROUP` or `GROUP:EVENT`, each of which exists.
    pub events: &'a [String],
    /// Bytes of each CPU's ring buffer.
    pub buffer_bytes: u64,
}

/// Where tracefs is.
pub fn find(root: &Root) -> anyhow::Result<PathBuf> {
    let places = ["sys/kernel/tracing", "sys/kernel/debug/tracing"];
    for place in places {
        let dir = root.path(place);
        if dir.join("tracing_on").exists() {
            return Ok(dir);
        }
        let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        if fs::read_dir(&dir).is_err_and(|error| denied(&error)) {
            bail!("{}: permission denied; recording needs root", dir.display());
        }
    }
    bail!(
        "no tracefs at {}; `mount -t tracefs tracefs /sys/kernel/tracing`, on a kernel with \
         CONFIG_TRACING",
        root.path(places[0]).display()
    )
}

/// Those of the wished events that this kernel has, and those that it has not.
pub fn present(top: &Path, wished: &[String]) -> (Vec<String>, Vec<String>) {
    wished
        .iter()
        .cloned()
        .partition(|event| event_dir(top, event).join("enable").exists())
}

fn event_dir(dir: &Path, event: &str) -> PathBuf {
    dir.join("events").join(event.replace(':', "/"))
}

impl Tracing {
    /// Takes an instance, or the only buffer where the kernel has no instances.
    pub fn take(top: &Path) -> anyhow::Result<Self> {
        let instances = top.join("instances");
        let (dir, place) = if instances.is_dir() {
            (make_instance(&instances)?, Place::Instance)
        } else {
            (top.to_path_buf(), Place::Shared(Settings::idle(top)?))
        };
        Ok(Self {
            dir,
            place,
            enabled: Vec::new(),
            is_restored: false,
        })
    }

    /// Sets the buffers up, still off.
    pub fn prepare(&mut self, setting: &Setting<'_>) -> anyhow::Result<()> {
        self.set("tracing_on", "0")?;
        self.set("trace_clock", "mono")?;
        // Events first: a kernel like 6.1 has one flag for "somebody has used tracing", and would
        // leave the machine's own buffer at its few KiB if sizing an instance set it.
        for event in setting.events {
            let enable = event_dir(&self.dir, event).join("enable");
            write(&enable, "1").with_context(|| enable.display().to_string())?;
            self.enabled.push(enable);
        }
        let kib = setting.buffer_bytes.div_ceil(1024).max(1).to_string();
        self.set("buffer_size_kb", &kib)
            .context("the ring buffers cannot be that large: try a smaller --buffer")?;
        // Whatever an earlier user left must not stand in this recording.
        self.set("trace", "")
    }

    fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.dir.join(file);
        write(&path, value).with_context(|| path.display().to_string())
    }

    pub fn start(&self) -> anyhow::Result<()> {
        self.set("tracing_on", "1")
    }

    /// Nothing is recorded from here on; what was recorded can still be read.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.set("tracing_on", "0")
    }

    /// Writes a line into the trace.
    pub fn mark(&self, line: &str) -> anyhow::Result<()> {
        self.set("trace_marker", &format!("{line}\n"))
    }

    /// Where a command writes its own marks.
    pub fn marker(&self) -> PathBuf {
        self.dir.join("trace_marker")
    }

    /// The stream of events.
    pub fn pipe(&self) -> PathBuf {
        self.dir.join("trace_pipe")
    }

    /// Whether other users' tracing is untouched.
    pub fn is_instance(&self) -> bool {
        matches!(self.place, Place::Instance)
    }

    /// Events that each CPU's buffer lost: overwritten before they were read, or dropped. `None`
    /// where the kernel keeps no such counts.
    pub fn lost(&self) -> Option<u64> {
        let cpus = self.dir.join("per_cpu");
        let mut lost = None;
        for cpu in names(&cpus) {
            let stats = text(&cpus.join(cpu).join("stats")).unwrap_or_default();
            for line in stats.lines() {
                let Some((key, value)) = line.split_once(':') else {
                    continue;
                };
                if matches!(key, "overrun" | "commit overrun" | "dropped events") {
                    let value: u64 = value.trim().parse().unwrap_or(0);
                    lost = Some(lost.unwrap_or(0) + value);
                }
            }
        }
        lost
    }

    /// Puts everything back.
    pub fn restore(mut self) -> anyhow::Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.is_restored, true) {
            return Ok(());
        }
        let stopped = self.set("tracing_on", "0");
        let mut disabled = Ok(());
        for enable in self.enabled.drain(..) {
            let done = write(&enable, "0").with_context(|| enable.display().to_string());
            disabled = disabled.and(done);
        }
        let settled = match &self.place {
            Place::Instance => remove_instance(&self.dir),
            Place::Shared(settings) => settings.put_back(&self.dir),
        };
        settled.and(disabled).and(stopped)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // An error is on its way already if this is reached.
        let _ = self.put_back();
    }
}

fn make_instance(instances: &Path) -> anyhow::Result<PathBuf> {
    let dir = instances.join(INSTANCE);
    match fs::create_dir(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{0} exists: another recording is under way, or one was killed and `rmdir {0}` \
             removes what it left",
            dir.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{}: permission denied; recording needs root", dir.display())
        }
        Err(error) => return Err(error).context(dir.display().to_string()),
    }
    let last = dir.join("tracing_on");
    if !within(INSTANCE_WAIT, || last.exists()) {
        let _ = fs::remove_dir(&dir);
        bail!("{}: not tracefs", instances.display());
    }
    Ok(dir)
}

fn remove_instance(dir: &Path) -> anyhow::Result<()> {
    let mut result = Ok(());
    within(INSTANCE_WAIT, || {
        result = fs::remove_dir(dir);
        result.is_ok()
    });
    result.with_context(|| format!("{}: cannot be removed", dir.display()))
}

/// Asks again and again until it is so, or the time is over.
fn within(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > time {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Settings {
    /// The present settings, if nobody is tracing: reading would take another user's events away.
    fn idle(top: &Path) -> anyhow::Result<Self> {
        let of = |file: &str| text(&top.join(file)).unwrap_or_default();
        let (tracer, events) = (of("current_tracer"), of("set_event"));
        if !(tracer.is_empty() || tracer == "nop") || !events.is_empty() {
            bail!(
                "{}: in use by other tracing, and this kernel has no instances",
                top.display()
            );
        }
        let clocks = of("trace_clock");
        let chosen = clocks
            .split_whitespace()
            .find_map(|clock| clock.strip_prefix('[')?.strip_suffix(']'));
        // "7 (expanded: 1408)" is a buffer that nobody has used yet.
        let size = of("buffer_size_kb");
        let size = size.split_whitespace().next().unwrap_or("");
        if number(&top.join("tracing_on")).is_none() {
            bail!("{}: not tracefs", top.display());
        }
        Ok(Self {
            on: of("tracing_on"),
            clock: chosen.unwrap_or(clocks.trim()).to_owned(),
            buffer_kib: size.to_owned(),
        })
    }

    fn put_back(&self, top: &Path) -> anyhow::Result<()> {
        let files = [
            ("trace", ""),
            ("buffer_size_kb", self.buffer_kib.as_str()),
            ("trace_clock", self.clock.as_str()),
            ("tracing_on", self.on.as_str()),
        ];
        let mut result = Ok(());
        for (file, value) in files {
            let path = top.join(file);
            let done = write(&path, value).with_context(|| path.display().to_string());
            result = result.and(done);
        }
        result
    }
}
