//! One translation, step by step, as hardware finds it in RAM.

use std::fmt;

use dmakit_addr::{Iova, PhysAddr, PhysRange};
use dmakit_io_pgtable::{Entry, Format};

use crate::Machine;

/// An entry that a walk reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalkStep {
    /// The level, as Arm counts: 3 has the smallest leaves.
    pub level: u32,
    /// Where the entry lies.
    pub at: PhysAddr,
    /// Its bits.
    pub bits: u64,
    /// What they say.
    pub entry: Entry,
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            level, at, bits, ..
        } = self;
        write!(f, "level {level} at {at} reads {bits:#018x}: ")?;
        match self.entry {
            Entry::Absent => f.write_str("nothing"),
            Entry::Table(next) => write!(f, "table at {next}"),
            Entry::Leaf(phys, _) => write!(f, "memory at {phys}"),
        }
    }
}

/// Reads the entries for `iova` out of the machine's RAM, from the table at `root` on, without the
/// records that the stack keeps of its tables. Ends where nothing is mapped.
pub(super) fn walk<F: Format>(
    machine: &Machine,
    format: &F,
    root: PhysAddr,
    iova: Iova,
) -> Vec<WalkStep> {
    let geometry = format.geometry();
    let mut steps = Vec::new();
    let mut table = root;
    for height in (0..=geometry.root_height()).rev() {
        let entries = match height == geometry.root_height() {
            true => geometry.root_entries(),
            false => geometry.entries(),
        } as u64;
        let index = iova.raw() >> geometry.shift(height) & (entries - 1);
        let at = PhysAddr::new(table.raw() + 8 * index);
        let Some(bits) = read(machine, at) else {
            break;
        };
        let entry = format.parse(height, bits);
        steps.push(WalkStep {
            level: 3 - height,
            at,
            bits,
            entry,
        });
        match entry {
            Entry::Table(next) => table = next,
            Entry::Absent | Entry::Leaf(..) => break,
        }
    }
    steps
}

fn read(machine: &Machine, at: PhysAddr) -> Option<u64> {
    let window = machine.hardware_window(PhysRange::new(at, 8).ok()?)?;
    let mut bytes = [0; 8];
    window.read(&mut bytes);
    Some(u64::from_le_bytes(bytes))
}
