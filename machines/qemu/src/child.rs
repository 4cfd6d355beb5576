//! The QEMU process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Bytes of log that errors carry.
const LOG_TAIL: u64 = 2000;

/// A child that ends with its owner.
pub(crate) struct Qemu {
    child: Child,
    log: File,
}

impl Qemu {
    /// Runs `command` with its output in `log`.
    #[allow(unsafe_code)]
    pub(crate) fn start(mut command: Command, log: File) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is one, and
        // the closure allocates nothing.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed must not leave QEMU behind.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        Ok(Self {
            child: command.spawn()?,
            log,
        })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its log, on one line.
    pub(crate) fn log(&mut self) -> String {
        let mut text = String::new();
        let read = self.log.seek(SeekFrom::End(0)).and_then(|len| {
            self.log
                .seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
            self.log.read_to_string(&mut text)
        });
        match read {
            Ok(0) => "(empty)".into(),
            Ok(_) => text.trim().replace('\n', " | "),
            Err(error) => format!("(unreadable: {error})"),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Either may fail only where the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
