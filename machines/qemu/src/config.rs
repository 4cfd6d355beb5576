//! What machine to start.

use std::path::PathBuf;

/// The machine type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Board {
    /// Arm `virt`, GICv3 with an ITS, RAM from 1 GiB up.
    Virt,
    /// x86 `q35`, RAM from 0 up with a hole below 4 GiB.
    Q35,
}

impl Board {
    /// The program that models it.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Virt => "qemu-system-aarch64",
            Self::Q35 => "qemu-system-x86_64",
        }
    }

    /// The Debian package of the program.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Virt => "qemu-system-arm",
            Self::Q35 => "qemu-system-x86",
        }
    }
}

/// How QEMU's virtual time runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// It jumps to the next timer: a device's delays take no real time.
    Jumping,
    /// It follows real time: `edu` takes 100 ms for a transfer, a window in which to unmap.
    RealTime,
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Config {
    /// The machine type.
    pub board: Board,
    /// Bytes of RAM for each NUMA node, in order; multiples of 2 MiB.
    pub nodes: Vec<u64>,
    /// Options of the board's IOMMU; `None` for a machine without one. On `virt` the text is
    /// ignored, since there is only one kind.
    pub iommu: Option<String>,
    /// `-device` arguments, each at a slot of its own on the root bus unless it says otherwise.
    pub devices: Vec<String>,
    /// `-drive` arguments.
    pub drives: Vec<String>,
    /// How virtual time runs.
    pub clock: Clock,
    /// The program; `None` for the board's, found on the path.
    pub program: Option<PathBuf>,
}

impl Config {
    /// Two nodes of 256 MiB on `virt` behind an SMMUv3, jumping clock, no devices.
    pub fn virt() -> Self {
        Self {
            board: Board::Virt,
            nodes: vec![256 << 20; 2],
            iommu: Some(String::new()),
            devices: Vec::new(),
            drives: Vec::new(),
            clock: Clock::Jumping,
            program: None,
        }
    }

    /// The program to run.
    pub(crate) fn program(&self) -> PathBuf {
        self.program
            .clone()
            .unwrap_or_else(|| self.board.program().into())
    }
}
