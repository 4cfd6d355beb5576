//! The machines that scenarios run on.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A machine by its name on the command line and in scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
pub enum MachineName {
    /// The simulated one, deterministic
    #[value(name = "sim")]
    #[serde(rename = "sim")]
    Sim,
    /// QEMU's Arm board with an SMMUv3
    #[value(name = "qemu:virt")]
    #[serde(rename = "qemu:virt")]
    QemuVirt,
    /// QEMU's x86 board, without an IOMMU
    #[value(name = "qemu:q35")]
    #[serde(rename = "qemu:q35")]
    QemuQ35,
}

impl MachineName {
    /// The name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::QemuVirt => "qemu:virt",
            Self::QemuQ35 => "qemu:q35",
        }
    }
}
