//! What the boot protocol says of the machine (PVH: xen/include/public/arch-x86/hvm/start_info.h).

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::with_exposed_provenance;

use dmakit_addr::{NodeId, PhysAddr, PhysRange};

use super::Chips;
use crate::machine::{Machine, Memory};

const MAGIC: u32 = 0x336e_c578;

/// Where q35's firmware puts PCI configuration space, and where nothing but 32-bit BARs lies.
const CONFIGURATION: (u64, u64) = (0xb000_0000, 256 << 20);
const WINDOW: (u64, u64) = (0xc000_0000, 512 << 20);

/// What is mapped as memory.
const MAPPED: (u64, u64) = (0, 0xb000_0000);

/// What firmware has of it: its own memory, and all that it handed over.
const FIRMWARE: (u64, u64) = (0, 1 << 20);

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    modules_at: u64,
    parameters_at: u64,
    rsdp_at: u64,
    memory_at: u64,
    memory_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

/// RAM (ACPI 6.5, 15.1).
const USABLE: u32 = 1;

/// Reads what lies at `address`.
///
/// # Safety
/// The boot protocol's structure lies there, mapped, and nobody writes to it or to what it names.
pub unsafe fn read(address: u64) -> Result<Machine, &'static str> {
    let info: *const StartInfo = with_exposed_provenance(address as usize);
    // SAFETY: the caller's promise.
    let info = unsafe { info.read_unaligned() };
    if info.magic != MAGIC || info.version < 1 {
        return Err("no start information with a memory map");
    }
    let parameters = with_exposed_provenance(info.parameters_at as usize);
    let parameters = match info.parameters_at {
        0 => String::new(),
        // SAFETY: the caller's promise.
        _ => unsafe { CStr::from_ptr(parameters) }
            .to_string_lossy()
            .into_owned(),
    };
    let entries: *const Entry = with_exposed_provenance(info.memory_at as usize);
    let entries = (0..info.memory_entries as usize)
        // SAFETY: the caller's promise.
        .map(|index| unsafe { entries.add(index).read_unaligned() });
    let mapped = range(MAPPED)?;
    let memory: Vec<Memory> = entries
        .filter(|entry| entry.kind == USABLE)
        .filter_map(|entry| range((entry.start, entry.len)).ok())
        .map(|range| Memory {
            range: range.intersection(&mapped),
            node: NodeId::new(0),
        })
        .collect();
    Ok(Machine {
        parameters,
        memory,
        held: vec![range(FIRMWARE)?],
        configuration: Some(range(CONFIGURATION)?),
        window: Some(range(WINDOW)?),
        chips: Chips,
    })
}

fn range((start, len): (u64, u64)) -> Result<PhysRange, &'static str> {
    PhysRange::new(PhysAddr::new(start), len).map_err(|_| "memory past the end of addresses")
}
