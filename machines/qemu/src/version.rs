//! Which QEMU it is: behaviour differs.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::QemuError;

/// A QEMU release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Version {
    /// The oldest release that the drivers here were checked against.
    pub const OLDEST: Self = Self { major: 7, minor: 2 };

    /// Asks a program.
    ///
    /// # Errors
    /// [`QemuError::Missing`] where there is none, [`QemuError::NotQemu`] where it is something else,
    /// [`QemuError::TooOld`] below [`Self::OLDEST`].
    pub fn of(program: &Path, package: &'static str) -> Result<Self, QemuError> {
        let name = || program.display().to_string();
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => QemuError::Missing {
                program: name(),
                package,
            },
            _ => QemuError::System {
                doing: "asking QEMU for its version",
                error,
            },
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Self::parse(&text).ok_or_else(|| QemuError::NotQemu { program: name() })?;
        if version < Self::OLDEST {
            return Err(QemuError::TooOld {
                version: version.to_string(),
            });
        }
        Ok(version)
    }

    fn parse(text: &str) -> Option<Self> {
        let number = text.split("version ").nth(1)?;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_qemu_is_told_from_what_is_not_there() {
        let of = |program: &str| Version::of(Path::new(program), "qemu-system-arm");
        assert!(matches!(of("/bin/true"), Err(QemuError::NotQemu { .. })));
        assert!(matches!(of("/no/such"), Err(QemuError::Missing { .. })));
        assert!(matches!(of("/etc/passwd"), Err(QemuError::System { .. })));
    }

    #[test]
    fn a_release_is_read_from_what_the_program_prints() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(Version::parse(debian), Some(Version { major: 7, minor: 2 }));
        assert_eq!(
            Version::parse("QEMU emulator version 10.0.2"),
            Some(Version {
                major: 10,
                minor: 0
            })
        );
        assert_eq!(Version::parse("no such thing"), None);
    }
}
