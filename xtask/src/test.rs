//! `cargo xtask test`: every check, in one order, with nothing left out in continuous integration.

use anyhow::Result;

use crate::cargo::{cargo, succeed};
use crate::environment::is_continuous_integration;
use crate::packages::{self, Need, Provided};
use crate::steps::{Outcome, Steps};
use crate::workspace::Workspace;
use crate::{bare, boot, deny, readme, tidy, toolchain};

/// Runs all steps and fails if any did not hold. The tests come last, so that the run closes with
/// their summaries.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut steps = Steps::new(12, !is_continuous_integration());
    steps.step(
        "toolchain",
        "the pinned compiler, formatter and lints",
        || toolchain::run(workspace),
    )?;
    cargo_step(
        &mut steps,
        workspace,
        "format",
        &["fmt", "--all", "--check"],
    )?;
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    cargo_step(&mut steps, workspace, "lints", &lints)?;
    steps.step("image lints", "format and lints of boot/", || {
        image_lints(workspace).map(held)
    })?;
    steps.step(
        "bare",
        "the no_std crates for a target without an operating system",
        || bare::run(workspace),
    )?;
    steps.step("tidy", "house rules", || tidy::run(workspace).map(held))?;
    steps.step("deny", "licences, bans and sources of dependencies", || {
        deny::run(workspace).map(held)
    })?;
    steps.step("documentation", "cargo doc --workspace --no-deps", || {
        let mut command = cargo(&workspace.root);
        command.args(["doc", "--workspace", "--no-deps", "--locked"]);
        succeed(command.env("RUSTDOCFLAGS", "-D warnings")).map(held)
    })?;
    steps.step("readme", "the README's commands and sample output", || {
        readme::run(workspace).map(held)
    })?;
    steps.step(
        "interleavings",
        "small protocols under every order of threads",
        || {
            LOOM_TESTS
                .iter()
                .try_for_each(|(target, packages)| loom(workspace, target, packages))
                .map(held)
        },
    )?;
    steps.step(
        "machines",
        "the device models that tests run against",
        || {
            Ok(match packages::provide(Need::DeviceModels)? {
                Provided::Installed => Outcome::Held,
                Provided::NotHere(reason) => Outcome::Skipped(reason),
            })
        },
    )?;
    steps.step("boot", "a bare-metal image that links the stack", || {
        boot::run(workspace, &boot::Arguments::default())
    })?;
    let tests = ["test", "--workspace", "--locked", "--no-fail-fast"];
    cargo_step(&mut steps, workspace, "tests", &tests)?;
    steps.finish()
}

/// Tests that `loom` runs: which target, and of which packages. It wants a build of its own.
const LOOM_TESTS: &[(&[&str], &[&str])] = &[
    (
        &["--test", "loom"],
        &[
            "dmakit-io-pgtable",
            "dmakit-iova",
            "dmakit-phys",
            "dmakit-smmuv3",
            "dmakit-swiotlb",
        ],
    ),
    (&["--lib"], &["dmakit-iommu", "dmakit-smmuv3"]),
];

fn loom(workspace: &Workspace, target: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = cargo(&workspace.root);
    command.args([
        "test",
        "--release",
        "--locked",
        "--target-dir",
        "target/loom",
    ]);
    for package in packages {
        command.args(["--package", package]);
    }
    succeed(
        command
            .args(target)
            .env("RUSTFLAGS", "--cfg loom")
            .env("LOOM_MAX_PREEMPTIONS", "2"),
    )
}

/// The bare-metal image is a workspace of its own. Its lints run as if it were for this host, so they
/// see what is shared and what is of the host's architecture.
fn image_lints(workspace: &Workspace) -> Result<()> {
    let root = workspace.root.join("boot");
    succeed(cargo(&root).args(["fmt", "--check"]))?;
    let mut command = cargo(&root);
    command.args(["clippy", "--quiet", "--locked"]);
    command.args(["--target-dir", "../target/boot"]);
    succeed(command.args(["--", "-D", "warnings"]))
}

fn cargo_step(
    steps: &mut Steps,
    workspace: &Workspace,
    name: &str,
    arguments: &[&str],
) -> Result<()> {
    let what = format!("cargo {}", arguments.join(" "));
    steps.step(name, &what, || {
        succeed(cargo(&workspace.root).args(arguments)).map(held)
    })
}

fn held((): ()) -> Outcome {
    Outcome::Held
}
