//! The kernel parameters that concern DMA memory.

/// Every parameter that is understood or carried along, sorted. Names ending in `=` take a value.
///
/// Source: the kernel's parameter documentation and the options of the drivers named.
pub const DMA_PARAMETERS: &[&str] = &[
    "amd_iommu=",
    "amd_iommu_dump",
    "arm-smmu-v3.disable_msipolling=",
    "arm-smmu.disable_bypass=",
    "cma=",
    "cma_pernuma=",
    "coherent_pool=",
    "dma_debug=",
    "dma_debug_driver=",
    "dma_debug_entries=",
    "hugetlb_cma=",
    "intel_iommu=",
    "iommu=",
    "iommu.forcedac=",
    "iommu.passthrough=",
    "iommu.strict=",
    "irqchip.gicv3_nolpi=",
    "kernelcore=",
    "mem_encrypt=",
    "movable_node",
    "movablecore=",
    "numa_cma=",
    "pci=",
    "swiotlb=",
    "vfio_iommu_type1.dma_entry_limit=",
    "vfio_iommu_type1.disable_hugepages=",
];

/// The known parameter nearest to a name (without `=`), for a suggestion; `None` if none is near.
pub fn nearest_parameter(name: &str) -> Option<&'static str> {
    let folded = fold(name);
    if folded == "pernuma_cma" {
        // Its name until it was merged.
        return Some("cma_pernuma");
    }
    DMA_PARAMETERS
        .iter()
        .map(|known| known.trim_end_matches('='))
        .map(|known| (distance(&folded, &fold(known)), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Linux takes `-` for `_` in parameter names.
pub(super) fn fold(name: &str) -> String {
    name.trim_end_matches('=')
        .replace('-', "_")
        .to_ascii_lowercase()
}

/// Edits from one to the other: insert, delete, replace, or swap of neighbours. O(a × b).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}
