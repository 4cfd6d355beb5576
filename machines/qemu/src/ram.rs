//! A board's RAM: where it lies, and the files that it is kept in.

use std::io;
use std::path::Path;

use dmakit_addr::PhysAddr;
use dmakit_platform::Segment;

use crate::{Board, Config, QemuError};

/// Where a board has its first byte of RAM.
pub(crate) fn base(board: Board) -> PhysAddr {
    match board {
        Board::Virt => PhysAddr::new(0x4000_0000),
        Board::Q35 => PhysAddr::new(0),
    }
}

/// Bytes of RAM below which `q35` has all of it in one piece.
const Q35_RAM_MAX: u64 = 0xb000_0000;

/// Below it, `q35` has windows to devices and to firmware.
const Q35_RAM_MIN: u64 = 1 << 20;

/// Whether a board has so much RAM in one piece.
pub(crate) fn check(config: &Config) -> Result<(), QemuError> {
    let bytes = config.nodes.iter().sum();
    let max = Q35_RAM_MAX - 1;
    match config.board == Board::Q35 && bytes > max {
        true => Err(QemuError::Memory { bytes, max }),
        false => Ok(()),
    }
}

/// What of a node's RAM the stack may use.
pub(crate) fn without_holes(board: Board, segment: Segment) -> Segment {
    if board != Board::Q35 || segment.range().start() != PhysAddr::new(0) {
        return segment;
    }
    match segment.split_at(Q35_RAM_MIN) {
        Ok((_, rest)) => rest,
        Err(segment) => segment,
    }
}

/// One file of RAM for each node, in memory where the system has such a place.
pub(crate) fn memories(config: &Config) -> Result<Vec<tempfile::NamedTempFile>, QemuError> {
    let shared = Path::new("/dev/shm");
    config
        .nodes
        .iter()
        .map(|&bytes| {
            let file = match shared.is_dir() {
                true => tempfile::NamedTempFile::new_in(shared),
                false => tempfile::NamedTempFile::new(),
            };
            let file = file.map_err(making)?;
            file.as_file().set_len(bytes).map_err(making)?;
            Ok(file)
        })
        .collect()
}

fn making(error: io::Error) -> QemuError {
    let doing = "making RAM";
    QemuError::System { doing, error }
}
