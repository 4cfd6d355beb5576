//! The events as they come, until the recording is over.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use super::counters::Counters;
use super::root::Root;
use super::tally::Tally;
use super::tracing::Tracing;
use super::watch::{Ended, Watch};

/// How long to wait where no event is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// The name of the phase that this program marks, around everything.
pub const PHASE: &str = "recording";

/// Reads the kernel's stream to its end, which comes when the watch says so and the buffers are
/// empty.
pub struct Stream<'a> {
    pipe: File,
    root: &'a Root,
    tracing: &'a Tracing,
    watch: &'a mut Watch,
    end: End,
}

/// How a stream ended, and what it held.
#[derive(Default)]
pub struct End {
    pub ended: Option<Ended>,
    /// The kernel's counters at that moment.
    pub counters: Option<Counters>,
    pub tally: Tally,
}

impl<'a> Stream<'a> {
    pub fn open(root: &'a Root, tracing: &'a Tracing, watch: &'a mut Watch) -> io::Result<Self> {
        Ok(Self {
            pipe: open(&tracing.pipe())?,
            root,
            tracing,
            watch,
            end: End::default(),
        })
    }

    /// Starts the command whose end ends the stream; see [`Watch::start`].
    pub fn start(
        &mut self,
        command: &[OsString],
        marker: &Path,
        output: Stdio,
    ) -> anyhow::Result<()> {
        self.watch.start(command, marker, output)
    }

    /// Closes the kernel's stream, without which its instance cannot go.
    pub fn finish(self) -> End {
        self.end
    }

    fn poll(&mut self) -> io::Result<()> {
        if self.end.ended.is_none() {
            self.end.ended = self.watch.ended()?;
            if self.end.ended.is_some() {
                let stopped = self
                    .tracing
                    .mark(&format!("PHASE_END {PHASE}"))
                    .and_then(|()| self.tracing.stop());
                self.end.counters = Some(Counters::read(self.root));
                stopped.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }
}

/// Opened so that a read never waits: the command and the signals are looked after between reads.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            self.poll()?;
            // Asked before the read: what was recorded before the end is read after it.
            let is_over = self.end.ended.is_some();
            match self.pipe.read(out) {
                Ok(0) if is_over => return Ok(0),
                Ok(0) => thread::sleep(PAUSE),
                Ok(count) => {
                    self.end.tally.note(&out[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if is_over {
                        return Ok(0);
                    }
                    thread::sleep(PAUSE);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
