//! When a recording is over.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long a command that was told to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a recording ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// The command did.
    Command(ExitStatus),
    /// A signal asked for it.
    Signal(i32),
    /// The time was over.
    Duration,
}

impl Ended {
    /// The command's exit status, where it ended by itself.
    pub fn command_status(&self) -> Option<i32> {
        match self {
            Self::Command(status) => status.code(),
            _ => None,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Command(status) => match (status.code(), status.signal()) {
                (Some(0), _) => "the command ended".to_owned(),
                (Some(code), _) => format!("the command ended with status {code}"),
                (None, Some(signal)) => format!("the command was killed by signal {signal}"),
                (None, None) => "the command ended".to_owned(),
            },
            Self::Signal(SIGINT) => "interrupted".to_owned(),
            Self::Signal(signal) => format!("ended by signal {signal}"),
            Self::Duration => "the time was over".to_owned(),
        }
    }
}

/// Signals that ask for the end are noted instead of ending the program at once.
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    pub fn catch() -> anyhow::Result<Self> {
        let noted = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal)?;
            signal_hook::flag::register_usize(signal, noted.clone(), number)
                .context("signals cannot be caught")?;
        }
        Ok(Self(noted))
    }

    /// The signal that came last since this was last asked.
    fn take(&self) -> Option<i32> {
        let signal = self.0.swap(0, Ordering::Relaxed);
        i32::try_from(signal).ok().filter(|signal| *signal != 0)
    }
}

/// The command, the clock and the signals of one recording.
pub struct Watch {
    signals: Signals,
    child: Option<Child>,
    deadline: Option<Instant>,
    told: Option<(Ended, Instant)>,
}

impl Watch {
    pub fn new(signals: Signals, duration: Option<Duration>) -> Self {
        Self {
            signals,
            child: None,
            deadline: duration.and_then(|duration| Instant::now().checked_add(duration)),
            told: None,
        }
    }

    /// Starts the command. `marker` is where it may write marks; `output` where what it prints
    /// goes.
    pub fn start(
        &mut self,
        command: &[OsString],
        marker: &Path,
        output: Stdio,
    ) -> anyhow::Result<()> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(());
        };
        let child = Command::new(program)
            .args(arguments)
            .env("DMAKIT_MARKER", marker)
            .stdout(output)
            .spawn()
            .with_context(|| format!("{}: cannot be run", program.to_string_lossy()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether the recording is over. Signals are passed on to the command, which then has
    /// ten seconds to end.
    pub fn ended(&mut self) -> io::Result<Option<Ended>> {
        let now = Instant::now();
        let signal = self.signals.take();
        let wish = match signal {
            Some(signal) => Some(Ended::Signal(signal)),
            None if self.deadline.is_some_and(|deadline| deadline <= now) => Some(Ended::Duration),
            None => None,
        };
        let Some(child) = &mut self.child else {
            return Ok(wish);
        };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            let why = self.told.map_or(Ended::Command(status), |(why, _)| why);
            return Ok(Some(wish.unwrap_or(why)));
        }
        match (self.told, wish) {
            (None, Some(why)) => {
                tell(child, signal);
                self.told = Some((why, now));
            }
            // A second signal says that the user waits no longer.
            (Some(_), Some(Ended::Signal(_))) => child.kill()?,
            (Some((_, since)), _) if now.duration_since(since) > PATIENCE => child.kill()?,
            _ => {}
        }
        Ok(None)
    }
}

/// Passes a signal on; the clock's end is a `SIGTERM`. A command that has ended hears nothing, and
/// Ctrl-C it has heard from the terminal itself.
fn tell(child: &Child, signal: Option<i32>) {
    if signal == Some(SIGINT) && io::stdin().is_terminal() {
        return;
    }
    let signal = match signal {
        Some(SIGINT) => Signal::INT,
        Some(SIGHUP) => Signal::HUP,
        _ => Signal::TERM,
    };
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Watch {
    /// A recording that fails does not leave its command behind.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
