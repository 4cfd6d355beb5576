//! Debian packages that steps need: which, why, and how they come onto the machine.

use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::succeed;
use crate::environment::first_line;
use crate::environment::{MissingFromMachine, has_program, is_continuous_integration, is_root};

/// What a package is needed for. A new need is a new row in [`PACKAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A compiler that can build `core` and `alloc` for a target without an operating system.
    BareBuild,
    /// A linker for what is built so.
    BareLink,
    /// Device models that nobody here wrote.
    DeviceModels,
}

impl Need {
    /// Whether `apt-get` may remove other packages for it. `rustc-web` would replace Debian's own
    /// `rustc` and `rustup`: never. Emulators and `qemu-utils` come from one source and go together
    /// by release: a `qemu-utils` of another release has to give way.
    fn install_options(self) -> &'static str {
        match self {
            Self::BareBuild | Self::BareLink => "--no-install-recommends --no-remove",
            Self::DeviceModels => "--no-install-recommends",
        }
    }
}

/// One row: a package, who asks for it, and the reason that is printed.
struct DebianPackage {
    name: &'static str,
    need: Need,
    reason: &'static str,
}

const PACKAGES: &[DebianPackage] = &[
    DebianPackage {
        name: "rustc-web",
        need: Need::BareBuild,
        reason: "a compiler that knows aarch64-unknown-none where rustup has no such target",
    },
    DebianPackage {
        name: "rust-web-src",
        need: Need::BareBuild,
        reason: "the sources of core and alloc for that target",
    },
    DebianPackage {
        name: "lld",
        need: Need::BareLink,
        reason: "a linker for images of that target",
    },
    DebianPackage {
        name: "qemu-system-arm",
        need: Need::DeviceModels,
        reason: "QEMU's SMMUv3, NVMe and edu models (a qemu-utils of another release gives way)",
    },
    DebianPackage {
        name: "qemu-system-x86",
        need: Need::DeviceModels,
        reason: "QEMU's q35: its device models, and a machine for the bare-metal image",
    },
];

/// How the packages of a need stand after [`provide`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Provided {
    Installed,
    /// This is no Debian; the reason is to be printed.
    NotHere(String),
}

/// Brings the packages of `need` onto the machine: installs them as root or in continuous
/// integration, and elsewhere says what to type.
///
/// # Errors
/// [`MissingFromMachine`] with the exact line, or the failure of `apt-get`.
pub(crate) fn provide(need: Need) -> Result<Provided> {
    let missing: Vec<_> = rows_of(need)
        .filter(|package| !is_installed(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(Provided::Installed);
    }
    if !has_program("apt-get") {
        let names = names_of(&missing);
        return Ok(Provided::NotHere(format!(
            "no apt-get here to install {names}"
        )));
    }
    for package in &missing {
        println!(
            "   missing Debian package {}: {}",
            package.name, package.reason
        );
    }
    if !is_root() && !is_continuous_integration() {
        let type_this = format!(
            "sudo apt-get install {} {}",
            need.install_options(),
            names_of(&missing)
        );
        let what = "Debian packages are missing".to_owned();
        return Err(MissingFromMachine { what, type_this }.into());
    }
    println!("   installing {}", names_of(&missing));
    succeed(apt_get().args(["update", "--quiet=2"])).context("apt-get update")?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--quiet=2", "-o", "Dpkg::Use-Pty=0"]);
    install.args(need.install_options().split(' '));
    install.args(missing.iter().map(|package| package.name));
    succeed(&mut install)?;
    Ok(Provided::Installed)
}

fn rows_of(need: Need) -> impl Iterator<Item = &'static DebianPackage> {
    PACKAGES.iter().filter(move |package| package.need == need)
}

fn names_of(packages: &[&DebianPackage]) -> String {
    packages
        .iter()
        .map(|package| package.name)
        .collect::<Vec<_>>()
        .join(" ")
}

fn is_installed(name: &str) -> bool {
    let status =
        first_line(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", name]));
    status.as_deref() == Some("installed")
}

fn apt_get() -> Command {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "apt-get"]);
        command
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_says_why_it_is_needed() {
        for package in PACKAGES {
            assert!(
                package.reason.len() > 20,
                "{} gives no reason",
                package.name
            );
        }
    }

    #[test]
    fn the_bare_build_asks_for_compiler_and_sources() {
        let packages: Vec<_> = rows_of(Need::BareBuild).collect();
        assert_eq!(names_of(&packages), "rustc-web rust-web-src");
    }
}
