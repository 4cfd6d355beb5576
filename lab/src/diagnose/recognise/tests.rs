//! Each recogniser reads at least one line as a kernel prints it.

use regex_lite::Regex;

use super::Table;

/// Lines in the kernels' own words, one or more for each recogniser.
const LINES: &[&str] = &[
    "vc4-drm gpu: swiotlb buffer is full (sz: 524288 bytes), total 32768 (slots), used 68 (slots)",
    "dwc3 38200000.dwc3: DMA: Out of SW-IOMMU space for 16384 bytes",
    "swiotlb: coherent allocation failed for device udmabuf.0 size=8388608",
    "mt7921e 0000:04:00.0: DMA addr 0x0000000117eaf000+4096 overflow (mask ffffffff, bus limit 0).",
    "pci 0000:00:1a.0: dma_direct_map_page: overflow 0x000000026bcb5002+110 of device mask ffffffff bus mask 0",
    "iwlwifi 0000:02:00.0: hwdev DMA mask = 0x0000000fffffffff, dev_addr = 0x0000000064a9b000",
    "nvme 0000:01:00.0: Can not allocate SWIOTLB buffer earlier and can't now provide you with the DMA bounce buffer",
    "e1000 0000:00:03.0: Cannot do DMA to address 0x000000011fd470da",
    "software IO TLB: mapped [mem 0x000000006e42a000-0x000000007242a000] (64MB)",
    "software IO TLB: Cannot allocate buffer",
    "software IO TLB: Memory encryption is active and system is using DMA bounce buffers",
    "PCI-DMA: Using software bounce buffering for IO (SWIOTLB)",
    "/sys/kernel/debug/swiotlb/io_tlb_nslabs:32768",
    "Kernel command line: root=/dev/sda swiotlb=noforce",
    "Malformed early option 'cma'",
    "AMD-Vi: Unknown option - 'pt'",
    "Unknown kernel command line parameters \"splash swiotlb.x=1\", will be passed to user space.",
    "xhci_hcd 0000:00:14.0: rejecting DMA map of vmalloc memory",
    "xhci_hcd 0000:00:14.0: transfer buffer is on stack",
    "sp : ffff800011eab540",
    "RSP: 0018:ffffc90000013d48 EFLAGS: 00010246",
    "udmabuf udmabuf0: buffer size    = 134217728",
    "Memory: 949468K/1048576K available (13312K kernel code, 65536K cma-reserved)",
    "cma: cma_alloc: linux,cma: alloc failed, req-size: 148 pages, ret: -16",
    "cma: number of available pages: 4@572+7@585=> 11 free of 2048 total pages",
    "cma: range 0: 100@0+120@300",
    "cma: => 220 free of 4096 total pages",
    "cma: cma_alloc(): memory range at ffffea000f0a0000 is busy, retrying",
    "alloc_contig_range: [2fc00, 2fd0a) PFNs busy",
    "alloc_contig_range test_pages_isolated(2fc00, 2fd0a) failed",
    "cma: dma_contiguous_reserve: reserving 64 MiB for global area",
    "cma: Failed to reserve 2048MiB",
    "OF: reserved mem: failed to allocate memory for node 'linux,cma'",
    "Reserved memory: unable to setup CMA region",
    "hugetlb_cma: reservation failed: err -12, node 1",
    "cma: CMA area reserved could not be activated",
    "cma: Reserved 64 MiB at 0x000000003b800000",
    "Reserved memory: created CMA memory pool at 0x000000003b400000, size 64 MiB",
    "/sys/kernel/debug/cma/reserved/maxchunk:250",
    "CmaTotal:         262144 kB",
    "OF: reserved mem: node linux,cma compatible matching fail",
    "Reserved memory: bypass linux,cma node, using cmdline CMA params instead",
    "DMA-API: mlx5_core 0000:08:00.1: device driver tries to free DMA memory it has not allocated [device address=0x0] [size=0 bytes]",
    "DMA-API: ftgmac100 1e670000.ftgmac: device driver frees DMA memory with different size [map size=1536 bytes] [unmap size=42 bytes]",
    "pci 0000:0c:00.6: DMA-API: device driver has pending DMA allocations while released from device [count=5]",
    "DMA-API: exceeded 7 overlapping mappings of cacheline 0x0117cc3a",
    "DMA-API: debugging out of memory - disabling",
    "DMA-API: e1000 0000:00:03.0: device driver failed to check map error[device address=0x7fff] [size=4096 bytes]",
    "arm-smmu 5000000.iommu: Unhandled context fault: fsr=0x402, iova=0xf9800000, fsynr=0x3f0022, cbfrsynra=0x828, cb=8",
    "arm-smmu 15000000.iommu: FSR    = 00000402 [TF ], SID=0x19c3",
    "arm-smmu 2b400000.iommu: Unexpected global fault, this could be serious",
    "arm-smmu 2b400000.iommu: Blocked unknown Stream ID 0x800; boot with \"arm-smmu.disable_bypass=0\" to allow",
    "arm-smmu-v3 arm-smmu-v3.0.auto: event 0x10 received:",
    "arm-smmu-v3 arm-smmu-v3.0.auto: 0x00000180 00000010",
    "0x0000020100000000",
    "arm-smmu-v3 arm-smmu-v3.5.auto: event: F_TRANSLATION client: 0001:06:00.0 sid: 0x20600 ssid: 0x0 iova: 0xff9bc000 ipa: 0x0",
    "ath10k_pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]",
    "AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=00:00.0 address=0xfffffffdf8000000 flags=0x0a00]",
    "DMAR: [DMA Write] Request device [00:12.0] fault addr 0 [fault reason 05] PTE Write access is not set",
    "DMAR:[fault reason 06] PTE Read access is not set",
    "DMAR: ERROR: DMA PTE for vPFN 0xf1f7e already set (to f1f7e003 not 173025001)",
    "rk_iommu fd7b0000.iommu: Page fault at 0x0000000000c00000 of type read",
    "DMAR: VT-d detected Invalidation Time-out Error: SID 0",
    "DMAR: [INTR-REMAP] Request device [f0:1f.7] fault index 0 [fault reason 0x22] Present field in the IRTE entry is clear",
    "vfio-pci 0000:05:00.0: Device is ineligible for IOMMU domain attach due to platform RMRR requirement.",
    "vfio_pin_pages_remote: RLIMIT_MEMLOCK (4194304) exceeded",
    "[1234] RLIMIT_MEMLOCK +65536 4096/65536 - exceeded",
    "libibverbs: Warning: RLIMIT_MEMLOCK is 65536 bytes.",
    "SEV: 1024 locked pages exceed the lock limit of 16.",
    "qemu: vfio_register_ram_discard_listener: possibly running out of DMA mappings.",
    "qemu-kvm: VFIO_MAP_DMA failed: No space left on device",
    "qemu-kvm: VFIO_MAP_DMA failed: Cannot allocate memory",
    "qemu-kvm: VFIO_MAP_DMA failed: Invalid argument",
    "EAL: Cannot set up DMA remapping, error 28",
    "qemu-kvm: vfio_dma_map(0x55, 0x0, 0xa0000, 0x7efcc7e00000) = -22",
    "qemu: hardware error: vfio: DMA mapping failed, unable to continue",
    "VM status: running",
    "ERROR: 256 KiB atomic DMA coherent pool is too small!",
    "DMA pool exhausted for 30be0000.ethernet",
    "Failed to get suitable pool for 30be0000.ethernet",
    "coherent pool not initialised!",
    "DMA: failed to allocate 1024 KiB GFP_KERNEL pool for atomic allocation",
    "imx7-csi 21c4000.csi: dma_alloc_coherent of size 33177600 failed",
    "vc4-drm soc:gpu: failed to allocate buffer with size 1089536",
    "xhci-hcd: probe of xhci-hcd.0.auto failed with error -12",
    "mydrv: got -ENOMEM",
    "PCI-DMA: Out of IOMMU space for 53248 bytes at device 0000:03:05.0",
    "PCI-DMA: Reserving 64MB of IOMMU area in the AGP aperture",
    "lpfc 0003:0b:00.0: iommu_alloc failed, tbl 00000000a1 vaddr 00000000b2 npages 16",
    "SBA: I/O MMU @ fed00000 is out of mapping resources",
    "DMAR: Allocating 16-page iova for 0000:00:1f.2 failed",
    "CAM-SMMU: IOVA alloc failed for shared memory, size=9179136, idx=2, cb:icp",
    "host1x 13e00000.host1x: failed to allocate iova",
    "ice 0000:00:05.0: Using 64-bit DMA addresses",
    "ITS@0x0000000001820000: Devices Table too large, reduce ids 20->19",
    "ITS@0x0000000001820000: table too large, reduce ids 20->19",
    "ITS@0x0000006000100000: Devices too large, reduce ITS pages 1024->256",
    "ITS@0x0000000001820000: allocated 524288 Devices @80800000 (flat, esz 8, psz 64K, shr 0)",
];

#[test]
fn every_pattern_compiles() {
    for (row, _) in Table::new().rows {
        assert!(Regex::new(row.pattern).is_ok(), "{}", row.pattern);
    }
}

#[test]
fn every_line_is_recognised() {
    let table = Table::new();
    for line in LINES {
        assert!(table.recognise(line, line.len()).is_some(), "{line}");
    }
}

/// A needle that a match need not contain would hide lines.
#[test]
fn every_recogniser_reads_a_line_that_has_its_needle() {
    for (row, _) in Table::new().rows {
        let regex = Regex::new(row.pattern).unwrap();
        let reads = |line: &&str| {
            line.contains(row.needle)
                && regex
                    .captures(line)
                    .is_some_and(|found| (row.read)(&found).is_some())
        };
        assert!(LINES.iter().any(reads), "no line for {}", row.pattern);
    }
}

#[test]
fn ordinary_lines_are_not_evidence() {
    let table = Table::new();
    for line in [
        "Linux version 6.12.0 (gcc 12.2.0)",
        "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
        "iommu: Default domain type: Translated",
        "cma: dma_contiguous_remap done",
        "DMAR: DRHD: handling fault status reg 2",
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
        "software IO TLB: area num 4.",
    ] {
        assert_eq!(table.recognise(line, line.len()), None, "{line}");
    }
}
