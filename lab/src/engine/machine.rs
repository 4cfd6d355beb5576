//! The machine that a trace was taken on.

use dmakit_linux_model::{Architecture, Machine, Mapping};

use crate::load::Load;

/// The machine of the sidecar; without one, a PC with as many CPUs as the trace shows.
pub fn machine(load: &Load) -> Machine {
    let capture = load.sidecar.as_ref().map(|sidecar| &sidecar.capture);
    let arch = capture.and_then(|capture| capture.arch.as_deref());
    let architecture = arch.map_or(Architecture::X86_64, Architecture::from_name);
    let ram_kib = capture.and_then(|capture| capture.mem_total_kib);
    let shown = load
        .demand
        .mappings
        .iter()
        .map(|mapping| mapping.cpu + 1)
        .max();
    Machine {
        architecture,
        ram_bytes: ram_kib.unwrap_or(0) << 10,
        cpus: capture
            .and_then(|capture| capture.cpus)
            .or(shown)
            .unwrap_or(1),
        page_bytes: 4096,
        has_unreachable_memory: has_unreachable_memory(load),
        is_confidential: false,
        largest_free_slots: None,
    }
}

/// The kernel's log lists the ranges of memory; a bounce that nobody forced shows it too. Without
/// a log, a pool is taken to be there.
fn has_unreachable_memory(load: &Load) -> bool {
    let natural = |mapping: &Mapping| mapping.was_bounced && !mapping.was_forced;
    if load.demand.mappings.iter().any(natural) {
        return true;
    }
    let Some(sidecar) = &load.sidecar else {
        return true;
    };
    let ends = sidecar.dmesg.lines.iter().filter_map(|line| {
        let (_, range) = line.split_once(" node ")?.1.split_once("[mem 0x")?;
        let (_, last) = range.split_once("-0x")?;
        u64::from_str_radix(last.trim_end_matches(']'), 16).ok()
    });
    ends.max().is_some_and(|last| last >> 32 != 0)
}
