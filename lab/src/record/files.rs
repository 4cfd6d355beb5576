//! The files that a recording leaves.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::RecordArgs;

/// The trace and its sidecar.
pub struct Files {
    pub trace: PathBuf,
    pub sidecar: PathBuf,
    opened: RefCell<Option<File>>,
    replaces: bool,
}

impl Files {
    /// Their names.
    pub fn named(args: &RecordArgs) -> anyhow::Result<Self> {
        if args.output.file_name().is_none() {
            bail!(
                "--output {}: expected the name of files to write",
                args.output.display()
            );
        }
        let with = |ending: &str| -> PathBuf {
            // Not an extension: names hold dots ("disk-6.12").
            let mut name = args.output.clone().into_os_string();
            name.push(ending);
            name.into()
        };
        Ok(Self {
            trace: with(args.packing.ending()),
            sidecar: with(".toml"),
            opened: RefCell::new(None),
            replaces: args.force,
        })
    }

    /// Creates the trace before anything is recorded, so that nothing is recorded in vain.
    pub fn create(args: &RecordArgs) -> anyhow::Result<Self> {
        let files = Self::named(args)?;
        if !files.replaces && files.sidecar.exists() {
            bail!("{}: {EXISTS}", files.sidecar.display());
        }
        *files.opened.borrow_mut() = Some(files.open(&files.trace)?);
        Ok(files)
    }

    fn open(&self, path: &Path) -> anyhow::Result<File> {
        let opened = OpenOptions::new()
            .write(true)
            .truncate(self.replaces)
            .create(self.replaces)
            .create_new(!self.replaces)
            .open(path);
        match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{}: {EXISTS}", path.display())
            }
            other => other.with_context(|| format!("{}: cannot be written", path.display())),
        }
    }

    /// The trace, to be written once.
    pub fn trace_file(&self) -> anyhow::Result<File> {
        match self.opened.borrow_mut().take() {
            Some(file) => Ok(file),
            None => self.open(&self.trace),
        }
    }

    pub fn write_sidecar(&self, text: &str) -> anyhow::Result<()> {
        fs::write(&self.sidecar, text).with_context(|| self.sidecar.display().to_string())
    }

    /// Removes what a failed recording began.
    pub fn discard(&self) {
        let _ = fs::remove_file(&self.trace);
    }
}

const EXISTS: &str = "exists; --force overwrites it, --output names another";
