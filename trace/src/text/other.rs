//! Contiguous areas, IOMMUs, markers, probes, and everything else.

use dmakit_addr::{Iova, Pfn, PhysAddr};

use super::body::Vocabulary;
use super::fields::{Expected, Fields, decimal, hex};
use crate::record;
use crate::{Body, Cma, FlushEvent, IommuEvent, Marker, Probe, Value};

pub(super) fn parse(name: &str, text: &str, words: &mut Vocabulary) -> Result<Body, Expected> {
    match name {
        "tracing_mark_write" => return Ok(Body::Marker(marker(text, words))),
        // `trace-cmd` and perf name the event and leave the function in the text.
        "print" => {
            if let Some((_, written)) = text.split_once("tracing_mark_write: ") {
                return Ok(Body::Marker(marker(written, words)));
            }
        }
        "cma_alloc"
        | "cma_alloc_start"
        | "cma_alloc_finish"
        | "cma_alloc_busy_retry"
        | "cma_release" => {
            return cma(name, Fields::new(text), words).map(Body::Cma);
        }
        "map"
        | "unmap"
        | "add_device_to_group"
        | "remove_device_from_group"
        | "attach_device_to_domain"
        | "io_page_fault" => {
            // Other subsystems have events called `map` too: only these begin so.
            if let Some(rest) = text.strip_prefix("IOMMU:") {
                return iommu(name, Fields::new(rest), words).map(Body::Iommu);
            }
        }
        "cache_tag_flush_range"
        | "cache_tag_flush_range_np"
        | "cache_tag_flush_all"
        | "qi_submit" => {
            return flush(name, Fields::new(text), words).map(Body::Flush);
        }
        _ => {}
    }
    match probe(name, text, words) {
        Some(probe) => Ok(Body::Probe(Box::new(probe))),
        None => Ok(Body::Other(words.name(name))),
    }
}

pub(crate) fn marker(text: &str, words: &mut Vocabulary) -> Marker {
    if let Some(phase) = text.strip_prefix("PHASE_BEGIN ") {
        return Marker::PhaseBegin(words.name(phase.trim()));
    }
    if let Some(phase) = text.strip_prefix("PHASE_END ") {
        return Marker::PhaseEnd(words.name(phase.trim()));
    }
    Marker::Text(text.into())
}

/// Fields are looked up in any order: kernels have added and moved them. The oldest name no area
/// and no error.
fn cma(name: &str, fields: Fields<'_>, words: &mut Vocabulary) -> Result<Cma, Expected> {
    const PFN: Expected = "pfn= in hexadecimal";
    const COUNT: Expected = "count= in decimal";
    const ALIGN: Expected = "align= in decimal";
    const ERROR: Expected = "errorno= in decimal";
    let field = |key: &str| fields.clone().optional(key);
    let area = words.name(field("name").unwrap_or(""));
    let count = field("count").or_else(|| field("request_count"));
    let count_pages = count.and_then(decimal).ok_or(COUNT)?;
    let pfn = || field("pfn").and_then(hex).ok_or(PFN);
    let align_order = || {
        let order = field("align").and_then(decimal).ok_or(ALIGN)?;
        u32::try_from(order).map_err(|_| ALIGN)
    };
    Ok(match name {
        "cma_alloc_start" => Cma::AllocStart {
            area,
            count_pages,
            align_order: align_order()?,
        },
        "cma_release" => Cma::Release {
            area,
            pfn: Pfn::new(pfn()?),
            count_pages,
        },
        "cma_alloc_busy_retry" => Cma::BusyRetry {
            area,
            pfn: Pfn::new(pfn()?),
            count_pages,
            align_order: align_order()?,
        },
        _ => {
            let error = match field("errorno") {
                Some(error) => Some(error.parse().map_err(|_| ERROR)?),
                None => None,
            };
            let has_page = field("page").is_none_or(|page| !is_null(page));
            Cma::AllocFinish {
                area,
                pfn: record::claimed(pfn()?, error, has_page),
                count_pages,
                align_order: align_order()?,
                error,
            }
        }
    })
}

/// Whether a printed pointer is none: zeros, or a word in brackets that older printers write.
fn is_null(pointer: &str) -> bool {
    hex(pointer) == Some(0) || ["(null)", "(nil)"].contains(&pointer)
}

fn iommu(
    name: &str,
    mut fields: Fields<'_>,
    words: &mut Vocabulary,
) -> Result<IommuEvent, Expected> {
    const GROUP: Expected = "groupID= in decimal";
    const IOVA: Expected = "iova= in hexadecimal";
    Ok(match name {
        "map" => IommuEvent::Map {
            iova: Iova::new(fields.hex("iova", IOVA)?),
            phys: PhysAddr::new(fields.hex("paddr", "paddr= in hexadecimal")?),
            size: fields.decimal("size", "size= in decimal")?,
        },
        "unmap" => IommuEvent::Unmap {
            iova: Iova::new(fields.hex("iova", IOVA)?),
            size: fields.decimal("size", "size= in decimal")?,
            unmapped: fields.decimal("unmapped_size", "unmapped_size= in decimal")?,
        },
        "attach_device_to_domain" => IommuEvent::Attach {
            device: words.name(fields.required("device", "device=")?),
        },
        "io_page_fault" => {
            // The driver's name comes first, the device's second.
            fields.piece();
            let device = words.name(fields.piece().ok_or("the device")?);
            let iova = Iova::new(fields.hex("iova", IOVA)?);
            IommuEvent::Fault { device, iova }
        }
        _ => {
            let group = u32::try_from(fields.decimal("groupID", GROUP)?).map_err(|_| GROUP)?;
            let device = words.name(fields.required("device", "device=")?);
            if name == "add_device_to_group" {
                IommuEvent::AddToGroup { group, device }
            } else {
                IommuEvent::RemoveFromGroup { group, device }
            }
        }
    })
}

fn flush(
    name: &str,
    mut fields: Fields<'_>,
    words: &mut Vocabulary,
) -> Result<FlushEvent, Expected> {
    if name == "qi_submit" {
        const WORDS: Expected = "four quadwords after the IOMMU's name";
        let what = words.name(fields.piece().ok_or(WORDS)?);
        let iommu = fields.piece().ok_or(WORDS)?;
        let iommu = words.name(iommu.strip_suffix(':').unwrap_or(iommu));
        let mut descriptor = [0; 4];
        for word in &mut descriptor {
            *word = fields.piece().and_then(hex).ok_or(WORDS)?;
        }
        return Ok(FlushEvent::Submit {
            what,
            iommu,
            descriptor,
        });
    }
    const TAG: Expected = "IOMMU, device, type and did";
    let first = fields.piece().ok_or(TAG)?;
    let iommu = words.name(first.split_once('/').map_or(first, |(iommu, _)| iommu));
    fields.until(" did ", TAG)?;
    let domain = fields.piece().and_then(decimal).ok_or(TAG)?;
    let domain = u32::try_from(domain).map_err(|_| TAG)?;
    if name == "cache_tag_flush_all" {
        return Ok(FlushEvent::All { iommu, domain });
    }
    const RANGE: Expected = "[first-last] in hexadecimal";
    let range = fields.piece().ok_or(RANGE)?;
    let (first, last) = range
        .strip_prefix('[')
        .and_then(|r| r.strip_suffix(']'))
        .and_then(|r| r.split_once('-'))
        .ok_or(RANGE)?;
    Ok(FlushEvent::Range {
        iommu,
        domain,
        start: Iova::new(hex(first).ok_or(RANGE)?),
        last: Iova::new(hex(last).ok_or(RANGE)?),
    })
}

/// `(location) key=value …`: how every kprobe and uprobe prints.
fn probe(name: &str, text: &str, words: &mut Vocabulary) -> Option<Probe> {
    let (location, arguments) = text.strip_prefix('(')?.split_once(')')?;
    let mut fields = Vec::new();
    let mut rest = arguments.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (text, after) = quoted.split_once('"')?;
                (Value::Text(words.name(text)), after)
            }
            None => {
                let end = after.find(' ').unwrap_or(after.len());
                let (text, after) = after.split_at(end);
                (value(text, words), after)
            }
        };
        fields.push((words.name(key), value));
        rest = after.trim_start();
    }
    Some(Probe {
        name: words.name(name),
        location: location.into(),
        fields,
    })
}

fn value(text: &str, words: &mut Vocabulary) -> Value {
    let number = match text.strip_prefix('-') {
        Some(negative) => decimal(negative).map(u64::wrapping_neg),
        None if text.starts_with("0x") => hex(text),
        None => decimal(text),
    };
    match number {
        Some(number) => Value::Number(number),
        None => Value::Text(words.name(text)),
    }
}
