//! What the machine says about itself.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use dmakit_trace::sidecar::{Capture, PciDevice};
use rustix::fs::OFlags;

use super::root::{Root, link_name, names, number};

/// Words that make a line of the kernel's log worth keeping.
const WORDS: [&str; 12] = [
    "Command line",
    "software IO TLB",
    "swiotlb",
    "SWIOTLB",
    "cma",
    "CMA",
    "DMA",
    "dma",
    "DMAR",
    "iommu",
    "IOMMU",
    "Memory:",
];

/// The most lines kept: the first half of them and the last.
const LINES_MAX: usize = 200;

/// The kernel's log is never larger.
const LOG_BYTES_MAX: usize = 64 << 20;

/// Kernel, command line, CPUs and memory.
pub fn capture(root: &Root) -> Capture {
    let memory = root.text("proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    let online = root.text("sys/devices/system/cpu/online");
    Capture {
        kernel: root.text("proc/sys/kernel/osrelease"),
        swiotlb_dynamic: is_dynamic(root),
        arch: root
            .text("proc/sys/kernel/arch")
            .or_else(|| root.is_own().then(|| std::env::consts::ARCH.to_owned())),
        cmdline: root.text("proc/cmdline"),
        cpus: online.as_deref().and_then(count_listed),
        mem_total_kib: total,
        trace_clock: Some("mono".to_owned()),
        ..Capture::default()
    }
}

/// Only kernels that can grow their pool count the slots of transient ones.
fn is_dynamic(root: &Root) -> Option<bool> {
    let counters = root.path("sys/kernel/debug/swiotlb");
    counters
        .join("io_tlb_nslabs")
        .exists()
        .then(|| counters.join("io_tlb_transient_nslabs").exists())
}

/// `0-3,8` are five.
fn count_listed(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// PCI functions in the order of their addresses.
pub fn pci(root: &Root) -> Vec<PciDevice> {
    let all = root.path("sys/bus/pci/devices");
    let of = |address: String| {
        let dir = all.join(&address);
        let field = |name: &str| number(&dir.join(name));
        let small = |name: &str| u16::try_from(field(name)?).ok();
        PciDevice {
            id: small("vendor").zip(small("device")),
            class: field("class").and_then(|class| u32::try_from(class).ok()),
            // -1, no node, is no such number.
            node: field("numa_node").and_then(|node| u32::try_from(node).ok()),
            driver: link_name(&dir.join("driver")),
            dma_mask_bits: field("dma_mask_bits").and_then(|bits| u32::try_from(bits).ok()),
            iommu_group: link_name(&dir.join("iommu_group")).and_then(|name| name.parse().ok()),
            address,
        }
    };
    names(&all).into_iter().map(of).collect()
}

/// Lines of the kernel's log that concern DMA, as `dmesg` prints them.
pub fn dmesg(root: &Root) -> Vec<String> {
    let log = log(root).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let mut is_open = false;
    let mut lines: Vec<String> = log
        .lines()
        .filter_map(as_dmesg)
        .filter(|line| concerns_dma(line, &mut is_open))
        .collect();
    if lines.len() > LINES_MAX {
        lines.drain(LINES_MAX / 2..lines.len() - LINES_MAX / 2);
    }
    lines
}

/// Whether a line is worth keeping. A list of free runs that does not fit one record of the log goes
/// on in the next ones, without any of the words: `is_open` says whether one does.
fn concerns_dma(line: &str, is_open: &mut bool) -> bool {
    let text = line.split_once("] ").map_or(line, |(_, text)| text);
    let goes_on = *is_open && text.starts_with(|c: char| "+=".contains(c) || c.is_ascii_digit());
    let begins = text.contains("available pages: ");
    *is_open = (begins || goes_on) && !text.contains("=>");
    goes_on || WORDS.iter().any(|word| line.contains(word))
}

fn log(root: &Root) -> io::Result<Vec<u8>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(root.path("dev/kmsg"))?;
    let mut log = Vec::new();
    // Each read gives one record, and fails where the room is too small for it.
    let mut record = vec![0; 16 << 10];
    while log.len() < LOG_BYTES_MAX {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(count) => log.extend_from_slice(&record[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Records that were overwritten while this read: the next read goes on behind them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(log)
}

/// `6,123,4567890,-;text` as `[    4.567890] text`; lines of extra fields are left out.
fn as_dmesg(line: &str) -> Option<String> {
    let (prefix, text) = line.split_once(';')?;
    let micros: u64 = prefix.split(',').nth(2)?.parse().ok()?;
    Some(format!(
        "[{:5}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_free_runs_is_kept_to_its_end() {
        let mut is_open = false;
        let lines = [
            ("[    1.0] cma: number of available pages: 8@8", true),
            ("[    1.1] +16@48", true),
            ("[    1.2] => 24 free of 512 total pages", true),
            ("[    1.3] +16@48", false),
        ];
        for (line, kept) in lines {
            assert_eq!(concerns_dma(line, &mut is_open), kept, "{line}");
        }
    }

    #[test]
    fn ranges_of_cpus_are_counted() {
        assert_eq!(count_listed("0"), Some(1));
        assert_eq!(count_listed("0-3,8"), Some(5));
        assert_eq!(count_listed("3-0"), None);
        assert_eq!(count_listed(""), None);
    }

    #[test]
    fn records_of_the_log_read_as_dmesg_prints_them() {
        let line = "6,345,2382687,-;software IO TLB: area num 2.";
        let said = "[    2.382687] software IO TLB: area num 2.";
        assert_eq!(as_dmesg(line).as_deref(), Some(said));
        assert_eq!(as_dmesg(" SUBSYSTEM=pci"), None);
    }
}
