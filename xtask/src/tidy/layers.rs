//! The crates, their layers, and which may know which.
//!
//! This table is the one place that says so. Edges go down; what stands beside each other does not
//! know each other unless [`SIDEWAYS`] gives a reason.

use super::finding::{Finding, Report};
use crate::workspace::Package;

/// A crate of this repository, present or planned for.
pub(super) struct Row {
    /// The package is `dmakit-NAME`, but for the facade `dmakit` and for `xtask`.
    pub(super) name: &'static str,
    pub(super) folder: &'static str,
    pub(super) layer: u8,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Linked into other people's systems.
    Library,
    /// A library that hands out memory or addresses and never sees device registers.
    Allocator,
    /// A library that drives hardware.
    HardwareDriver,
    /// Runs on a host: machines, readers, tools.
    Hosted,
}

impl Row {
    const fn new(layer: u8, name: &'static str, folder: &'static str, role: Role) -> Self {
        Self {
            name,
            folder,
            layer,
            role,
        }
    }
}

use Role::{Allocator, HardwareDriver, Hosted, Library};

pub(super) const CRATES: &[Row] = &[
    Row::new(0, "addr", "crates/addr", Library),
    Row::new(0, "platform", "crates/platform", Library),
    Row::new(1, "phys", "crates/phys", Allocator),
    Row::new(1, "cma", "crates/cma", Allocator),
    Row::new(1, "swiotlb", "crates/swiotlb", Allocator),
    Row::new(1, "iova", "crates/iova", Allocator),
    Row::new(1, "io-pgtable", "crates/io-pgtable", Library),
    Row::new(2, "iommu", "crates/iommu", Library),
    Row::new(2, "smmuv3", "crates/smmuv3", HardwareDriver),
    Row::new(2, "its", "crates/its", HardwareDriver),
    Row::new(2, "vtd", "crates/vtd", HardwareDriver),
    Row::new(2, "amdvi", "crates/amdvi", HardwareDriver),
    Row::new(2, "riscv-iommu", "crates/riscv-iommu", HardwareDriver),
    Row::new(3, "dma", "crates/dma", Library),
    Row::new(4, "dmakit", "crates/dmakit", Library),
    Row::new(4, "sim", "machines/sim", Hosted),
    Row::new(4, "qemu", "machines/qemu", Hosted),
    Row::new(4, "linux", "machines/linux", Hosted),
    Row::new(4, "trace", "trace", Hosted),
    Row::new(4, "linux-model", "linux-model", Hosted),
    Row::new(4, "boot", "boot", Hosted),
    Row::new(5, "lab", "lab", Hosted),
    Row::new(5, "xtask", "xtask", Hosted),
];

/// Adapters stand beside the table: one folder each, in layer 4.
const ADAPTERS: &str = "adapters/";

/// Edges within a layer, each with its reason.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    (
        "platform",
        "addr",
        "the machine speaks in addresses, and addresses need no machine",
    ),
    (
        "cma",
        "phys",
        "an area lends its frames to the page allocator and claims them back",
    ),
    ("iommu", "io-pgtable", "a domain builds tables"),
    ("iommu", "iova", "a domain hands out addresses"),
    (
        "linux-model",
        "trace",
        "the model is fed, and held to account, by recordings",
    ),
];

/// Drivers may know `iommu`, which is of their own layer: they fill in what it asks of hardware.
const DRIVERS_MAY_KNOW: &str = "iommu";

/// What may never know a hardware driver although it stands above.
const KNOW_NO_DRIVER: &[(&str, &str)] = &[
    ("dma", "the mapping API works over any IOMMU"),
    (
        "sim",
        "a model that shares code with the driver cannot catch the driver",
    ),
];

/// What tests, benches and examples of any crate may use beside what the crate itself may: the
/// simulated machine, and the incumbent's model, which every comparison stands beside.
const TESTS_MAY_KNOW: &[&str] = &["sim", "linux-model"];

/// The row of a package.
pub(super) fn row_of(package: &str) -> Option<&'static Row> {
    let name = package.strip_prefix("dmakit-").unwrap_or(package);
    CRATES
        .iter()
        .find(|row| row.name == name && package_name(row) == package)
}

fn package_name(row: &Row) -> String {
    match row.name {
        "dmakit" | "xtask" => row.name.to_owned(),
        name => format!("dmakit-{name}"),
    }
}

/// Checks every package's place and every edge between packages of the workspace.
pub(super) fn check(packages: &[(String, Package)], findings: &mut Vec<Finding>) {
    for (folder, package) in packages {
        let manifest = format!("{folder}/Cargo.toml");
        let mut report = Report::new(findings, &manifest, "layers");
        if folder.starts_with(ADAPTERS) {
            continue;
        }
        let Some(row) = row_of(&package.name) else {
            report.error(
                0,
                format!("`{}` stands in no layer; see tidy/layers.rs", package.name),
            );
            continue;
        };
        if row.folder != folder {
            report.error(0, format!("`{}` belongs into {}", package.name, row.folder));
        }
        for dependency in &package.dependencies {
            let inside = packages
                .iter()
                .any(|(_, other)| other.name == dependency.name);
            let Some(to) = row_of(&dependency.name).filter(|_| inside) else {
                continue;
            };
            let in_tests = dependency.kind.as_deref() == Some("dev");
            if let Err(reason) = edge(row, to, in_tests) {
                report.error(
                    0,
                    format!("`{}` may not know `{}`: {reason}", row.name, to.name),
                );
            }
        }
    }
}

/// Whether `from` may depend on `to`, or why not.
fn edge(from: &Row, to: &Row, in_tests: bool) -> Result<(), String> {
    if in_tests && (from.name == to.name || TESTS_MAY_KNOW.contains(&to.name)) {
        return Ok(());
    }
    if to.role == HardwareDriver {
        if let Some((_, reason)) = KNOW_NO_DRIVER.iter().find(|(name, _)| *name == from.name) {
            return Err((*reason).to_owned());
        }
    }
    let listed = SIDEWAYS
        .iter()
        .any(|(a, b, _)| (*a, *b) == (from.name, to.name));
    let driver = from.role == HardwareDriver && to.name == DRIVERS_MAY_KNOW;
    if to.layer < from.layer || listed || driver {
        return Ok(());
    }
    let direction = if to.layer == from.layer {
        "beside"
    } else {
        "above"
    };
    Err(format!(
        "layer {} stands {direction} layer {}",
        to.layer, from.layer
    ))
}

/// Whether a source file belongs to a crate that never sees device registers.
pub(super) fn is_in_allocator(path: &str) -> bool {
    let mut allocators = CRATES.iter().filter(|row| row.role == Allocator);
    allocators.any(|row| {
        path.strip_prefix(row.folder)
            .is_some_and(|rest| rest.starts_with('/'))
    })
}
