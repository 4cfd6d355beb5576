//! What the device tree says of the machine.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use crate::machine::{Machine, Memory};

/// The chips that only such machines have.
#[derive(Clone, Default, Debug)]
pub struct Chips {
    pub smmu: Option<PhysRange>,
    /// Distributor and redistributors.
    pub gic: Option<(PhysRange, PhysRange)>,
    pub its: Option<PhysRange>,
}

/// What is missing or wrong.
pub type Error = &'static str;

/// Reads the tree at `address`.
///
/// # Safety
/// A flattened device tree lies there, mapped, and nobody writes to it.
pub unsafe fn read(address: u64) -> Result<Machine, Error> {
    let start = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the caller's promise.
    let tree = unsafe { Fdt::from_raw(start) }.map_err(|_| "no device tree")?;
    let bytes = PhysRange::new(PhysAddr::new(address), tree.data().len() as u64);
    let mut machine = Machine {
        parameters: parameters(&tree),
        memory: Vec::new(),
        held: vec![bytes.map_err(|_| "a device tree at the end of memory")?],
        configuration: None,
        window: None,
        chips: Chips::default(),
    };
    for node in tree.root().children() {
        visit(&mut machine, node);
    }
    if machine.memory.is_empty() {
        return Err("no memory in the device tree");
    }
    machine.memory.sort_by_key(|memory| memory.range.start());
    Ok(machine)
}

fn parameters(tree: &Fdt<'_>) -> String {
    let chosen = tree.find_node("/chosen");
    let line = chosen.and_then(|node| {
        node.property("bootargs")?
            .value_as::<&str>()
            .ok()
            .map(str::to_string)
    });
    line.unwrap_or_default()
}

fn visit(machine: &mut Machine, node: FdtNode<'_>) {
    let is = |name: &str| node.is_compatible(name);
    let kind = node.property("device_type");
    if kind.is_some_and(|kind| kind.value() == b"memory\0") {
        let on = number(&node, "numa-node-id").unwrap_or(0);
        for range in registers(&node) {
            machine.memory.push(Memory {
                range,
                node: NodeId::new(on as u16),
            });
        }
    } else if is("arm,smmu-v3") {
        machine.chips.smmu = registers(&node).first().copied();
    } else if is("arm,gic-v3") {
        if let [distributor, redistributors, ..] = registers(&node)[..] {
            machine.chips.gic = Some((distributor, redistributors));
        }
        let its = node
            .children()
            .find(|child| child.is_compatible("arm,gic-v3-its"));
        machine.chips.its = its.and_then(|its| registers(&its).first().copied());
    } else if is("pci-host-ecam-generic") {
        machine.configuration = registers(&node).first().copied();
        machine.window = window(&node);
    }
}

/// The non-prefetchable 32-bit window of a PCI host bridge (PCI Bus Binding to IEEE 1275, 12: the
/// space code is in bits 24 and 25 of the first cell).
fn window(node: &FdtNode<'_>) -> Option<PhysRange> {
    let cells: Vec<u32> = words(node, "ranges");
    let entry = cells
        .chunks_exact(7)
        .find(|entry| (entry[0] >> 24) & 3 == 2)?;
    PhysRange::new(
        PhysAddr::new(wide(entry[3], entry[4])),
        wide(entry[5], entry[6]),
    )
    .ok()
}

/// `reg` of a node below the root, which counts addresses and sizes in two cells each.
fn registers(node: &FdtNode<'_>) -> Vec<PhysRange> {
    let cells = words(node, "reg");
    let ranges = cells.chunks_exact(4).filter_map(|entry| {
        PhysRange::new(
            PhysAddr::new(wide(entry[0], entry[1])),
            wide(entry[2], entry[3]),
        )
        .ok()
    });
    ranges.collect()
}

fn words(node: &FdtNode<'_>, name: &str) -> Vec<u32> {
    let Some(property) = node.property(name) else {
        return Vec::new();
    };
    let words = property.value().chunks_exact(4);
    words
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}

fn wide(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

fn number(node: &FdtNode<'_>, name: &str) -> Option<u32> {
    node.property(name)?.value_as::<u32>().ok()
}
