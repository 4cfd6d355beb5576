//! What the root of each crate must say, and what its manifest must.

use std::collections::BTreeMap;

use syn::{Attribute, Expr, Lit, Meta};

use super::finding::{Finding, Report};
use super::layers::{Role, row_of};
use super::tree::SourceFile;
use crate::workspace::{Package, Target, relative};

/// Where `unsafe` is allowed: the seam, the machines that need the host's, and adapters.
const UNSAFE_FOLDERS: &[&str] = &["crates/platform", "machines/qemu", "machines/linux", "boot"];
const UNSAFE_BELOW: &str = "adapters/";

/// A library's root is a table of contents.
const ROOT_LINES: usize = 60;

/// Checks manifests and crate roots of all packages.
pub(super) fn check(
    packages: &[(String, Package)],
    files: &BTreeMap<&str, &SourceFile>,
    root: &std::path::Path,
    findings: &mut Vec<Finding>,
) {
    // Adapters have versions of their own.
    let version = packages
        .iter()
        .find(|(folder, _)| !folder.starts_with(UNSAFE_BELOW))
        .map(|(_, package)| package.version.as_str());
    for (folder, package) in packages {
        let manifest = format!("{folder}/Cargo.toml");
        let mut report = Report::new(findings, &manifest, "manifest");
        if package
            .description
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        {
            report.error(0, "the package has no description");
        }
        if Some(package.version.as_str()) != version && !folder.starts_with(UNSAFE_BELOW) {
            report.error(
                0,
                format!("version {}: all crates share one", package.version),
            );
        }
        let text = files
            .get(manifest.as_str())
            .map_or("", |file| file.text.as_str());
        if !text.contains("[lints]\nworkspace = true") {
            report.error(0, "the workspace's lints are not taken over");
        }
        for target in package.roots() {
            let path = relative(root, &target.src_path);
            if let Some(file) = files.get(path.as_str()) {
                check_root(folder, package, target, file, findings);
            }
        }
    }
}

fn check_root(
    folder: &str,
    package: &Package,
    target: &Target,
    file: &SourceFile,
    findings: &mut Vec<Finding>,
) {
    let mut report = Report::new(findings, &file.path, "crate-root");
    // A file that does not parse is reported by the syntax rules.
    let Ok(syntax) = syn::parse_file(&file.text) else {
        return;
    };
    if !syntax.attrs.iter().any(is_documentation) {
        report.error(1, "the crate says nowhere what it is (`//!`)");
    }
    let unsafe_allowed = UNSAFE_FOLDERS.contains(&folder) || folder.starts_with(UNSAFE_BELOW);
    if !unsafe_allowed && !syntax.attrs.iter().any(forbids_unsafe) {
        report.error(1, "`#![forbid(unsafe_code)]` is missing");
    }
    let role = row_of(&package.name).map(|row| row.role);
    let linked = target.is_library() && !matches!(role, Some(Role::Hosted) | None);
    if linked && !syntax.attrs.iter().any(is_no_std) {
        report.error(1, "`#![no_std]` is missing");
    }
    let lines = file.text.lines().count();
    if target.is_library() && lines > ROOT_LINES {
        report.note(
            0,
            format!("{lines} lines; a root of at most {ROOT_LINES} is a contents page"),
        );
    }
}

fn is_documentation(attribute: &Attribute) -> bool {
    let Meta::NameValue(pair) = &attribute.meta else {
        return false;
    };
    let Expr::Lit(literal) = &pair.value else {
        return false;
    };
    let Lit::Str(text) = &literal.lit else {
        return false;
    };
    pair.path.is_ident("doc") && !text.value().trim().is_empty()
}

fn forbids_unsafe(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident("forbid") && list.tokens.to_string().contains("unsafe_code")
}

/// `#![no_std]`, also under a condition.
fn is_no_std(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::Path(path) => path.is_ident("no_std"),
        Meta::List(list) if list.path.is_ident("cfg_attr") => list
            .tokens
            .to_string()
            .split(',')
            .any(|part| part.trim() == "no_std"),
        _ => false,
    }
}
