//! Where input comes from, and what it is called in messages.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file or standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Stdin,
}

impl Source {
    /// `-` and nothing are standard input.
    pub fn new(path: Option<PathBuf>) -> Self {
        match path {
            Some(path) if path != Path::new("-") => Self::File(path),
            _ => Self::Stdin,
        }
    }

    /// Whether reading it would wait for someone to type.
    pub fn is_terminal(&self) -> bool {
        *self == Self::Stdin && io::stdin().is_terminal()
    }

    /// Base name, so that the same input gives the same answer from any
    /// folder.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.file_name().map_or_else(
                || path.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// The name as typed, for errors.
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => self.name(),
        }
    }

    /// The word to type to name it again.
    pub fn argument(&self) -> String {
        match self {
            Self::File(_) => quoted(&self.name()),
            Self::Stdin => "-".to_owned(),
        }
    }

    /// Opens it for one reading from the start.
    pub fn open(&self) -> anyhow::Result<Box<dyn Read + Send>> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::File(path) => {
                let shown = path.display();
                let file = File::open(path).with_context(|| format!("{shown}: cannot open"))?;
                if file.metadata().is_ok_and(|m| m.is_dir()) {
                    anyhow::bail!("{shown}: is a directory, expected a file");
                }
                Ok(Box::new(file))
            }
        }
    }
}

/// The word as a POSIX shell needs it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_and_nothing_are_standard_input() {
        assert_eq!(Source::new(Some("-".into())), Source::Stdin);
        assert_eq!(Source::new(None), Source::Stdin);
    }

    #[test]
    fn a_name_does_not_show_its_folder() {
        assert_eq!(Source::new(Some("/var/log/a b".into())).name(), "a b");
        assert_eq!(Source::new(Some("/var/log/a b".into())).argument(), "'a b'");
    }
}
