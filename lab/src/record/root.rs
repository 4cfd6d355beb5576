//! The files by which Linux describes itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where `/proc`, `/sys` and `/dev` lie.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Whether it is the machine's own.
    pub fn is_own(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// A path below it.
    pub fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    /// The text of a file without its last newline; `None` where it cannot be read.
    pub fn text(&self, below: &str) -> Option<String> {
        text(&self.path(below))
    }
}

/// The text of a file without its last newline; `None` where it cannot be read.
pub fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The number in a file, decimal or hexadecimal.
pub fn number(path: &Path) -> Option<u64> {
    let text = text(path)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Names in a directory in their order; none where there is no such directory.
pub fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The last name of what a link stands for.
pub fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Writes a control file that exists, in one write.
pub fn write(path: &Path, value: &str) -> io::Result<()> {
    use io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)?;
    file.write_all(value.as_bytes())
}
