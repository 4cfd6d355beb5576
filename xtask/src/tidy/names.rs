//! Names that say nothing: a crate, module, folder or file of this name collects what has no home.

use super::finding::{Finding, Report};
use super::tree::SourceFile;
use crate::workspace::Package;

pub(super) const EMPTY_NAMES: &[&str] = &[
    "base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils",
];

/// Whether a name is one of those, alone or as the last word (`dmakit-common`, `pool_utils`).
pub(super) fn is_empty_name(name: &str) -> bool {
    let last = name.rsplit(['-', '_']).next().unwrap_or(name);
    EMPTY_NAMES.contains(&last)
}

pub(super) fn check_packages(packages: &[(String, Package)], findings: &mut Vec<Finding>) {
    for (folder, package) in packages {
        if is_empty_name(&package.name) {
            let manifest = format!("{folder}/Cargo.toml");
            let message = format!("`{}` says nothing about what is inside", package.name);
            Report::new(findings, &manifest, "names").error(0, message);
        }
    }
}

/// Files and folders of code; modules inside a file are checked with its syntax.
pub(super) fn check_file(file: &SourceFile, findings: &mut Vec<Finding>) {
    if !file.is_rust() {
        return;
    }
    let folders = file
        .path
        .rsplit_once('/')
        .map_or("", |(folders, _)| folders);
    for name in folders.split('/').chain([file.stem()]) {
        if is_empty_name(name) {
            let message = format!("`{name}` says nothing about what is inside");
            Report::new(findings, &file.path, "names").error(0, message);
        }
    }
}
