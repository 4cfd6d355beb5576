//! What dependencies may be: licences, bans, sources and minimum compiler, after `deny.toml`.
//!
//! Our own check needs nothing but `cargo metadata` and always runs; cargo-deny reads the same file
//! and runs as well where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::cargo::{cargo, succeed};
use crate::environment::first_line;
use crate::licence;
use crate::workspace::{Package, Workspace};

/// How `cargo metadata` names the registry that cargo uses by default, mirrored or not.
const DEFAULT_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Rules {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Refuses a dependency that the rules refuse, and lists crates that come in several versions.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let text = fs::read_to_string(workspace.root.join("deny.toml")).context("deny.toml")?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let packages = workspace.with_dependencies()?;
    for (name, versions) in several_versions(&packages) {
        println!("   note: {name} in versions {}", versions.join(", "));
    }
    let complaints = complaints(&packages, &rules, minimum_compiler(workspace));
    for complaint in &complaints {
        println!("   {complaint}");
    }
    if !complaints.is_empty() {
        bail!(
            "{} dependencies are not as deny.toml wants them",
            complaints.len()
        );
    }
    println!(
        "   {} packages: licences, bans, sources and compiler versions",
        packages.len()
    );

    if first_line(cargo(&workspace.root).args(["deny", "--version"])).is_some() {
        let arguments = ["deny", "--offline", "check", "licenses", "bans", "sources"];
        succeed(cargo(&workspace.root).args(arguments))?;
    } else {
        println!("   cargo-deny is not installed: only our own check ran");
    }
    Ok(())
}

fn complaints(packages: &[Package], rules: &Rules, compiler: Option<(u32, u32)>) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        let mut complain = |what: String| {
            complaints.push(format!("{} {}: {what}", package.name, package.version));
        };
        match package.license.as_deref() {
            None => complain("names no licence".to_owned()),
            Some(expression) => {
                match licence::is_met(expression, &|name| rules.licenses.allow.contains(name)) {
                    Ok(true) => {}
                    Ok(false) => complain(format!("licence `{expression}` is not allowed")),
                    Err(error) => complain(format!("licence cannot be read: {error}")),
                }
            }
        }
        if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == package.name) {
            complain(format!("banned: {}", ban.reason));
        }
        if let Some(source) = package.source.as_deref() {
            if source != DEFAULT_REGISTRY {
                complain(format!(
                    "comes from {source}, not from the default registry"
                ));
            }
        }
        // Adapters follow the projects that they adapt to.
        let is_adapter = package.manifest_path.iter().any(|part| part == "adapters");
        let is_ours = package.source.is_none();
        let asked = package.rust_version.as_deref().and_then(version_pair);
        let asked = asked.filter(|_| !(is_ours && is_adapter));
        if let (Some(asked), Some(compiler)) = (asked, compiler) {
            if asked > compiler {
                complain(format!(
                    "needs Rust {}.{}, newer than our minimum",
                    asked.0, asked.1
                ));
            }
        }
    }
    complaints
}

fn several_versions(packages: &[Package]) -> Vec<(&str, Vec<&str>)> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .collect()
}

/// The oldest compiler that any of our crates promises to build with.
fn minimum_compiler(workspace: &Workspace) -> Option<(u32, u32)> {
    workspace
        .packages
        .iter()
        .filter_map(|p| version_pair(p.rust_version.as_deref()?))
        .min()
}

fn version_pair(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().unwrap_or("0").parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let text = r#"
            [licenses]
            allow = ["MIT"]
            [bans]
            deny = [{ crate = "bad-sys", reason = "not in Rust" }]
        "#;
        toml::from_str(text).unwrap()
    }

    fn package(name: &str) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: Some("MIT".into()),
            source: Some(DEFAULT_REGISTRY.into()),
            rust_version: Some("1.85".into()),
            ..Package::default()
        }
    }

    fn complaints_about(package: Package) -> Vec<String> {
        complaints(&[package], &rules(), Some((1, 85)))
    }

    #[test]
    fn a_dependency_within_the_rules_passes() {
        assert!(complaints_about(package("good")).is_empty());
    }

    #[test]
    fn each_rule_refuses_what_it_is_for() {
        let unlicensed = Package {
            license: None,
            ..package("a")
        };
        let copyleft = Package {
            license: Some("GPL-3.0-only".into()),
            ..package("a")
        };
        let fetched = Package {
            source: Some("git+https://example.org/a".into()),
            ..package("a")
        };
        let recent = Package {
            rust_version: Some("1.86.0".into()),
            ..package("a")
        };
        for (package, word) in [
            (unlicensed, "no licence"),
            (copyleft, "not allowed"),
            (fetched, "default registry"),
            (recent, "needs Rust 1.86"),
            (package("bad-sys"), "banned: not in Rust"),
        ] {
            let complaints = complaints_about(package);
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].contains(word), "{complaints:?}");
        }
    }

    #[test]
    fn a_crate_in_two_versions_is_listed() {
        let newer = Package {
            version: "2.0.0".into(),
            ..package("a")
        };
        let packages = [package("a"), newer, package("b")];
        assert_eq!(several_versions(&packages), [("a", vec!["1.0.0", "2.0.0"])]);
    }
}
