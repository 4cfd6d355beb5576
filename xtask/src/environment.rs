//! What kind of machine this is, and the error that says what it lacks.

use std::env;
use std::fmt;
use std::process::Command;

/// The machine lacks something that a person can install. Ends the program with exit code 2.
#[derive(Debug)]
pub(crate) struct MissingFromMachine {
    /// What is missing and why it is needed.
    pub(crate) what: String,
    /// The exact line to type.
    pub(crate) type_this: String,
}

impl fmt::Display for MissingFromMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; type\n\n    {}\n", self.what, self.type_this)
    }
}

impl std::error::Error for MissingFromMachine {}

/// Whether this is continuous integration, where nothing that is needed may be skipped.
pub(crate) fn is_continuous_integration() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Whether packages can be installed without asking anyone.
pub(crate) fn is_root() -> bool {
    first_line(Command::new("id").arg("-u")).is_some_and(|line| line == "0")
}

/// Whether a program of this name can be started at all.
pub(crate) fn has_program(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok()
}

/// The first line that a command prints when it succeeds.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}
