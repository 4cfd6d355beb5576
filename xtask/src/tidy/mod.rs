//! House rules, checked by program: what is not checked here is a wish.

mod banners;
mod crate_roots;
mod finding;
mod layers;
mod names;
mod parity;
mod syntax;
mod texts;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use crate::soak;
use crate::workspace::{Package, Workspace};
use finding::{Finding, Report, Weight};
use texts::ForbiddenTexts;
use tree::SourceFile;

/// Prints every finding and fails if one is more than a note.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = tree::read(&workspace.root)?;
    let packages: Vec<(String, Package)> = workspace
        .packages
        .iter()
        .map(|package| (package.folder(&workspace.root), package.clone()))
        .collect();
    let mut findings = findings_in(&workspace.root, &packages, &files)?;
    for row in soak::rows_without_a_test(workspace) {
        let message = format!("row `{row}` names a test that does not exist");
        Report::new(&mut findings, "xtask/src/soak.rs", "soak").error(0, message);
    }
    findings.sort();
    for finding in &findings {
        println!("   {finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.weight == Weight::Error)
        .count();
    if errors > 0 {
        bail!("{errors} places break a house rule");
    }
    println!(
        "   {} files, {} packages, {} notes",
        files.len(),
        packages.len(),
        findings.len()
    );
    Ok(())
}

/// A package whose tests can be lengthened has a row that does so.
fn check_long_forms(
    packages: &[(String, Package)],
    files: &[SourceFile],
    findings: &mut Vec<Finding>,
) {
    for (folder, package) in packages.iter().filter(|(_, p)| p.name != "xtask") {
        let inside = |file: &&SourceFile| {
            let below = file.path.strip_prefix(folder.as_str());
            file.is_rust() && below.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut inside = files.iter().filter(inside);
        let lengthened = inside.find(|file| file.text.contains(soak::STEPS_VARIABLE));
        if let Some(file) = lengthened.filter(|_| !soak::has_row_for(&package.name)) {
            let message = format!("no row of `{}` runs its long form", package.name);
            Report::new(findings, &file.path, "soak").error(0, message);
        }
    }
}

/// Every rule over everything.
fn findings_in(
    root: &Path,
    packages: &[(String, Package)],
    files: &[SourceFile],
) -> Result<Vec<Finding>> {
    let forbidden = ForbiddenTexts::read()?;
    let by_path: BTreeMap<&str, &SourceFile> = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut findings = Vec::new();
    layers::check(packages, &mut findings);
    crate_roots::check(packages, &by_path, root, &mut findings);
    names::check_packages(packages, &mut findings);
    check_long_forms(packages, files, &mut findings);
    for file in files {
        names::check_file(file, &mut findings);
        banners::check(file, &mut findings);
        forbidden.check(file, &mut findings);
        if file.is_rust() {
            syntax::check(file, &mut findings);
        }
    }
    match by_path.get(parity::PATH) {
        Some(page) => parity::check(page, parity::ROWS, &mut findings),
        None => Report::new(&mut findings, parity::PATH, "parity").error(0, "the page is missing"),
    }
    Ok(findings)
}
