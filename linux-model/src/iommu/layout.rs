//! Where the entries of a scatterlist lie in its one range of addresses, and what the driver gets.

/// What a device can take as one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentLimits {
    /// No segment crosses a multiple of this mask plus one (`2^n - 1`).
    pub boundary_mask: u64,
    /// The longest segment in bytes.
    pub bytes_max: u64,
}

impl Default for SegmentLimits {
    /// A device whose driver asked for nothing: 4 GiB boundaries, segments of 64 KiB.
    fn default() -> Self {
        Self {
            boundary_mask: u64::from(u32::MAX),
            bytes_max: 64 << 10,
        }
    }
}

/// A list laid out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// Bytes of the range, whole granules.
    pub bytes: u64,
    /// Physical runs in the order in which they are mapped: start and bytes, whole granules.
    pub runs: Vec<(u64, u64)>,
    /// What the driver gets: offset into the range, and bytes.
    pub segments: Vec<(u64, u64)>,
}

/// One entry rounded out to granules.
struct Entry {
    /// Into its first granule.
    offset: u64,
    bytes: u64,
    /// First granule.
    phys: u64,
    /// Bytes of the range that it takes, padding up to a boundary included.
    taken: u64,
}

/// Lays out entries of (physical address, bytes).
///
/// Each entry takes whole granules. One that would cross a boundary begins on it instead, for which
/// the entry before is made longer; the range is aligned to its rounded size, so offsets decide.
/// Physically adjacent entries enter the tables as one run. A segment goes on as long as the entry
/// begins at a granule, not at a boundary, right where the last one's bytes ended, and within the
/// longest length.
pub fn lay_out(entries: &[(u64, u64)], granule: u64, limits: &SegmentLimits) -> Layout {
    let entries = padded(entries, granule, limits);
    let mut layout = Layout::default();
    for entry in &entries {
        match layout.runs.last_mut() {
            Some((phys, bytes)) if *phys + *bytes == entry.phys => *bytes += entry.taken,
            _ => layout.runs.push((entry.phys, entry.taken)),
        }
    }
    // Bytes of the open segment; 0 where nothing can be joined to it.
    let mut open = 0;
    for entry in &entries {
        let at = layout.bytes;
        let joins = open > 0
            && entry.offset == 0
            && at & limits.boundary_mask != 0
            && open + entry.bytes <= limits.bytes_max;
        match layout.segments.last_mut() {
            Some((_, bytes)) if joins => {
                *bytes += entry.bytes;
                open += entry.bytes;
            }
            _ => {
                layout.segments.push((at + entry.offset, entry.bytes));
                open = entry.bytes;
            }
        }
        if entry.offset + entry.bytes < entry.taken {
            open = 0;
        }
        layout.bytes += entry.taken;
    }
    layout
}

fn padded(entries: &[(u64, u64)], granule: u64, limits: &SegmentLimits) -> Vec<Entry> {
    let mut padded: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut total: u64 = 0;
    for (phys, bytes) in entries {
        let offset = phys % granule;
        let taken = (offset + bytes).next_multiple_of(granule);
        let pad = limits.boundary_mask.wrapping_sub(total).wrapping_add(1) & limits.boundary_mask;
        if let Some(last) = padded.last_mut().filter(|_| pad > 0 && pad < taken - 1) {
            last.taken += pad;
            total += pad;
        }
        total += taken;
        padded.push(Entry {
            offset,
            bytes: *bytes,
            phys: phys - offset,
            taken,
        });
    }
    padded
}
