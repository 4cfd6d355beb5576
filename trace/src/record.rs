//! Events as named raw fields: how `trace.dat` holds them, and how a tool prints them that could
//! not make text of them.

use std::borrow::Cow;

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, Iova, Pfn, PhysAddr};

use crate::text::{Expected, Vocabulary, mapped, marker};
use crate::{
    AllocCall, Allocation, Body, Bounced, Cma, FlushEvent, IommuEvent, MapCall, MapPage, MapSg,
    MapSgError, Name, Shown, Sync, SyncFor, SyncSg, UnmapPage, UnmapSg,
};

/// One event's fields by the names that its format gives them.
pub(crate) trait Record {
    /// A scalar; a signed one sign-extended.
    fn number(&self, field: &str) -> Option<u64>;
    /// A string.
    fn text(&self, field: &str) -> Option<Cow<'_, str>>;
    /// An array of numbers.
    fn list(&self, field: &str) -> Option<Vec<u64>>;
}

/// What the event `name` with these fields says; `None` for an event that has no typed form.
pub(crate) fn body<R: Record>(
    name: &str,
    record: &R,
    words: &mut Vocabulary,
) -> Result<Option<Body>, Expected> {
    let fields = Typed { record, words };
    let body = match name {
        "swiotlb_bounced" => fields.bounced(),
        "dma_map_page" => fields.map(MapCall::Page),
        "dma_map_phys" => fields.map(MapCall::Phys),
        "dma_map_resource" => fields.map(MapCall::Resource),
        "dma_unmap_page" => fields.unmap(MapCall::Page),
        "dma_unmap_phys" => fields.unmap(MapCall::Phys),
        "dma_unmap_resource" => fields.unmap(MapCall::Resource),
        "dma_map_sg" => fields.map_sg(),
        "dma_map_sg_err" => fields.map_sg_error(),
        "dma_unmap_sg" => fields.unmap_sg(),
        "dma_sync_single_for_cpu" => fields.sync(SyncFor::Cpu),
        "dma_sync_single_for_device" => fields.sync(SyncFor::Device),
        "dma_sync_sg_for_cpu" => fields.sync_sg(SyncFor::Cpu),
        "dma_sync_sg_for_device" => fields.sync_sg(SyncFor::Device),
        "dma_alloc" => fields.allocation(AllocCall::Coherent).map(Body::Alloc),
        "dma_alloc_pages" => fields.allocation(AllocCall::Pages).map(Body::Alloc),
        "dma_alloc_sgt" => fields.allocation(AllocCall::Sgt).map(Body::Alloc),
        "dma_alloc_sgt_err" => fields.refused_table().map(Body::Alloc),
        "dma_free" => fields.allocation(AllocCall::Coherent).map(Body::Free),
        "dma_free_pages" => fields.allocation(AllocCall::Pages).map(Body::Free),
        "dma_free_sgt" => fields.allocation(AllocCall::Sgt).map(Body::Free),
        "cma_alloc"
        | "cma_alloc_start"
        | "cma_alloc_finish"
        | "cma_alloc_busy_retry"
        | "cma_release" => fields.cma(name).map(Body::Cma),
        "map"
        | "unmap"
        | "add_device_to_group"
        | "remove_device_from_group"
        | "attach_device_to_domain"
        | "io_page_fault" => match fields.iommu(name)? {
            Some(event) => Ok(Body::Iommu(event)),
            None => return Ok(None),
        },
        "cache_tag_flush_range"
        | "cache_tag_flush_range_np"
        | "cache_tag_flush_all"
        | "qi_submit" => fields.flush(name).map(Body::Flush),
        "print" => fields.print(),
        _ => return Ok(None),
    }?;
    words.note_truncation(&body);
    Ok(Some(body))
}

struct Typed<'a, R> {
    record: &'a R,
    words: &'a mut Vocabulary,
}

impl<R: Record> Typed<'_, R> {
    fn number(&self, field: &'static str) -> Result<u64, Expected> {
        self.record.number(field).ok_or(field)
    }

    /// A scalar that kernels have called by either name.
    fn either(&self, field: &'static str, other: &'static str) -> Result<u64, Expected> {
        self.record
            .number(field)
            .or_else(|| self.record.number(other))
            .ok_or(field)
    }

    fn small(&self, field: &'static str) -> Result<u32, Expected> {
        u32::try_from(self.number(field)?).map_err(|_| field)
    }

    fn name(&mut self, field: &'static str) -> Result<Name, Expected> {
        let text = self.record.text(field).ok_or(field)?;
        Ok(self.words.name(&text))
    }

    fn list(&self, field: &'static str) -> Result<Vec<u64>, Expected> {
        self.record.list(field).ok_or(field)
    }

    fn direction(&self) -> Result<Direction, Expected> {
        match self.number("dir")? {
            0 => Ok(Direction::Bidirectional),
            1 => Ok(Direction::ToDevice),
            2 => Ok(Direction::FromDevice),
            _ => Err("dir of 0 to 2"),
        }
    }

    /// Missing in kernels that do not record it.
    fn attributes(&self) -> Attributes {
        let bits = self.record.number("attrs").unwrap_or(0);
        Attributes::from_bits((bits & u64::from(u32::MAX)) as u32)
    }

    fn phys_list(&self, field: &'static str) -> Result<Vec<PhysAddr>, Expected> {
        Ok(self.list(field)?.into_iter().map(PhysAddr::new).collect())
    }

    fn dma_list(&self) -> Result<Vec<DmaAddr>, Expected> {
        let list = self.list("dma_addrs")?;
        Ok(list.into_iter().map(DmaAddr::new).collect())
    }

    fn bounced(mut self) -> Result<Body, Expected> {
        Ok(Body::Bounced(Bounced {
            device: self.name("dev_name")?,
            dma_mask: DmaMask::up_to(self.number("dma_mask")?),
            original: PhysAddr::new(self.number("dev_addr")?),
            size: self.number("size")?,
            forced: self.either("force", "swiotlb_force")? != 0,
        }))
    }

    fn map(mut self, call: MapCall) -> Result<Body, Expected> {
        Ok(Body::Map(MapPage {
            device: self.name("device")?,
            direction: self.direction()?,
            dma: mapped(self.number("dma_addr")?),
            phys: PhysAddr::new(self.number("phys_addr")?),
            size: self.number("size")?,
            attributes: self.attributes(),
            call,
        }))
    }

    fn unmap(mut self, call: MapCall) -> Result<Body, Expected> {
        Ok(Body::Unmap(UnmapPage {
            device: self.name("device")?,
            direction: self.direction()?,
            dma: DmaAddr::new(self.either("addr", "dma_addr")?),
            size: self.number("size")?,
            attributes: self.attributes(),
            call,
        }))
    }

    fn map_sg(mut self) -> Result<Body, Expected> {
        let phys = self.phys_list("phys_addrs")?;
        let dma = self.dma_list()?;
        let sizes = self.list("lengths")?;
        if sizes.len() != dma.len() {
            return Err("as many lengths as dma_addrs");
        }
        let shown = |field, list: usize| {
            let total = self.record.number(field)?;
            Some(Shown {
                shown: u32::try_from(list).ok()?,
                total: u32::try_from(total).ok()?,
            })
        };
        let entries = shown("full_nents", phys.len());
        let segments = shown("full_ents", dma.len());
        Ok(Body::MapSg(Box::new(MapSg {
            device: self.name("device")?,
            direction: self.direction()?,
            dma,
            sizes,
            phys,
            entries,
            segments,
            attributes: self.attributes(),
        })))
    }

    fn map_sg_error(mut self) -> Result<Body, Expected> {
        Ok(Body::MapSgError(Box::new(MapSgError {
            device: self.name("device")?,
            direction: self.direction()?,
            phys: self.phys_list("phys_addrs")?,
            error: self.number("err")? as i32,
            attributes: self.attributes(),
        })))
    }

    fn unmap_sg(mut self) -> Result<Body, Expected> {
        Ok(Body::UnmapSg(Box::new(UnmapSg {
            device: self.name("device")?,
            direction: self.direction()?,
            phys: self
                .phys_list("addrs")
                .or_else(|_| self.phys_list("phys_addrs"))?,
            attributes: self.attributes(),
        })))
    }

    fn sync(mut self, whose: SyncFor) -> Result<Body, Expected> {
        Ok(Body::Sync(Sync {
            device: self.name("device")?,
            direction: self.direction()?,
            dma: DmaAddr::new(self.number("dma_addr")?),
            size: self.number("size")?,
            whose,
        }))
    }

    fn sync_sg(mut self, whose: SyncFor) -> Result<Body, Expected> {
        Ok(Body::SyncSg(Box::new(SyncSg {
            device: self.name("device")?,
            direction: self.direction()?,
            dma: self.dma_list()?,
            sizes: self.list("lengths")?,
            whose,
        })))
    }

    fn allocation(mut self, call: AllocCall) -> Result<Box<Allocation>, Expected> {
        let phys = match call {
            AllocCall::Sgt => self.phys_list("phys_addrs").unwrap_or_default(),
            _ => Vec::new(),
        };
        Ok(Box::new(Allocation {
            device: self.name("device")?,
            // 6.12.43 and older have none: what is coherent is for both ways.
            direction: match self.record.number("dir") {
                None => Direction::Bidirectional,
                Some(_) => self.direction()?,
            },
            dma: mapped(self.number("dma_addr")?),
            size: self.number("size")?,
            phys,
            call,
            attributes: self.attributes(),
        }))
    }

    fn refused_table(self) -> Result<Box<Allocation>, Expected> {
        let mut refused = self.allocation(AllocCall::Sgt)?;
        refused.dma = None;
        Ok(refused)
    }

    /// The oldest kernels name no area and no error.
    fn cma(self, name: &str) -> Result<Cma, Expected> {
        let area = self.record.text("name");
        let area = self.words.name(area.as_deref().unwrap_or(""));
        let count_pages = self.either("count", "request_count")?;
        let align_order = || self.small("align");
        let pfn = || self.number("pfn");
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
                let error = self.record.number("errorno").map(|error| error as i32);
                let has_page = self.record.number("page") != Some(0);
                Cma::AllocFinish {
                    area,
                    pfn: claimed(pfn()?, error, has_page),
                    count_pages,
                    align_order: align_order()?,
                    error,
                }
            }
        })
    }

    fn iommu(mut self, name: &str) -> Result<Option<IommuEvent>, Expected> {
        let iova = self.record.number("iova").map(Iova::new);
        Ok(match (name, iova) {
            ("map", Some(iova)) => Some(IommuEvent::Map {
                iova,
                phys: PhysAddr::new(self.number("paddr")?),
                size: self.number("size")?,
            }),
            ("unmap", Some(iova)) => Some(IommuEvent::Unmap {
                iova,
                size: self.number("size")?,
                unmapped: self.number("unmapped_size")?,
            }),
            ("io_page_fault", Some(iova)) => Some(IommuEvent::Fault {
                device: self.name("device")?,
                iova,
            }),
            ("add_device_to_group", _) => Some(IommuEvent::AddToGroup {
                group: self.small("gid")?,
                device: self.name("device")?,
            }),
            ("remove_device_from_group", _) => Some(IommuEvent::RemoveFromGroup {
                group: self.small("gid")?,
                device: self.name("device")?,
            }),
            ("attach_device_to_domain", _) => Some(IommuEvent::Attach {
                device: self.name("device")?,
            }),
            _ => None,
        })
    }

    fn flush(mut self, name: &str) -> Result<FlushEvent, Expected> {
        let iommu = self.name("iommu")?;
        if name == "qi_submit" {
            let descriptor = [
                self.number("qw0")?,
                self.number("qw1")?,
                self.number("qw2")?,
                self.number("qw3")?,
            ];
            let what = self.words.name(invalidation(descriptor[0]));
            return Ok(FlushEvent::Submit {
                what,
                iommu,
                descriptor,
            });
        }
        let domain = self.small("domain_id")?;
        if name == "cache_tag_flush_all" {
            return Ok(FlushEvent::All { iommu, domain });
        }
        Ok(FlushEvent::Range {
            iommu,
            domain,
            start: Iova::new(self.number("start")?),
            last: Iova::new(self.number("end")?),
        })
    }

    fn print(self) -> Result<Body, Expected> {
        let text = self.record.text("buf").ok_or("buf")?;
        Ok(Body::Marker(marker(text.trim_end(), self.words)))
    }
}

/// Linux's word for the type of an invalidation descriptor (VT-d, "Queued Invalidation
/// Descriptors": the type is in the low four bits).
fn invalidation(quadword: u64) -> &'static str {
    match quadword & 0xf {
        1 => "cc_inv",
        2 => "iotlb_inv",
        3 => "dev_tlb_inv",
        4 => "iec_inv",
        5 => "inv_wait",
        6 => "p_iotlb_inv",
        7 => "pc_inv",
        8 => "p_dev_tlb_inv",
        9 => "page_grp_resp",
        _ => "reserved",
    }
}

/// The page that a claim got, if it got one. One that failed after a range was busy names that
/// range, so the error tells, or, where the kernel records none, the missing page structure.
pub(crate) fn claimed(pfn: u64, error: Option<i32>, has_page: bool) -> Option<Pfn> {
    let is_served = error.map_or(has_page, |error| error == 0);
    (is_served && pfn != u64::MAX).then_some(Pfn::new(pfn))
}
