//! The machine that a sidecar describes.

use dmakit_trace::Sidecar;

use crate::agreement::{driver_min_align_mask, learn_min_align_masks};
use crate::boot::{Architecture, CommandLine, Machine};
use crate::demand::{Demand, RecordedAddresses};
use crate::engine::Engine;

const GIB: u64 = 1 << 30;

/// What a sidecar says of the machine, its counters left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedMachine {
    /// The rules of its kernel, if it names one.
    pub engine: Option<Engine>,
    /// The machine.
    pub machine: Machine,
    /// Its command line.
    pub command_line: CommandLine,
    /// DMA address of the boot pool, if the log tells.
    pub pool_start: Option<u64>,
    /// Devices and their drivers.
    drivers: Vec<(String, String)>,
}

impl RecordedMachine {
    /// Reads what matters, with the kernel's log preferred to `MemTotal`, which leaves the
    /// kernel's own memory out.
    pub fn new(sidecar: &Sidecar) -> Self {
        let capture = &sidecar.capture;
        let is_dynamic = capture.swiotlb_dynamic.unwrap_or(false);
        let log = Log(&sidecar.dmesg.lines);
        let total_bytes = capture.mem_total_kib.unwrap_or(0) * 1024;
        let command_line = CommandLine::parse(capture.cmdline.as_deref().unwrap_or(""));
        let names_areas = command_line
            .swiotlb()
            .is_ok_and(|params| params.areas.is_some());
        // The log's areas are the possible CPUs, unless they were set.
        let possible_cpus = log
            .areas()
            .filter(|_| !names_areas)
            .or(capture.cpus)
            .unwrap_or(1);
        Self {
            engine: capture
                .kernel
                .as_deref()
                .and_then(|k| Engine::for_release(k, is_dynamic)),
            machine: Machine {
                architecture: Architecture::from_name(capture.arch.as_deref().unwrap_or("")),
                ram_bytes: log
                    .ram_bytes()
                    .unwrap_or(total_bytes.next_multiple_of(GIB / 4)),
                cpus: possible_cpus,
                page_bytes: page_bytes(capture.kernel.as_deref().unwrap_or("")),
                has_unreachable_memory: log.has_high_memory().unwrap_or(total_bytes > 3 * GIB),
                is_confidential: log.is_confidential(),
                largest_free_slots: None,
            },
            command_line,
            pool_start: log.pool_start(),
            drivers: sidecar
                .devices
                .pci
                .iter()
                .filter_map(|device| Some((device.address.clone(), device.driver.clone()?)))
                .collect(),
        }
    }

    /// Sets each device's minimum-alignment mask: by its driver where that is known, else as
    /// [`learn_min_align_masks`] reads it off the recorded addresses.
    pub fn settle_masks(&self, demand: &mut Demand, recorded: &RecordedAddresses) {
        learn_min_align_masks(demand, recorded);
        for device in &mut demand.devices {
            let driver = self
                .drivers
                .iter()
                .find(|(address, _)| *address == device.name);
            let mask = driver.and_then(|(_, driver)| driver_min_align_mask(driver));
            device.limits.min_align_mask = mask.unwrap_or(device.limits.min_align_mask);
        }
    }
}

/// Distributions name kernels with larger pages so: `6.12.95+deb12-arm64-16k`, `6.12.0-55.el10+64k`.
fn page_bytes(release: &str) -> u64 {
    match release.rsplit(['-', '+', '.']).next() {
        Some("16k") => 16 << 10,
        Some("64k") => 64 << 10,
        _ => 4 << 10,
    }
}

/// The kernel's log.
struct Log<'a>(&'a [String]);

impl Log<'_> {
    /// What stands behind `marker` in the first line that has it.
    fn after(&self, marker: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|line| line.split_once(marker))
            .map(|(_, after)| after)
    }

    fn areas(&self) -> Option<u32> {
        self.after("software IO TLB: area num ")?
            .split('.')
            .next()?
            .parse()
            .ok()
    }

    /// `Memory: 1936796K/2096596K available`.
    fn ram_bytes(&self) -> Option<u64> {
        let (_, total) = self.after("] Memory: ")?.split_once("K/")?;
        total
            .split('K')
            .next()?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    }

    fn pool_start(&self) -> Option<u64> {
        let range = self.after("software IO TLB: mapped [mem 0x")?;
        u64::from_str_radix(range.split('-').next()?, 16).ok()
    }

    /// Whether some node's memory begins at 4 GiB or above; `None` if the log lists none.
    fn has_high_memory(&self) -> Option<bool> {
        let mut begins = self.0.iter().filter_map(|line| {
            let (head, range) = line.split_once(": [mem 0x")?;
            head.contains("  node ").then_some(())?;
            u64::from_str_radix(range.split('-').next()?, 16).ok()
        });
        let first = begins.next()?;
        Some(first >= 4 * GIB || begins.any(|begin| begin >= 4 * GIB))
    }

    /// SEV, TDX and CCA guests say so; SME alone is a host's.
    fn is_confidential(&self) -> bool {
        let features = self
            .after("Memory Encryption Features active:")
            .unwrap_or("");
        features.contains("SEV")
            || features.contains("TDX")
            || self.after("tdx: Guest detected").is_some()
            || self.after("RME: Using RSI").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(toml: &str) -> RecordedMachine {
        RecordedMachine::new(&Sidecar::parse(toml).expect("a sidecar"))
    }

    #[test]
    fn a_sidecar_with_only_a_kernel_is_enough() {
        let recorded = machine("[capture]\nkernel = \"6.12.95+deb12-amd64\"");
        assert_eq!(recorded.engine, Some(Engine::Linux6_12));
        assert_eq!(recorded.machine.cpus, 1);
        assert!(!recorded.machine.has_unreachable_memory);
    }

    #[test]
    fn a_release_may_name_its_pages() {
        for (release, bytes) in [
            ("6.12.95+deb12-arm64-16k", 16384),
            ("6.12.0-55.el10.aarch64+64k", 65536),
            ("6.12.95+deb12-arm64", 4096),
        ] {
            let recorded = machine(&format!("[capture]\nkernel = \"{release}\""));
            assert_eq!(recorded.machine.page_bytes, bytes, "{release}");
        }
    }

    #[test]
    fn the_log_tells_memory_areas_and_the_pool() {
        let recorded = machine(
            "[capture]\nkernel = \"6.1.0-50-amd64\"\ncmdline = \"swiotlb=512,force\"\ncpus = 2\n\
             [dmesg]\nlines = [\"[    0.0]   node   0: [mem 0x0000000000001000-0x000000000009efff]\", \
             \"[    0.0]   node   0: [mem 0x0000000100000000-0x00000001ffffffff]\", \
             \"[    0.1] software IO TLB: area num 4.\", \
             \"[    0.2] Memory: 6056436K/6290936K available (16384K kernel code)\", \
             \"[    1.4] software IO TLB: mapped [mem 0x000000007b926000-0x000000007f926000] (64MB)\", \
             \"[    1.5] Memory Encryption Features active: AMD SEV SEV-ES\"]",
        );
        assert_eq!(recorded.machine.cpus, 4);
        assert_eq!(recorded.machine.ram_bytes, 6_290_936 * 1024);
        assert!(recorded.machine.has_unreachable_memory && recorded.machine.is_confidential);
        assert_eq!(recorded.pool_start, Some(0x7b92_6000));
    }
}
