//! The answer, as numbers.

use dmakit_its::spec::table::PageSize;
use dmakit_its::{Features, Layout};
use serde::Serialize;

/// Contiguous areas come in multiples of this.
const AREA_UNIT: u64 = 4 << 20;

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub features: Features,
    pub devices: u64,
    pub entry: u64,
    pub its_page: PageSize,
    pub page: u64,
    pub max_order: u32,
    pub flat_only: bool,
    pub node: Option<u16>,
}

/// One shape of the device table.
#[derive(Clone, Debug, Serialize)]
pub struct Shape {
    pub levels: u32,
    /// Contiguous bytes at the address in the register.
    pub bytes: u64,
    pub its_pages: u64,
    /// Bytes of each page of the second level, which come one by one.
    pub leaf_bytes: Option<u64>,
    /// Bytes once every ID has been used.
    pub bytes_in_full: u64,
    /// IDs that it serves of those asked for.
    pub ids: u64,
}

impl Shape {
    fn new(layout: &Layout) -> Self {
        Self {
            levels: if layout.is_two_level { 2 } else { 1 },
            bytes: layout.bytes(),
            its_pages: layout.pages,
            leaf_bytes: layout.is_two_level.then(|| layout.page.bytes()),
            bytes_in_full: layout.bytes_in_full(),
            ids: layout.ids,
        }
    }
}

/// What a page allocator leaves of a flat table.
#[derive(Clone, Debug, Serialize)]
pub struct Allocator {
    pub page_bytes: u64,
    pub max_order: u32,
    pub run_bytes_max: u64,
    /// Device IDs that a flat table in its largest run serves, a power of two.
    pub ids: u64,
    pub ids_lost: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct ItsReport {
    pub typer: String,
    pub device_bits: u32,
    pub event_bits: u32,
    pub event_entry_bytes: u64,
    pub devices: u64,
    pub entry_bytes: u64,
    pub its_page_bytes: u64,
    pub flat: Shape,
    pub two_level: Option<Shape>,
    pub allocator: Allocator,
    /// The shape to use: 1 or 2 levels; absent where none serves.
    pub levels: Option<u32>,
    /// The boot parameter for contiguous memory; absent where none is needed.
    pub reservation: Option<String>,
}

impl ItsReport {
    pub fn new(question: &Question) -> Self {
        let Question {
            features,
            devices,
            entry,
            its_page,
            page,
            max_order,
            ..
        } = *question;
        let flat = Shape::new(&Layout::flat(devices, entry, its_page));
        let two_level =
            (!question.flat_only).then(|| Shape::new(&Layout::two_level(devices, entry, its_page)));
        let run_bytes_max = page << max_order;
        let left = match flat.bytes > run_bytes_max {
            // Linux keeps whole bits of the ID.
            true => 1 << (run_bytes_max / entry).max(1).ilog2(),
            false => flat.ids,
        };
        let allocator = Allocator {
            page_bytes: page,
            max_order,
            run_bytes_max,
            ids: left,
            ids_lost: devices - left,
        };
        let serves = |shape: &Shape| shape.ids == devices;
        // Two levels where there are any and the flat table is more than an allocator has.
        let two = two_level
            .as_ref()
            .filter(|two| serves(two) && (flat.bytes > run_bytes_max || !serves(&flat)));
        let levels = match two {
            Some(_) => Some(2),
            None => serves(&flat).then_some(1),
        };
        let needed = two.map_or(flat.bytes, |two| two.bytes);
        let reservation = levels
            .filter(|_| needed > run_bytes_max)
            .map(|_| reservation(needed, question.node));
        Self {
            typer: format!("{:#x}", features.typer),
            device_bits: features.device_bits,
            event_bits: features.event_bits,
            event_entry_bytes: features.event_entry_bytes,
            devices,
            entry_bytes: entry,
            its_page_bytes: its_page.bytes(),
            flat,
            two_level,
            allocator,
            levels,
            reservation,
        }
    }

    /// The parameter that would hold the flat table, needed or not.
    pub fn flat_reservation(&self, node: Option<u16>) -> String {
        reservation(self.flat.bytes, node)
    }
}

fn reservation(bytes: u64, node: Option<u16>) -> String {
    let mib = bytes.next_multiple_of(AREA_UNIT) >> 20;
    match node {
        Some(node) => format!("numa_cma={node}:{mib}M"),
        None => format!("cma_pernuma={mib}M"),
    }
}
