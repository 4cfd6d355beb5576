//! The workspace as `cargo metadata` describes it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo::{cargo, output_of};

/// The repository's root and its own packages.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) packages: Vec<Package>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) license: Option<String>,
    /// Absent for packages of the workspace.
    #[serde(default)]
    pub(crate) source: Option<String>,
    #[serde(default)]
    pub(crate) rust_version: Option<String>,
    #[serde(default)]
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    pub(crate) features: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
    pub(crate) manifest_path: PathBuf,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal one, else `dev` or `build`.
    #[serde(default)]
    pub(crate) kind: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) name: String,
    pub(crate) src_path: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

impl Workspace {
    /// Asks cargo for the workspace that this program was built in.
    pub(crate) fn read() -> Result<Self> {
        let own_folder = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = own_folder
            .parent()
            .context("xtask has no folder above it")?
            .to_owned();
        let text =
            output_of(cargo(&root).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let packages = packages_in(&text)?;
        Ok(Self { root, packages })
    }

    /// All packages that a build of the workspace can contain, foreign ones too.
    pub(crate) fn with_dependencies(&self) -> Result<Vec<Package>> {
        let arguments = [
            "metadata",
            "--locked",
            "--all-features",
            "--format-version",
            "1",
        ];
        packages_in(&output_of(cargo(&self.root).args(arguments))?)
    }

    /// The packages whose folder stands in `crates/`: what is linked into other people's systems.
    pub(crate) fn library_crates(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| package.folder(&self.root).starts_with("crates/"))
    }
}

impl Package {
    /// The package's folder below `root`, with forward slashes.
    pub(crate) fn folder(&self, root: &Path) -> String {
        let folder = self.manifest_path.parent().unwrap_or(root);
        relative(root, folder)
    }

    /// The source file of the library or of each binary.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| {
            target
                .kind
                .iter()
                .any(|kind| matches!(kind.as_str(), "lib" | "bin" | "proc-macro"))
        })
    }

    pub(crate) fn has_test(&self, name: &str) -> bool {
        self.targets
            .iter()
            .any(|target| target.name == name && target.kind.iter().any(|kind| kind == "test"))
    }
}

impl Target {
    pub(crate) fn is_library(&self) -> bool {
        self.kind.iter().any(|kind| kind == "lib")
    }
}

/// A path as it is written in messages: below `root`, with forward slashes.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.to_string_lossy().replace('\\', "/")
}

fn packages_in(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Metadata =
        serde_json::from_str(metadata).context("cargo metadata is not what it was")?;
    Ok(metadata.packages)
}
