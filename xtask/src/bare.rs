//! The `no_std` crates, built for a target without an operating system.
//!
//! Two ways lead there. An installed rustup target has `core` ready. Without one, a compiler that
//! has the sources of its own `core` beside it builds them first: the pinned toolchain with its
//! `rust-src` component, or Debian's `rustc-web` with `rust-web-src`. Cargo is the pinned one
//! either way, told by `RUSTC` which compiler to start; `RUSTC_BOOTSTRAP` lets a stable pair use
//! `-Zbuild-std`, and only here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::cargo::{cargo, succeed};
use crate::environment::first_line;
use crate::packages::{self, Need, Provided};
use crate::steps::Outcome;
use crate::workspace::{Package, Workspace};

pub(crate) const TARGET: &str = "aarch64-unknown-none";

/// Where Debian's packages put the compiler. Its sysroot is `/usr`, where the sources land too.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build for a target without an operating system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// The pinned toolchain with the target's `core` installed.
    WithTarget,
    /// A compiler with the sources of `core` beside it.
    WithSources(PathBuf),
}

/// Builds every package below `crates/`, each by itself so that no other package's features help
/// it: without any feature, and with `alloc` where it has that.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome> {
    let Some(compiler) = find_or_install(&workspace.root, TARGET)? else {
        let way = format!("type `rustup target add {TARGET}`");
        return Ok(Outcome::Skipped(format!(
            "no compiler for {TARGET} and no apt-get; {way}"
        )));
    };
    println!("   with {}", compiler.shown(TARGET));
    let mut failed = Vec::new();
    for package in workspace.library_crates() {
        for features in feature_sets(package) {
            let form = format!(
                "{} {}",
                package.name,
                features.unwrap_or("without features")
            );
            println!("   {form}");
            let mut command = build_command(&workspace.root, &compiler);
            command.args(["--package", &package.name]);
            if let Some(features) = features {
                command.args(["--features", features]);
            }
            if succeed(&mut command).is_err() {
                failed.push(form);
            }
        }
    }
    if !failed.is_empty() {
        bail!("not built for {TARGET}: {}", failed.join(", "));
    }
    Ok(Outcome::Held)
}

pub(crate) fn find_or_install(root: &Path, target: &str) -> Result<Option<Compiler>> {
    if let Some(compiler) = find(root, target) {
        return Ok(Some(compiler));
    }
    match packages::provide(Need::BareBuild)? {
        Provided::NotHere(reason) => {
            println!("   {reason}");
            Ok(None)
        }
        Provided::Installed => match find(root, target) {
            Some(compiler) => Ok(Some(compiler)),
            None => bail!("{DEBIAN_RUSTC} is older than 1.85 or has no sources beside it"),
        },
    }
}

fn find(root: &Path, target: &str) -> Option<Compiler> {
    let mut target_folder = rustc("rustc", root);
    target_folder.args(["--print", "target-libdir", "--target", target]);
    if first_line(&mut target_folder).is_some_and(|folder| Path::new(&folder).is_dir()) {
        return Some(Compiler::WithTarget);
    }
    ["rustc", DEBIAN_RUSTC]
        .into_iter()
        .map(PathBuf::from)
        .find_map(|program| {
            let sysroot = first_line(rustc(&program, root).args(["--print", "sysroot"]))?;
            let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
            let version = first_line(rustc(&program, root).arg("--version"))?;
            let usable = sources.is_file() && knows_edition_2024(&version);
            usable.then_some(Compiler::WithSources(program))
        })
}

/// A rustc that sees its own libraries, not those that cargo put on the search path for us.
fn rustc(program: impl AsRef<std::ffi::OsStr>, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root).env_remove("LD_LIBRARY_PATH");
    command
}

fn build_command(root: &Path, compiler: &Compiler) -> Command {
    let mut command = cargo(root);
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--no-default-features",
        "--target",
        TARGET,
    ]);
    command.args(["--target-dir", "target/bare"]);
    // Nothing runs here: what counts is that it compiles, soon.
    command
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "false");
    compiler.configure(&mut command, TARGET);
    command
}

/// The features that matter on a bare target.
fn feature_sets(package: &Package) -> Vec<Option<&'static str>> {
    let mut sets = vec![None];
    if package.features.contains_key("alloc") {
        sets.push(Some("alloc"));
    }
    sets
}

fn knows_edition_2024(version_line: &str) -> bool {
    let number = version_line.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (1, 85))
}

impl Compiler {
    /// Makes a build for `target` use it.
    pub(crate) fn configure(&self, command: &mut Command, target: &str) {
        // Flags meant for the host (a CPU, a linker) do not fit this target.
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "LD_LIBRARY_PATH"] {
            command.env_remove(variable);
        }
        if let Self::WithSources(program) = self {
            let linker = format!(
                "CARGO_TARGET_{}_LINKER",
                target.replace('-', "_").to_uppercase()
            );
            command
                .arg("-Zbuild-std=core,alloc")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTC", program)
                .env(linker, "ld.lld");
        }
    }

    /// Whether it has no linker of its own for such a target.
    pub(crate) fn wants_linker(&self) -> bool {
        matches!(self, Self::WithSources(_))
    }

    fn shown(&self, target: &str) -> String {
        match self {
            Self::WithTarget => format!("the installed target {target}"),
            Self::WithSources(program) => {
                format!("{} and the sources of core and alloc", program.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_with_an_alloc_feature_is_built_both_ways() {
        let mut package = Package::default();
        assert_eq!(feature_sets(&package), [None]);
        package.features.insert("alloc".into(), Vec::new());
        assert_eq!(feature_sets(&package), [None, Some("alloc")]);
    }

    #[test]
    fn a_compiler_before_edition_2024_is_refused() {
        assert!(!knows_edition_2024("rustc 1.63.0"));
        assert!(knows_edition_2024(
            "rustc 1.85.0 (4d91de4e4 2025-02-17) (built from a source)"
        ));
        assert!(knows_edition_2024("rustc 1.96.0"));
        assert!(!knows_edition_2024("no rustc"));
    }

    #[test]
    fn the_host_s_flags_stay_with_the_host() {
        let command = build_command(Path::new("."), &Compiler::WithTarget);
        assert!(
            command
                .get_envs()
                .any(|(name, value)| name == "RUSTFLAGS" && value.is_none())
        );
        assert!(
            !command
                .get_args()
                .any(|argument| argument == "-Zbuild-std=core,alloc")
        );
    }
}
