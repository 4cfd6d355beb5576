//! From an event's name and text to what it says.
//!
//! The same text is printed by ftrace, by `trace-cmd report` and by `perf script`; only what stands
//! before it differs. Fields are looked up by name, in the kernel's order, so a later kernel may add
//! some.

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, PhysAddr};

use super::fields::{Expected, Fields, attributes, decimal, hex};
use super::{other, raw_fields, two_step};
use crate::name::Names;
use crate::{
    AllocCall, Allocation, Body, Bounced, Fidelity, MapCall, MapPage, MapSg, MapSgError, Name,
    Shown, Sync, SyncFor, SyncSg, UnmapPage, UnmapSg,
};

/// What event parsers share: names handed out, and counts of what was not understood.
#[derive(Default)]
pub(crate) struct Vocabulary {
    pub(crate) names: Names,
    pub(crate) fidelity: Fidelity,
}

impl Vocabulary {
    pub(crate) fn name(&mut self, text: &str) -> Name {
        self.names.name(text)
    }

    fn attributes(&mut self, fields: &mut Fields<'_>) -> Attributes {
        let (set, unknown) = attributes(fields.optional("attrs").unwrap_or(""));
        self.fidelity.unknown_attributes += unknown;
        set
    }

    pub(crate) fn note_truncation(&mut self, body: &Body) {
        if let Body::MapSg(sg) = body {
            let hidden = sg.hidden_entries();
            self.fidelity.truncated_lists += u64::from(hidden > 0);
            self.fidelity.truncated_entries += u64::from(hidden);
        }
    }
}

/// The address that stands for failure.
pub(crate) fn mapped(dma: u64) -> Option<DmaAddr> {
    (dma != u64::MAX).then_some(DmaAddr::new(dma))
}

/// What the event `name` with this text says.
pub(crate) fn parse(name: &str, text: &str, words: &mut Vocabulary) -> Result<Body, Expected> {
    if text.starts_with(raw_fields::MARK) {
        return raw_fields::parse(name, text, words);
    }
    if raw_fields::is_bare(text) {
        return Err(raw_fields::BARE);
    }
    let fields = Fields::new(text);
    let body = match name {
        "swiotlb_bounced" => bounced(fields, words)?,
        "dma_map_page" => map(fields, MapCall::Page, words)?,
        "dma_map_phys" => map(fields, MapCall::Phys, words)?,
        "dma_map_resource" => map(fields, MapCall::Resource, words)?,
        "dma_unmap_page" => unmap(fields, MapCall::Page, words)?,
        "dma_unmap_phys" => unmap(fields, MapCall::Phys, words)?,
        "dma_unmap_resource" => unmap(fields, MapCall::Resource, words)?,
        "dma_map_sg" => map_sg(fields, words)?,
        "dma_map_sg_err" => map_sg_error(fields, words)?,
        "dma_unmap_sg" => unmap_sg(fields, words)?,
        "dma_sync_single_for_cpu" => sync(fields, SyncFor::Cpu, words)?,
        "dma_sync_single_for_device" => sync(fields, SyncFor::Device, words)?,
        "dma_sync_sg_for_cpu" => sync_sg(fields, SyncFor::Cpu, words)?,
        "dma_sync_sg_for_device" => sync_sg(fields, SyncFor::Device, words)?,
        "dma_alloc" => Body::Alloc(allocation(fields, AllocCall::Coherent, words)?),
        "dma_alloc_pages" => Body::Alloc(allocation(fields, AllocCall::Pages, words)?),
        "dma_alloc_sgt" => Body::Alloc(allocation(fields, AllocCall::Sgt, words)?),
        "dma_alloc_sgt_err" => {
            let mut refused = allocation(fields, AllocCall::Sgt, words)?;
            refused.dma = None;
            Body::Alloc(refused)
        }
        "dma_free" => Body::Free(allocation(fields, AllocCall::Coherent, words)?),
        "dma_free_pages" => Body::Free(allocation(fields, AllocCall::Pages, words)?),
        "dma_free_sgt" => Body::Free(allocation(fields, AllocCall::Sgt, words)?),
        "dma_iova_reserve" | "dma_iova_link" | "dma_iova_unlink" | "dma_iova_withhold"
        | "dma_iova_readmit" | "dma_iova_destroy" | "dma_map_peer" | "dma_unmap_peer" => {
            Body::Stage(two_step::parse(name, fields, words)?)
        }
        _ => other::parse(name, text, words)?,
    };
    words.note_truncation(&body);
    Ok(body)
}

pub(super) fn device(fields: &mut Fields<'_>, words: &mut Vocabulary) -> Result<Name, Expected> {
    let name = before(fields, " dir=", "a device name and dir=")?;
    Ok(words.name(name))
}

/// Everything before `mark`, which is not passed.
fn before<'a>(
    fields: &mut Fields<'a>,
    mark: &str,
    expected: Expected,
) -> Result<&'a str, Expected> {
    let mut ahead = *fields;
    let text = ahead.until(mark, expected)?;
    *fields = Fields::new(&fields.rest()[text.len()..]);
    Ok(text)
}

fn bounced(mut fields: Fields<'_>, words: &mut Vocabulary) -> Result<Body, Expected> {
    const MASK: Expected = "dma_mask= in hexadecimal";
    fields.until("dev_name: ", "dev_name: before the device")?;
    let device = words.name(fields.until(" dma_mask=", MASK)?);
    let dma_mask = DmaMask::up_to(hex(fields.piece().ok_or(MASK)?).ok_or(MASK)?);
    let original = fields.hex("dev_addr", "dev_addr= in hexadecimal")?;
    let size = fields.decimal("size", "size= in decimal")?;
    let forced = match fields.piece() {
        Some("FORCE") => true,
        Some("NORMAL") => false,
        _ => return Err("FORCE or NORMAL at the end"),
    };
    Ok(Body::Bounced(Bounced {
        device,
        dma_mask,
        original: PhysAddr::new(original),
        size,
        forced,
    }))
}

fn map(mut fields: Fields<'_>, call: MapCall, words: &mut Vocabulary) -> Result<Body, Expected> {
    Ok(Body::Map(MapPage {
        device: device(&mut fields, words)?,
        direction: fields.direction()?,
        dma: mapped(fields.hex("dma_addr", "dma_addr= in hexadecimal")?),
        size: fields.decimal("size", "size= in decimal")?,
        phys: PhysAddr::new(fields.hex("phys_addr", "phys_addr= in hexadecimal")?),
        attributes: words.attributes(&mut fields),
        call,
    }))
}

fn unmap(mut fields: Fields<'_>, call: MapCall, words: &mut Vocabulary) -> Result<Body, Expected> {
    Ok(Body::Unmap(UnmapPage {
        device: device(&mut fields, words)?,
        direction: fields.direction()?,
        dma: DmaAddr::new(fields.hex("dma_addr", "dma_addr= in hexadecimal")?),
        size: fields.decimal("size", "size= in decimal")?,
        attributes: words.attributes(&mut fields),
        call,
    }))
}

fn phys_list(fields: &mut Fields<'_>) -> Result<Vec<PhysAddr>, Expected> {
    let list = fields.list("phys_addrs", "phys_addrs={0x…,…}")?;
    Ok(list.into_iter().map(PhysAddr::new).collect())
}

fn dma_list(fields: &mut Fields<'_>) -> Result<Vec<DmaAddr>, Expected> {
    let list = fields.list("dma_addrs", "dma_addrs={0x…,…}")?;
    Ok(list.into_iter().map(DmaAddr::new).collect())
}

/// `a/b`: how many are shown and how many there are.
fn shown(text: &str) -> Option<Shown> {
    let (shown, total) = text.split_once('/')?;
    Some(Shown {
        shown: u32::try_from(decimal(shown)?).ok()?,
        total: u32::try_from(decimal(total)?).ok()?,
    })
}

fn map_sg(mut fields: Fields<'_>, words: &mut Vocabulary) -> Result<Body, Expected> {
    const COUNTS: Expected = "nents=shown/total ents=shown/total";
    let device = device(&mut fields, words)?;
    let direction = fields.direction()?;
    // Kernels before 6.12.95 and 6.14 print the lists alone.
    let (entries, segments) = match fields.optional("nents") {
        Some(nents) => {
            let entries = shown(nents).ok_or(COUNTS)?;
            let segments = shown(fields.required("ents", COUNTS)?).ok_or(COUNTS)?;
            (Some(entries), Some(segments))
        }
        None => (None, None),
    };
    let dma = dma_list(&mut fields)?;
    let sizes = fields.list("sizes", "sizes={0x…,…}")?;
    if sizes.len() != dma.len() {
        return Err("as many sizes as dma_addrs");
    }
    Ok(Body::MapSg(Box::new(MapSg {
        device,
        direction,
        dma,
        sizes,
        phys: phys_list(&mut fields)?,
        entries,
        segments,
        attributes: words.attributes(&mut fields),
    })))
}

fn map_sg_error(mut fields: Fields<'_>, words: &mut Vocabulary) -> Result<Body, Expected> {
    const ERROR: Expected = "err= in decimal";
    let device = device(&mut fields, words)?;
    let direction = fields.direction()?;
    // The list is labelled dma_addrs and holds physical addresses.
    let phys = dma_list(&mut fields)?
        .into_iter()
        .map(|a| PhysAddr::new(a.raw()))
        .collect();
    let error = fields.required("err", ERROR)?.parse().map_err(|_| ERROR)?;
    Ok(Body::MapSgError(Box::new(MapSgError {
        device,
        direction,
        phys,
        error,
        attributes: words.attributes(&mut fields),
    })))
}

fn unmap_sg(mut fields: Fields<'_>, words: &mut Vocabulary) -> Result<Body, Expected> {
    Ok(Body::UnmapSg(Box::new(UnmapSg {
        device: device(&mut fields, words)?,
        direction: fields.direction()?,
        phys: phys_list(&mut fields)?,
        attributes: words.attributes(&mut fields),
    })))
}

fn sync(mut fields: Fields<'_>, whose: SyncFor, words: &mut Vocabulary) -> Result<Body, Expected> {
    Ok(Body::Sync(Sync {
        device: device(&mut fields, words)?,
        direction: fields.direction()?,
        dma: DmaAddr::new(fields.hex("dma_addr", "dma_addr= in hexadecimal")?),
        size: fields.decimal("size", "size= in decimal")?,
        whose,
    }))
}

fn sync_sg(
    mut fields: Fields<'_>,
    whose: SyncFor,
    words: &mut Vocabulary,
) -> Result<Body, Expected> {
    Ok(Body::SyncSg(Box::new(SyncSg {
        device: device(&mut fields, words)?,
        direction: fields.direction()?,
        dma: dma_list(&mut fields)?,
        sizes: fields.list("sizes", "sizes={0x…,…}")?,
        whose,
    })))
}

fn allocation(
    mut fields: Fields<'_>,
    call: AllocCall,
    words: &mut Vocabulary,
) -> Result<Box<Allocation>, Expected> {
    let (device, direction) = match fields.rest().contains(" dir=") {
        true => (device(&mut fields, words)?, fields.direction()?),
        // 6.12.43 and older print none: what is coherent is for both ways.
        false => {
            let device = words.name(before(&mut fields, " dma_addr=", "a device name")?);
            (device, Direction::Bidirectional)
        }
    };
    let dma = fields.hex("dma_addr", "dma_addr= in hexadecimal")?;
    let size = fields.decimal("size", "size= in decimal")?;
    let phys = match call {
        AllocCall::Sgt if fields.rest().contains("phys_addrs=") => phys_list(&mut fields)?,
        _ => Vec::new(),
    };
    Ok(Box::new(Allocation {
        device,
        direction,
        dma: mapped(dma),
        size,
        phys,
        call,
        attributes: words.attributes(&mut fields),
    }))
}
