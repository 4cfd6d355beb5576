//! Lines that kernels and tools really print.

use dmakit_addr::{Attributes, Direction, DmaAddr, DmaMask, Pfn, PhysAddr};

use super::body::{Vocabulary, parse};
use super::{prefix, raw_fields};
use crate::*;

fn body(name: &str, text: &str) -> Body {
    parse(name, text, &mut Vocabulary::default()).unwrap()
}

fn refused(name: &str, text: &str) -> &'static str {
    parse(name, text, &mut Vocabulary::default()).unwrap_err()
}

#[test]
fn a_task_name_may_hold_what_separates_it() {
    for (comm, pid) in [
        ("kworker/u8:1", 31),
        ("a - b", 7),
        ("x [1] y-2", 8),
        ("<...>", 9),
    ] {
        let line = format!("    {comm}-{pid}      [001] .N...     6.964866: e: text");
        let parsed = prefix::ftrace(&line).unwrap();
        assert_eq!(
            (parsed.comm, parsed.pid, parsed.cpu),
            (comm, pid, 1),
            "{line}"
        );
        assert_eq!(parsed.time_ns, 6_964_866_000);
        assert_eq!((parsed.event, parsed.text), ("e", "text"));
    }
}

#[test]
fn context_flags_say_where_an_event_was() {
    let of = |flags: &str| {
        let line = format!("a-1 [000] {flags} 1.0: e: ");
        prefix::ftrace(&line).unwrap().context.unwrap()
    };
    assert!(of(".....").may_sleep());
    assert!(of(".N...").may_sleep());
    assert_eq!(of("..s1.").level, Level::SoftIrq);
    assert_eq!(of("d.h..").level, Level::HardIrq);
    assert_eq!(of("D.H2.").level, Level::HardIrq);
    assert_eq!(of("d.Z..").level, Level::Nmi);
    assert!(of("b....").bh_off && !of("b....").may_sleep());
    assert_eq!(of("dns3a").preempt_depth, 3);
    assert_eq!(of("dns3a").migrate_depth, 10);
    assert!(of("D....").irqs_off && of("D....").bh_off);
    assert!(!of("...1.").may_sleep());
    // Four characters before Linux 5.16.
    assert_eq!(of("d.h2").preempt_depth, 2);
}

#[test]
fn every_tool_has_its_own_beginning() {
    let report =
        "          <idle>-0     [000]  1234.567890: dma_unmap_page:       0000:00:01.0 dir=";
    let parsed = prefix::ftrace(report).unwrap();
    assert_eq!(parsed.context, None);
    assert_eq!(
        (parsed.event, parsed.time_ns),
        ("dma_unmap_page", 1_234_567_890_000)
    );
    let grouped = "     fio-213     (    200) [001] ..s1.     4.000000001: e: t";
    let parsed = prefix::ftrace(grouped).unwrap();
    assert_eq!((parsed.comm, parsed.pid), ("fio", 213));
    assert_eq!(parsed.time_ns, 4_000_000_001);
    let perf = "kworker/u8:1-ev    31 [001]     6.964866: swiotlb:swiotlb_bounced: dev_name: x";
    let parsed = prefix::perf(perf).unwrap();
    assert_eq!((parsed.comm, parsed.pid), ("kworker/u8:1-ev", 31));
    assert_eq!(
        (parsed.event, parsed.text),
        ("swiotlb_bounced", "dev_name: x")
    );
    let period = perf.replace(": swiotlb:", ":          1 swiotlb:");
    assert_eq!(prefix::perf(&period), prefix::perf(perf));
    let threads = "fio 200/213 [001] 6.9: dma:dma_free: x";
    assert_eq!(prefix::perf(threads).unwrap().pid, 213);
    let counting = "sh-1 [000] ..... 12345: e: t";
    assert_eq!(prefix::ftrace(counting).unwrap().time_ns, 12345);
}

#[test]
fn a_bounce_says_who_and_why() {
    let text = "dev_name: 0000:00:01.0 dma_mask=ffffffff dev_addr=1036b78c0 size=1522 NORMAL";
    let Body::Bounced(bounced) = body("swiotlb_bounced", text) else {
        panic!("not a bounce");
    };
    assert_eq!(bounced.device, "0000:00:01.0");
    assert_eq!(bounced.dma_mask, DmaMask::bits(32).unwrap());
    assert_eq!(bounced.original, PhysAddr::new(0x1_036b_78c0));
    assert_eq!((bounced.size, bounced.forced), (1522, false));
    let forced = text.replace("NORMAL", "FORCE");
    assert!(matches!(body("swiotlb_bounced", &forced), Body::Bounced(b) if b.forced));
    // Without the word the line is cut.
    refused("swiotlb_bounced", &text.replace(" NORMAL", ""));
}

#[test]
fn an_all_ones_address_is_a_failed_map() {
    let text =
        "0000:00:01.0 dir=TO_DEVICE dma_addr=ffffffffffffffff size=65536 phys_addr=c094000 attrs=";
    for name in ["dma_map_page", "dma_map_phys", "dma_map_resource"] {
        let Body::Map(map) = body(name, text) else {
            panic!("not a map");
        };
        assert_eq!(map.dma, None);
        assert_eq!((map.direction, map.size), (Direction::ToDevice, 65536));
    }
    let mapped = text.replace("ffffffffffffffff", "7b400000");
    assert!(matches!(
        body("dma_map_page", &mapped),
        Body::Map(map) if map.dma == Some(DmaAddr::new(0x7b40_0000))
    ));
}

#[test]
fn attributes_are_joined_names_and_unknown_ones_are_counted() {
    let text = "d dir=TO_DEVICE dma_addr=1000 size=1 attrs=SKIP_CPU_SYNC|NO_WARN|NEWER|0x100000";
    let mut words = Vocabulary::default();
    let Ok(Body::Unmap(unmap)) = parse("dma_unmap_page", text, &mut words) else {
        panic!("not an unmap");
    };
    let known = Attributes::SKIP_CPU_SYNC | Attributes::NO_WARN | Attributes::from_bits(1 << 20);
    assert_eq!(unmap.attributes, known);
    assert_eq!(words.fidelity.unknown_attributes, 1);
}

#[test]
fn both_forms_of_a_scatterlist_are_read() {
    let lists =
        "dma_addrs={0xffe00000} sizes={0x10000} phys_addrs={0x3117000,0x3116000} attrs=NO_WARN";
    let older = format!("0000:00:01.0 dir=FROM_DEVICE {lists}");
    let newer = format!("0000:00:01.0 dir=FROM_DEVICE nents=2/2 ents=1/1 {lists}");
    let (Body::MapSg(older), Body::MapSg(newer)) =
        (body("dma_map_sg", &older), body("dma_map_sg", &newer))
    else {
        panic!("not scatterlists");
    };
    assert_eq!(older.entries, None);
    assert_eq!(newer.entries, Some(Shown { shown: 2, total: 2 }));
    assert_eq!(
        (&older.dma, &older.sizes, &older.phys),
        (&newer.dma, &newer.sizes, &newer.phys)
    );
    assert_eq!(newer.sizes, [0x10000]);
    assert_eq!(newer.hidden_entries(), 0);
}

#[test]
fn a_truncated_scatterlist_is_counted_with_what_it_hides() {
    let text = "d dir=FROM_DEVICE nents=2/130 ents=2/130 [TRUNCATED] dma_addrs={0x1000,0x2000} \
                sizes={0x1000,0x1000} phys_addrs={0x1000,0x2000} attrs=";
    let mut words = Vocabulary::default();
    let Ok(Body::MapSg(sg)) = parse("dma_map_sg", text, &mut words) else {
        panic!("not a scatterlist");
    };
    assert_eq!(sg.hidden_entries(), 128);
    assert_eq!(words.fidelity.truncated_lists, 1);
    assert_eq!(words.fidelity.truncated_entries, 128);
}

#[test]
fn a_scatterlist_that_no_print_format_could_show_is_read_from_its_fields() {
    let text = "[FAILED TO PARSE] device=0000:00:01.0 full_nents=2 full_ents=1 truncated=0 \
                phys_addrs=ARRAY[00, 70, 11, 03, 00, 00, 00, 00, 00, 60, 11, 03, 00, 00, 00, 00] \
                dma_addrs=ARRAY[00, 00, e0, ff, 00, 00, 00, 00] lengths=ARRAY[00, 00, 01, 00] \
                dir=2 attrs=0x100";
    let Body::MapSg(sg) = body("dma_map_sg", text) else {
        panic!("not a scatterlist");
    };
    let shown = "0000:00:01.0 dir=FROM_DEVICE nents=2/2 ents=1/1 dma_addrs={0xffe00000} \
                 sizes={0x10000} phys_addrs={0x3117000,0x3116000} attrs=NO_WARN";
    assert_eq!(Body::MapSg(sg), body("dma_map_sg", shown));
    refused(
        "dma_map_sg",
        "[FAILED TO PARSE] device=x phys_addrs=ARRAY[00, 70",
    );
}

#[test]
fn an_unmapped_scatterlist_has_memory_addresses_only() {
    let text = "0000:00:01.0 dir=FROM_DEVICE phys_addrs={0x3127000,0x3126000} attrs=";
    let Body::UnmapSg(sg) = body("dma_unmap_sg", text) else {
        panic!("not a scatterlist");
    };
    assert_eq!(
        sg.phys,
        [PhysAddr::new(0x312_7000), PhysAddr::new(0x312_6000)]
    );
    for damaged in [
        "{0x3127000,",
        "{0x3127000,0x}",
        "0x3127000}",
        "{0x11112222333344445}",
    ] {
        let text = format!("0000:00:01.0 dir=FROM_DEVICE phys_addrs={damaged} attrs=");
        refused("dma_unmap_sg", &text);
    }
}

#[test]
fn raw_fields_alone_are_refused_with_what_to_print_instead() {
    let map = "device=0000:00:01.0 phys_addr=98b000 dma_addr=98b000 size=4096 dir=2 attrs=0x0";
    assert_eq!(refused("dma_map_page", map), raw_fields::BARE);
    let bounced = "dev_name=0000:00:01.0 dma_mask=ffffffff dev_addr=1036b78c0 size=1522 force=0";
    assert_eq!(refused("swiotlb_bounced", bounced), raw_fields::BARE);
}

#[test]
fn events_that_no_capture_has_are_read_as_their_formats_say() {
    let error = "d dir=TO_DEVICE dma_addrs={0x1000,0x3000} err=-121 attrs=";
    assert!(matches!(
        body("dma_map_sg_err", error),
        Body::MapSgError(e) if e.error == -121 && e.phys.len() == 2
    ));
    let sync = "d dir=BIDIRECTIONAL dma_addrs={0x1000} sizes={0x40}";
    assert!(matches!(
        body("dma_sync_sg_for_device", sync),
        Body::SyncSg(s) if s.whose == SyncFor::Device && s.sizes == [0x40]
    ));
    let sgt = "d dir=TO_DEVICE dma_addr=1000 size=8192 phys_addrs={0x1000,0x9000} flags=GFP_KERNEL|__GFP_ZERO attrs=NO_WARN";
    assert!(matches!(
        body("dma_alloc_sgt", sgt),
        Body::Alloc(a) if a.call == AllocCall::Sgt && a.phys.len() == 2
            && a.attributes == Attributes::NO_WARN
    ));
    let refused =
        "d dir=TO_DEVICE dma_addr=0 size=8192 virt_addr=0000000000000000 flags=GFP_KERNEL attrs=";
    assert!(matches!(body("dma_alloc_sgt_err", refused), Body::Alloc(a) if a.dma.is_none()));
    let busy = "name=reserved pfn=0x98200 page=00000000c0ffee00 count=512 align=8";
    assert!(matches!(
        body("cma_alloc_busy_retry", busy),
        Body::Cma(Cma::BusyRetry { pfn, .. }) if pfn == Pfn::new(0x98200)
    ));
    let fault = "IOMMU:arm-smmu 0000:01:00.0 iova=0x00000000fff00000 flags=0x0001";
    assert!(matches!(
        body("io_page_fault", fault),
        Body::Iommu(IommuEvent::Fault { device, .. }) if device == "0000:01:00.0"
    ));
}

#[test]
fn coherent_memory_without_a_direction_is_for_both() {
    // 6.12.43.
    let text = "0000:00:01.0 dma_addr=613e000 size=512 virt_addr=0000000055ae957e \
                flags=GFP_KERNEL attrs=";
    let Body::Alloc(alloc) = body("dma_alloc", text) else {
        panic!("an allocation");
    };
    assert_eq!(alloc.device, "0000:00:01.0");
    assert_eq!(alloc.direction, Direction::Bidirectional);
    assert_eq!(
        (alloc.dma, alloc.size),
        (Some(DmaAddr::new(0x613_e000)), 512)
    );
    let raw = "[FAILED TO PARSE] device=0000:00:01.0 virt_addr=0xffff888006130000 dma_addr=0x613e000 size=512 flags=3264 attrs=0";
    assert!(matches!(
        body("dma_alloc", raw),
        Body::Alloc(a) if a.direction == Direction::Bidirectional && a.size == 512
    ));
}

#[test]
fn a_failed_contiguous_allocation_has_its_error() {
    let text =
        "name=reserved pfn=0xffffffffffffffff page=0000000000000000 count=3038 align=8 errorno=-12";
    let Body::Cma(Cma::AllocFinish {
        area, pfn, error, ..
    }) = body("cma_alloc_finish", text)
    else {
        panic!("not the end of an allocation");
    };
    assert_eq!((area.as_str(), pfn, error), ("reserved", None, Some(-12)));
    // After a range was busy, its place is still in the event.
    let busy = "name=reserved pfn=0x1ba10 page=0000000000000000 count=16 align=4 errorno=-16";
    let raw = "[FAILED TO PARSE] name=reserved pfn=0x1ba10 page=0x0 count=16 align=4 errorno=-16";
    for text in [busy, raw] {
        assert!(matches!(
            body("cma_alloc_finish", text),
            Body::Cma(Cma::AllocFinish {
                pfn: None,
                error: Some(-16),
                ..
            })
        ));
    }
}

#[test]
fn contiguous_allocations_of_every_kernel_are_read() {
    let start = |text| match body("cma_alloc_start", text) {
        Body::Cma(Cma::AllocStart {
            area,
            count_pages,
            align_order,
        }) => (area.as_str().to_owned(), count_pages, align_order),
        other => panic!("{other:?}"),
    };
    let newest = "name=reserved request_count=16 available_count=40 total_count=8192 align=4";
    assert_eq!(start(newest), ("reserved".to_owned(), 16, 4));
    assert_eq!(
        start("count=16 align=4 name=numa1"),
        ("numa1".to_owned(), 16, 4)
    );
    assert_eq!(start("count=16 align=4"), (String::new(), 16, 4));
    let ends = [
        (
            "cma_alloc",
            "pfn=1ba10 page=00000000cd7c3bc1 count=16 align=4",
            Some(0x1ba10),
        ),
        (
            "cma_alloc_finish",
            "name=a pfn=0x1ba10 page=00000000c8b85242 count=16 align=4",
            Some(0x1ba10),
        ),
        (
            "cma_alloc",
            "pfn=ffffffffffffffff page=0 count=16 align=4",
            None,
        ),
        (
            "cma_alloc_finish",
            "name=a pfn=0x1ba10 page=0000000000000000 count=16 align=4",
            None,
        ),
        ("cma_alloc", "pfn=1ba10 page=(null) count=16 align=4", None),
    ];
    for (name, text, at) in ends {
        let Body::Cma(Cma::AllocFinish { pfn, error, .. }) = body(name, text) else {
            panic!("{name} is not the end of an allocation");
        };
        assert_eq!((pfn, error), (at.map(Pfn::new), None), "{text}");
    }
}

#[test]
fn another_subsystems_map_is_not_the_iommus() {
    assert_eq!(body("map", "something=else"), Body::Other(Name::new("map")));
    let text =
        "IOMMU: iova=0x00000000ffe0b000 - 0x00000000ffe0c000 paddr=0x000000000310c000 size=4096";
    assert!(matches!(
        body("map", text),
        Body::Iommu(IommuEvent::Map { size: 4096, .. })
    ));
}

#[test]
fn an_invalidated_range_ends_with_its_last_byte() {
    let text = "dmar0 dmar0[0] type iotlb did 3 [0xfff70000-0xfff7ffff] addr 0xfff70000 pages 0x10 mask 0x4";
    let Body::Flush(FlushEvent::Range {
        start,
        last,
        domain,
        iommu,
    }) = body("cache_tag_flush_range", text)
    else {
        panic!("not a range");
    };
    assert_eq!(
        (start.raw(), last.raw(), domain),
        (0xfff7_0000, 0xfff7_ffff, 3)
    );
    assert_eq!(iommu, "dmar0");
    let submit = "iotlb_inv dmar0: 0x300f2 0xfff70044 0x0 0x0";
    assert!(matches!(
        body("qi_submit", submit),
        Body::Flush(FlushEvent::Submit {
            descriptor: [0x300f2, 0xfff7_0044, 0, 0],
            ..
        })
    ));
}

#[test]
fn a_probe_is_its_name_its_place_and_its_arguments() {
    let text =
        "(swiotlb_tbl_map_single+0x4/0x770) dev=\"0000:00:01.0\" orig=0x7d654000 size=4096 n=-2";
    let Body::Probe(probe) = body("sw_map", text) else {
        panic!("not a probe");
    };
    assert_eq!(probe.name, "sw_map");
    assert_eq!(&*probe.location, "swiotlb_tbl_map_single+0x4/0x770");
    assert_eq!(
        probe.field("dev"),
        Some(&Value::Text(Name::new("0000:00:01.0")))
    );
    assert_eq!(probe.number("orig"), Some(0x7d65_4000));
    assert_eq!(probe.number("n"), Some(-2i64 as u64));
    assert_eq!(probe.number("dev"), None);
}

#[test]
fn markers_of_phases_are_told_from_other_text() {
    let begin = Marker::PhaseBegin(Name::new("randread-4k"));
    assert_eq!(
        body("tracing_mark_write", "PHASE_BEGIN randread-4k"),
        Body::Marker(begin.clone())
    );
    let report = "tracing_mark_write: PHASE_BEGIN randread-4k";
    assert_eq!(body("print", report), Body::Marker(begin));
    assert!(matches!(
        body("tracing_mark_write", "x"),
        Body::Marker(Marker::Text(_))
    ));
}

#[test]
fn fields_that_a_later_kernel_adds_are_passed_over() {
    let text = "d dir=TO_DEVICE new=1 dma_addr=1000 extra=x size=1 attrs= more=2";
    assert!(matches!(body("dma_unmap_phys", text), Body::Unmap(u) if u.size == 1));
}
