//! What each rule makes of a few lines.

use std::io::Cursor;

use super::conclude;
use crate::diagnose::evidence::Evidence;
use crate::diagnose::traced;

/// `cause:certainty` of the findings, best first, and of the notices.
fn answer(text: &str) -> (Vec<String>, usize) {
    let evidence = Evidence::read(Cursor::new(text)).unwrap();
    let (findings, notices) = conclude(&evidence);
    let named = |f: &crate::diagnose::finding::Finding| {
        format!("{}:{}", f.cause.name(), f.certainty.word())
    };
    (findings.iter().map(named).collect(), notices.len())
}

fn first(text: &str) -> String {
    answer(text).0.first().cloned().unwrap_or_default()
}

fn full(size: u64, total: u64, used: u64) -> String {
    format!(
        "x 0:1: swiotlb buffer is full (sz: {size} bytes), total {total} (slots), used {used} (slots)\n"
    )
}

#[test]
fn the_cap_is_exceeded_from_the_first_byte_above_it() {
    assert_eq!(
        first(&full(262_145, 32_768, 0)),
        "request-above-segment-cap:certain"
    );
    assert_eq!(first(&full(262_144, 32_768, 0)), "other:likely");
}

#[test]
fn a_full_pool_is_never_certainly_too_small() {
    assert_eq!(
        answer(&full(4096, 32_768, 32_768)).0,
        ["pool-too-small:likely", "pool-leak:possible"]
    );
}

#[test]
fn a_pool_that_only_fills_looks_like_a_leak() {
    let log = |step: u64| -> String {
        (0..3)
            .map(|n| {
                format!(
                    "[ {}.000000] {}",
                    100 + n * step,
                    full(4096, 1024, 1022 + n)
                )
            })
            .collect()
    };
    assert_eq!(first(&log(100)), "pool-leak:likely");
    assert_eq!(first(&log(1)), "pool-too-small:likely");
}

#[test]
fn scattered_slots_are_told_from_a_layout_that_must_fit() {
    // One used slot per segment cannot break a run of 64 in 128.
    assert_eq!(first(&full(64 * 2048, 1024, 8)), "other:likely");
    // Two can.
    assert_eq!(
        first(&full(64 * 2048, 1024, 16)),
        "pool-fragmented-or-area-full:likely"
    );
}

#[test]
fn without_a_pool_the_mask_is_only_likely() {
    assert_eq!(
        first(&full(81, 0, 0)),
        "address-beyond-mask-no-bounce:likely"
    );
}

#[test]
fn an_overflow_is_certain_only_if_it_is_one() {
    let line = |addr: &str| {
        format!("x 0:1: DMA addr {addr}+4096 overflow (mask ffffffff, bus limit 0).\n")
    };
    assert_eq!(
        first(&line("0x00000000fffff001")),
        "address-beyond-mask-no-bounce:certain"
    );
    assert_eq!(first(&line("0x00000000fffff000")), "other:likely");
    assert_eq!(
        first(&line("0xffffffffffffffff")),
        "address-beyond-mask-no-bounce:likely"
    );
    assert_eq!(first(&line("0x0000800051eab954")), "other:likely");
}

#[test]
fn the_bus_limit_counts_where_it_is_lower() {
    let line =
        "x 0:1: DMA addr 0x00000000fc000000+4096 overflow (mask ffffffff, bus limit fbffffff).\n";
    assert_eq!(first(line), "address-beyond-mask-no-bounce:certain");
}

#[test]
fn noforce_is_certain_with_the_command_line_only() {
    let failure =
        "x 0:1: DMA addr 0x000000010fc14000+4096 overflow (mask ffffffff, bus limit 0).\n";
    let log = format!("Kernel command line: root=/dev/sda swiotlb=65536,noforce\n\n{failure}");
    assert_eq!(answer(&log).0, ["noforce:certain"]);
    assert_eq!(first(failure), "address-beyond-mask-no-bounce:certain");
}

#[test]
fn a_unit_after_swiotlb_slots_is_named() {
    let log = format!(
        "Kernel command line: swiotlb=64M\n\n{}",
        full(65_536, 512, 500)
    );
    assert!(answer(&log).0.contains(&"bad-parameter:certain".to_owned()));
    assert!(
        !answer("Kernel command line: swiotlb=65536\n")
            .0
            .iter()
            .any(|f| f.starts_with("bad"))
    );
}

/// A failed claim with its run list.
fn claim(function: &str, pages: u64, errno: u32, list: &str) -> String {
    format!(
        "cma: {function}: reserved: alloc failed, req-size: {pages} pages, ret: -{errno}\n\
         cma: number of available pages: {list}\n"
    )
}

#[test]
fn more_than_is_free_is_too_small() {
    let log = claim(
        "cma_alloc",
        300,
        12,
        "100@0+120@300=> 220 free of 4096 total pages",
    );
    assert_eq!(first(&log), "cma-too-small:certain");
    let log = claim(
        "__cma_alloc",
        300,
        16,
        "range 0: 100@0+120@300=> 220 free of 4096 total pages",
    );
    assert_eq!(first(&log), "cma-too-small:certain");
}

#[test]
fn runs_below_the_request_prove_fragmentation_only_if_all_are_listed() {
    let log = claim(
        "cma_alloc",
        200,
        12,
        "100@0+120@300=> 220 free of 4096 total pages",
    );
    assert_eq!(first(&log), "cma-fragmented:certain");
    let cut = claim(
        "cma_alloc",
        200,
        12,
        "100@0+120@300=> 400 free of 4096 total pages",
    );
    assert_eq!(first(&cut), "cma-fragmented:likely");
}

#[test]
fn a_long_run_without_an_aligned_start_is_fragmented() {
    let log = claim(
        "cma_alloc",
        3907,
        12,
        "565@69+4029@12355=> 4594 free of 16384 total pages",
    );
    assert_eq!(first(&log), "cma-fragmented:certain");
}

#[test]
fn old_ebusy_proves_busy_and_new_does_not() {
    let old = "cma: cma_alloc: reserved: alloc failed, req-size: 15262 pages, ret: -16\n";
    assert_eq!(first(old), "cma-pinned-or-busy:certain");
    let new = old.replace("cma_alloc:", "__cma_alloc_frozen:");
    assert_eq!(first(&new), "cma-too-small:likely");
    let seen = format!(
        "{new}cma: number of available pages: range 0: 30000@10=> 30000 free of 65536 total pages\n"
    );
    assert_eq!(first(&seen), "cma-pinned-or-busy:certain");
}

#[test]
fn an_interrupted_claim_is_no_matter_of_room() {
    let log = "cma: cma_alloc: reserved: alloc failed, req-size: 1 pages, ret: -4\n";
    assert_eq!(answer(log).0, ["other:likely"]);
}

#[test]
fn a_claim_above_all_areas_is_too_small() {
    let log = "[    0.000000] cma: Reserved 16 MiB at 0x3f000000\n\
               [    9.000000] cma: cma_alloc: alloc failed, req-size: 8192 pages, ret: -12\n";
    assert_eq!(first(log), "cma-too-small:certain");
}

#[test]
fn one_busy_page_without_a_failure_is_probably_harmless() {
    let busy = "[ 77.100000] alloc_contig_range: [106f118, 106f119) PFNs busy\n";
    assert_eq!(first(busy), "harmless:likely");
    let failed =
        format!("{busy}[ 77.200000] xhci-hcd: probe of xhci-hcd.0.auto failed with error -12\n");
    assert_eq!(first(&failed), "cma-pinned-or-busy:certain");
}

#[test]
fn overlapping_busy_windows_are_tries_of_one_request() {
    let log = "[ 1.000000] alloc_contig_range: [2fc00, 2fd0a) PFNs busy\n\
               [ 1.000001] alloc_contig_range: [2fd00, 2fe0a) PFNs busy\n";
    assert_eq!(first(log), "cma-pinned-or-busy:certain");
}

#[test]
fn the_last_fallback_is_not_blamed() {
    let log = "x 0:1: swiotlb buffer is full (sz: 8388608 bytes)\nswiotlb: coherent allocation failed for device 0:1 size=8388608\n";
    assert_eq!(first(log), "cma-absent:likely");
    let empty = format!("Memory: 16K/32K available (0K reserved, 0K cma-reserved)\n\n{log}");
    assert_eq!(first(&empty), "cma-absent:certain");
}

#[test]
fn fault_bits_decide() {
    let smmu = |fsr: &str| {
        format!(
            "arm-smmu 5.iommu: Unhandled context fault: fsr={fsr}, iova=0x1000, fsynr=0x11, cb=1\n"
        )
    };
    assert_eq!(first(&smmu("0x402")), "iommu-fault-unmapped:certain");
    assert_eq!(first(&smmu("0x408")), "iommu-fault-permission:certain");
    assert_eq!(first(&smmu("0x40a")), "iommu-fault-unmapped:likely");
    assert_eq!(first(&smmu("0x404")), "other:likely");
    let amd = |flags: &str| {
        format!(
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=01:00.0 domain=0x0013 address=0x1000 flags={flags}]\n"
        )
    };
    assert_eq!(first(&amd("0x0020")), "iommu-fault-unmapped:certain");
    assert_eq!(first(&amd("0x0050")), "iommu-fault-permission:certain");
    assert_eq!(first(&amd("0x0030")), "iommu-fault-permission:likely");
    assert_eq!(first(&amd("0x0008")), "other:likely");
}

#[test]
fn a_second_level_permission_bit_is_ambiguous_but_at_address_zero() {
    let vtd = |addr: &str, reason: &str| {
        format!(
            "DMAR: [DMA Read] Request device [06:00.0] fault addr {addr} [fault reason {reason}] PTE Read access is not set\n"
        )
    };
    assert_eq!(
        answer(&vtd("ff000000", "06")).0,
        [
            "iommu-fault-unmapped:likely",
            "iommu-fault-permission:possible"
        ]
    );
    assert_eq!(answer(&vtd("0", "0x06")).0, ["iommu-fault-unmapped:likely"]);
}

#[test]
fn a_reason_on_its_own_line_is_joined() {
    let log = "[    1.000000] DMAR:[DMA Write] Request device [00:02.0] fault addr 7f6a000 \n\
               [    1.000001] DMAR:[fault reason 0x71] SM: Present bit in first-level paging entry is clear\n";
    assert_eq!(first(log), "iommu-fault-unmapped:certain");
}

#[test]
fn a_raised_memlock_limit_is_only_likely_too_low() {
    let line = |limit: u64| format!("vfio_pin_pages_remote: RLIMIT_MEMLOCK ({limit}) exceeded\n");
    assert_eq!(first(&line(65_536)), "memlock-limit:certain");
    assert_eq!(first(&line(9_663_676_416)), "memlock-limit:likely");
}

#[test]
fn no_space_is_the_entry_limit_unless_the_guest_runs_on() {
    let failed = "qemu-kvm: VFIO_MAP_DMA failed: No space left on device\n";
    assert_eq!(first(failed), "vfio-entry-limit:certain");
    assert_eq!(
        first(&format!("{failed}VM status: running\n")),
        "harmless:certain"
    );
}

#[test]
fn level_one_bits_of_an_indirect_table_are_not_device_bits() {
    let log = "ITS@0x1: Devices Table too large, reduce ids 15->12\n\
               ITS@0x1: allocated 4096 Devices @4 (indirect, esz 8, psz 64K, shr 1)\n";
    let evidence = Evidence::read(Cursor::new(log)).unwrap();
    let (findings, _) = conclude(&evidence);
    assert!(
        findings[0].arithmetic.contains("28 id bits"),
        "{}",
        findings[0].arithmetic
    );
}

#[test]
fn misuse_is_a_leak_or_double_unmap_only_where_it_is_one() {
    let line = |text: &str| format!("DMA-API: e1000 0000:00:03.0: device driver {text}\n");
    assert_eq!(
        first(&line(
            "tries to free DMA memory it has not allocated [size=0 bytes]"
        )),
        "driver-bug-double-unmap-or-leak:certain"
    );
    assert_eq!(
        first(&line("failed to check map error[size=0 bytes]")),
        "other:likely"
    );
}

#[test]
fn notices_stand_apart_from_failures() {
    let notice =
        "software IO TLB: Memory encryption is active and system is using DMA bounce buffers\n\n";
    assert_eq!(answer(notice), (vec!["harmless:certain".to_owned()], 0));
    let both = format!("{notice}{}", full(2_097_152, 524_288, 0));
    assert_eq!(
        answer(&both),
        (vec!["request-above-segment-cap:certain".to_owned()], 1)
    );
}

#[test]
fn a_trace_shows_failed_maps() {
    let trace = |size: u64| {
        let bounced = format!(
            "dev_name: 0000:00:01.0 dma_mask=ffffffffffffffff dev_addr=3792000 size={size} FORCE"
        );
        let failed = format!(
            "0000:00:01.0 dir=TO_DEVICE dma_addr=ffffffffffffffff size={size} phys_addr=3792000 attrs="
        );
        format!(
            "             fio-7       [001] .....     6.964866: swiotlb_bounced: {bounced}\n\
             \x20            fio-7       [001] .....     6.964870: dma_map_page: {failed}\n"
        )
    };
    let first = |text: String| {
        let evidence = traced::evidence(Cursor::new(text)).unwrap();
        conclude(&evidence)
            .0
            .first()
            .map(|f| format!("{}:{}", f.cause.name(), f.certainty.word()))
    };
    assert_eq!(
        first(trace(524_288)).as_deref(),
        Some("request-above-segment-cap:certain")
    );
    assert_eq!(
        first(trace(65_536)).as_deref(),
        Some("pool-too-small:likely")
    );
}

#[test]
fn a_snapshot_shows_a_pool_that_was_full() {
    let snapshot = "/sys/kernel/debug/swiotlb/io_tlb_nslabs:512\n/sys/kernel/debug/swiotlb/io_tlb_used:3\n/sys/kernel/debug/swiotlb/io_tlb_used_hiwater:512\n";
    assert_eq!(first(snapshot), "pool-too-small:likely");
    assert!(
        answer(&snapshot.replace("hiwater:512", "hiwater:4"))
            .0
            .is_empty()
    );
}

#[test]
fn a_snapshot_shows_scattered_areas() {
    let snapshot = |longest: u64| {
        format!(
            "/sys/kernel/debug/cma/reserved/count:16384\n/sys/kernel/debug/cma/reserved/used:8192\n\
             /sys/kernel/debug/cma/reserved/maxchunk:{longest}\n"
        )
    };
    assert_eq!(first(&snapshot(250)), "cma-fragmented:possible");
    assert!(answer(&snapshot(8000)).0.is_empty());
}

#[test]
fn quoted_printable_mail_is_decoded() {
    let log = "[ 2333.037005] cma: cma_alloc: alloc failed, req-size: 500000 pages, ret: -=\n16\n\
               [ 2333.037006] cma: number of available pages: 6@122+2096848@30=\n4=3D> 2096854 free of 2097152 total pages\n";
    assert_eq!(answer(log).0, ["cma-pinned-or-busy:certain"]);
}
