//! Each rule is shown firing, and shown quiet where it should be.

use std::path::PathBuf;

use super::*;
use crate::workspace::{Dependency, Target};

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.into(),
        text: text.into(),
    }
}

/// A package in a folder, with normal dependencies and, after `|`, those of its tests.
fn package(name: &str, folder: &str, dependencies: &[&str]) -> (String, Package) {
    let dependency = |text: &&str| match text.strip_prefix("dev:") {
        Some(name) => Dependency {
            name: name.into(),
            kind: Some("dev".into()),
        },
        None => Dependency {
            name: (*text).into(),
            kind: None,
        },
    };
    let target = Target {
        kind: vec!["lib".into()],
        name: name.replace('-', "_"),
        src_path: PathBuf::from(format!("/r/{folder}/src/lib.rs")),
    };
    let package = Package {
        name: name.into(),
        version: "0.1.0".into(),
        description: Some("what it is".into()),
        dependencies: dependencies.iter().map(dependency).collect(),
        targets: vec![target],
        manifest_path: PathBuf::from(format!("/r/{folder}/Cargo.toml")),
        ..Package::default()
    };
    (folder.to_owned(), package)
}

fn shown(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn layer_findings(packages: &[(String, Package)]) -> Vec<String> {
    let mut findings = Vec::new();
    layers::check(packages, &mut findings);
    shown(&findings)
}

fn root_findings(name: &str, folder: &str, manifest: &str, lib: &str) -> Vec<String> {
    let packages = [package(name, folder, &[])];
    let files = [
        file(&format!("{folder}/Cargo.toml"), manifest),
        file(&format!("{folder}/src/lib.rs"), lib),
    ];
    let by_path = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut findings = Vec::new();
    crate_roots::check(&packages, &by_path, Path::new("/r"), &mut findings);
    shown(&findings)
}

fn syntax_findings(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    syntax::check(&file(path, text), &mut findings);
    shown(&findings)
}

fn text_findings(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    ForbiddenTexts::read()
        .unwrap()
        .check(&file(path, text), &mut findings);
    shown(&findings)
}

fn banner_findings(path: &str, text: &str) -> usize {
    let mut findings = Vec::new();
    banners::check(&file(path, text), &mut findings);
    findings.len()
}

fn parity_findings(text: &str, rows: &[usize]) -> Vec<String> {
    let mut findings = Vec::new();
    parity::check(&file(parity::PATH, text), rows, &mut findings);
    shown(&findings)
}

const MANIFEST: &str = "[lints]\nworkspace = true\n";
const ROOT: &str = "//! What it is.\n#![no_std]\n#![forbid(unsafe_code)]\n";

fn stack() -> Vec<(String, Package)> {
    vec![
        package("dmakit-addr", "crates/addr", &[]),
        package(
            "dmakit-platform",
            "crates/platform",
            &["dmakit-addr", "dev:dmakit-platform"],
        ),
        package(
            "dmakit-phys",
            "crates/phys",
            &["dmakit-platform", "lock_api"],
        ),
        package("dmakit-cma", "crates/cma", &["dmakit-phys"]),
        package(
            "dmakit-swiotlb",
            "crates/swiotlb",
            &["dmakit-addr", "dev:dmakit-sim"],
        ),
        package("dmakit-iommu", "crates/iommu", &["dmakit-platform"]),
        package(
            "dmakit-smmuv3",
            "crates/smmuv3",
            &["dmakit-iommu", "dmakit-platform"],
        ),
        package(
            "dmakit-dma",
            "crates/dma",
            &["dmakit-swiotlb", "dmakit-iommu"],
        ),
        package("dmakit-sim", "machines/sim", &["dmakit-platform"]),
        package("dmakit", "crates/dmakit", &["dmakit-dma", "dmakit-smmuv3"]),
    ]
}

/// The findings after one edge was added to the stack above.
fn after_edge(from: &str, to: &str) -> Vec<String> {
    let mut packages = stack();
    let dependency = Dependency {
        name: to.into(),
        kind: None,
    };
    let (_, package) = packages.iter_mut().find(|(_, p)| p.name == from).unwrap();
    package.dependencies.push(dependency);
    layer_findings(&packages)
}

#[test]
fn edges_down_and_the_listed_ones_sideways_pass() {
    assert_eq!(layer_findings(&stack()), Vec::<String>::new());
}

#[test]
fn an_edge_up_or_sideways_is_refused() {
    for (from, to) in [
        ("dmakit-swiotlb", "dmakit-dma"),
        ("dmakit-phys", "dmakit-cma"),
        ("dmakit-addr", "dmakit-platform"),
        ("dmakit-swiotlb", "dmakit-phys"),
        ("dmakit-iommu", "dmakit-smmuv3"),
        ("dmakit-swiotlb", "dmakit-sim"),
        ("dmakit", "dmakit-sim"),
    ] {
        assert_eq!(after_edge(from, to).len(), 1, "{from} -> {to}");
    }
}

#[test]
fn the_mapping_api_and_the_simulator_know_no_hardware_driver() {
    for from in ["dmakit-dma", "dmakit-sim"] {
        assert_eq!(after_edge(from, "dmakit-smmuv3").len(), 1, "{from}");
    }
    assert_eq!(after_edge("dmakit-smmuv3", "dmakit-dma").len(), 1);
}

#[test]
fn a_crate_that_no_layer_lists_or_in_another_folder_is_refused() {
    assert_eq!(
        layer_findings(&[package("dmakit-new", "crates/new", &[])]).len(),
        1
    );
    assert_eq!(
        layer_findings(&[package("addr", "crates/addr", &[])]).len(),
        1
    );
    assert_eq!(
        layer_findings(&[package("dmakit-addr", "addr", &[])]).len(),
        1
    );
    assert_eq!(
        layer_findings(&[package("dmakit-tokio", "adapters/tokio", &[])]).len(),
        0
    );
}

#[test]
fn an_allocator_that_names_device_registers_is_refused() {
    let text = "use dmakit_platform::Mmio;\n";
    assert_eq!(syntax_findings("crates/swiotlb/src/pool.rs", text).len(), 1);
    assert_eq!(syntax_findings("crates/smmuv3/src/queue.rs", text).len(), 0);
}

#[test]
fn a_crate_root_says_what_it_is_and_forbids_unsafe_and_std() {
    let name = "dmakit-swiotlb";
    let folder = "crates/swiotlb";
    assert_eq!(
        root_findings(name, folder, MANIFEST, ROOT),
        Vec::<String>::new()
    );
    for line in ROOT.lines() {
        let without = ROOT.replace(line, "");
        assert_eq!(
            root_findings(name, folder, MANIFEST, &without).len(),
            1,
            "{line}"
        );
    }
    let conditional = ROOT.replace("no_std", "cfg_attr(not(feature = \"host\"), no_std)");
    assert_eq!(root_findings(name, folder, MANIFEST, &conditional).len(), 0);
}

#[test]
fn only_the_seam_may_use_unsafe_and_only_hosted_crates_std() {
    let unsafe_root = ROOT.replace("#![forbid(unsafe_code)]", "");
    assert_eq!(
        root_findings("dmakit-platform", "crates/platform", MANIFEST, &unsafe_root).len(),
        0
    );
    let hosted_root = ROOT.replace("#![no_std]", "");
    assert_eq!(
        root_findings("dmakit-trace", "trace", MANIFEST, &hosted_root).len(),
        0
    );
}

#[test]
fn a_manifest_takes_over_the_workspace_s_lints() {
    let found = root_findings("dmakit-swiotlb", "crates/swiotlb", "", ROOT);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_long_root_is_noted() {
    let long = format!("{ROOT}{}", "\n".repeat(60));
    let found = root_findings("dmakit-swiotlb", "crates/swiotlb", MANIFEST, &long);
    assert!(
        found.len() == 1 && found[0].starts_with("note: "),
        "{found:?}"
    );
}

#[test]
fn names_that_say_nothing_are_refused_for_crates_files_folders_and_modules() {
    for name in names::EMPTY_NAMES {
        let mut findings = Vec::new();
        let crate_name = format!("dmakit-{name}");
        names::check_packages(&[package(&crate_name, "crates/x", &[])], &mut findings);
        names::check_file(&file(&format!("trace/src/{name}.rs"), ""), &mut findings);
        names::check_file(
            &file(&format!("trace/src/pool_{name}/x.rs"), ""),
            &mut findings,
        );
        assert_eq!(findings.len(), 3, "{name}");
        assert_eq!(
            syntax_findings("trace/src/x.rs", &format!("mod {name} {{}}")).len(),
            1
        );
    }
    let mut findings = Vec::new();
    names::check_file(&file("crates/dma/src/database.rs", ""), &mut findings);
    names::check_file(&file("docs/common.md", ""), &mut findings);
    assert_eq!(findings.len(), 0);
}

#[test]
fn product_code_is_limited_and_tests_are_not_counted() {
    let lines = |count: usize| "// x\n".repeat(count);
    let found = |path: &str, text: String| syntax_findings(path, &text);
    assert_eq!(found("lab/src/a.rs", lines(400)).len(), 0);
    assert!(found("lab/src/a.rs", lines(401))[0].starts_with("note: "));
    assert!(!found("lab/src/a.rs", lines(801))[0].starts_with("note: "));
    assert_eq!(found("lab/tests/a.rs", lines(2000)).len(), 0);
    assert_eq!(found("lab/src/a/tests.rs", lines(2000)).len(), 0);
    let with_tests = format!(
        "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
        lines(390),
        lines(100)
    );
    assert_eq!(found("lab/src/a.rs", with_tests).len(), 0);
}

#[test]
fn many_lines_of_tests_inside_a_file_are_refused() {
    let text = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(150));
    assert_eq!(syntax_findings("lab/src/a.rs", &text).len(), 1);
}

#[test]
fn a_function_of_more_than_a_screen_is_refused_wherever_it_stands() {
    let body = "\n".repeat(70);
    for text in [
        format!("fn long() {{{body}}}"),
        format!("impl X {{ fn long() {{{body}}} }}"),
        format!("trait X {{ fn long() {{{body}}} }}"),
    ] {
        let found = syntax_findings("lab/src/a.rs", &text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("71 lines"), "{found:?}");
    }
    let fits = format!("fn short() {{{}}}", "\n".repeat(69));
    assert_eq!(syntax_findings("lab/src/a.rs", &fits).len(), 0);
    let test = syntax_findings("lab/tests/a.rs", &format!("fn long() {{{body}}}"));
    assert!(test[0].starts_with("note: "), "{test:?}");
}

#[test]
fn leftover_macros_are_refused() {
    for name in ["todo", "unimplemented", "dbg"] {
        let text = format!("fn f() {{ {name}!(); }}");
        assert_eq!(syntax_findings("lab/src/a.rs", &text).len(), 1, "{name}");
    }
}

#[test]
fn an_ignored_test_and_a_test_prefix_are_refused() {
    let ignored = "#[test]\n#[ignore]\nfn claim() {}";
    let prefixed = "#[test]\nfn test_claim() {}";
    assert_eq!(syntax_findings("lab/tests/a.rs", ignored).len(), 1);
    assert_eq!(syntax_findings("lab/tests/a.rs", prefixed).len(), 1);
    assert_eq!(
        syntax_findings("lab/tests/a.rs", "#[test]\nfn claim() {}").len(),
        0
    );
    assert_eq!(syntax_findings("lab/src/a.rs", "fn test_bit() {}").len(), 0);
}

#[test]
fn a_let_in_a_chain_is_refused() {
    let text = "fn f() { if a && let Some(b) = c {} }";
    let found = syntax_findings("lab/src/a.rs", text);
    assert!(
        found.len() == 1 && found[0].contains("minimum-rust"),
        "{found:?}"
    );
    assert_eq!(
        syntax_findings("lab/src/a.rs", "fn f() { if let Some(b) = c {} }").len(),
        0
    );
}

#[test]
fn a_file_that_does_not_parse_is_reported_with_its_line() {
    let found = syntax_findings("lab/src/a.rs", "\nfn {");
    assert!(found[0].starts_with("lab/src/a.rs:2"), "{found:?}");
}

#[test]
fn drawn_lines_are_refused_and_tables_are_not() {
    for text in [
        "// ======",
        "// ---- Section",
        "    // Section ----",
        "//////////",
        "/// ****",
    ] {
        assert_eq!(banner_findings("lab/src/a.rs", text), 1, "{text}");
    }
    for text in [
        "//! |---|---|",
        "// -- short",
        "// a -> b",
        "let x = 1; // ----",
        "//",
    ] {
        assert_eq!(banner_findings("lab/src/a.rs", text), 0, "{text}");
    }
    assert_eq!(banner_findings("deny.toml", "# ------"), 1);
    assert_eq!(banner_findings("README.md", "# ------"), 0);
}

#[test]
fn every_listed_text_is_found_and_its_list_is_not() {
    let forbidden = ForbiddenTexts::read().unwrap();
    for text in &forbidden.text {
        let line = format!("one\nsee {}x", text.find);
        let alone = format!("one\nsee {} x", text.find);
        let found =
            text_findings("docs/a.md", &line).len() + text_findings("docs/a.md", &alone).len();
        assert!(found > 0, "{}", text.find);
        assert!(text.reason.len() > 10, "{} gives no reason", text.find);
        assert_eq!(text_findings("lab/corpus/1.txt", &alone).len(), 0);
    }
}

#[test]
fn a_path_inside_another_path_and_a_longer_word_are_no_match() {
    let forbidden = ForbiddenTexts::read().unwrap();
    let path = &forbidden.text[0].find;
    let word = &forbidden
        .text
        .iter()
        .find(|text| text.find.ends_with("ME"))
        .unwrap()
        .find;
    assert_eq!(text_findings("docs/a.md", &format!("net{path}x")).len(), 0);
    assert_eq!(text_findings("docs/a.md", &format!("`{path}x`")).len(), 1);
    assert_eq!(text_findings("docs/a.md", &format!("PRE{word}")).len(), 0);
}

const PARITY: &str = "## One\n\n| a | b | c | d | e |\n|---|---|---|---|---|\n\
    | x | 3.5 | works | sim, QEMU | |\n| y | no | not yet | — | |\n\n## Two\n\n\
    | a | b | c | d | e |\n|---|---|---|---|---|\n| z | 6.1 | makes no sense here | — | why |\n";

#[test]
fn a_lost_parity_row_is_noticed() {
    assert_eq!(parity_findings(PARITY, &[2, 1]), Vec::<String>::new());
    assert_eq!(parity_findings(PARITY, &[3, 1]).len(), 1);
    assert_eq!(parity_findings(PARITY, &[2, 1, 1]).len(), 1);
}

#[test]
fn a_parity_row_has_a_known_state_with_evidence_or_a_reason() {
    for (from, to) in [
        ("not yet", "soon"),
        ("sim, QEMU", "sim, hope"),
        ("sim, QEMU", "—"),
        ("| why |", "| |"),
        ("| y |", "|"),
    ] {
        assert_eq!(
            parity_findings(&PARITY.replace(from, to), &[2, 1]).len(),
            1,
            "{from} -> {to}"
        );
    }
}

#[test]
fn the_layer_table_names_each_crate_and_folder_once() {
    for (index, row) in layers::CRATES.iter().enumerate() {
        let others = &layers::CRATES[index + 1..];
        assert!(
            others
                .iter()
                .all(|other| other.name != row.name && other.folder != row.folder)
        );
    }
}

#[test]
fn a_test_that_can_be_lengthened_has_a_row_that_does_so() {
    let packages = [
        package("dmakit-platform", "crates/platform", &[]),
        package("dmakit-none", "crates/none", &[]),
    ];
    let text = format!("env::var(\"{}\")", soak::STEPS_VARIABLE);
    let found = |path: &str| {
        let mut findings = Vec::new();
        check_long_forms(&packages, &[file(path, &text)], &mut findings);
        findings.len()
    };
    assert_eq!(found("crates/none/tests/lockstep.rs"), 1);
    assert_eq!(found("crates/platform/tests/ram.rs"), 0);
    assert_eq!(found("docs/testing.md"), 0);
}
