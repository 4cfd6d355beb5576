use super::*;
use crate::Engine;

const fn wish(pages: u64, align_order: u32) -> Wish {
    Wish { pages, align_order }
}

#[test]
fn alignment_is_of_the_page_number_and_not_of_the_place_in_the_area() {
    // Areas that begin at a multiple of the alignment, and half way between two.
    for (base, order_per_bit, first) in [(0x10200, 0, 0), (0x10300, 0, 256), (0x10300, 2, 256)] {
        let area = Area::new(base, 4096, order_per_bit);
        assert_eq!(area.find(wish(16, 9), 0), Some(base + first), "{base:#x}");
    }
}

#[test]
fn a_busy_range_is_left_for_the_next_aligned_place() {
    let mut area = Area::new(0x1000, 64, 0);
    assert_eq!(area.claim(wish(4, 2), 0), Some(0x1000));
    // Found busy at 4 and at 8.
    assert_eq!(area.claim(wish(4, 2), 2), Some(0x100c));
    // Unaligned, the next place is the next page.
    assert_eq!(area.claim(wish(2, 0), 1), Some(0x1005));
    assert_eq!(area.claim(wish(64, 0), 0), None);
    assert_eq!(area.used_pages(), 10, "a failed claim takes nothing");
}

#[test]
fn bits_of_several_pages_are_claimed_whole() {
    let mut area = Area::new(0, 64, 3);
    assert_eq!(area.claim(wish(9, 0), 0), Some(0));
    assert_eq!(area.used_pages(), 16);
    assert_eq!(area.claim(wish(1, 0), 0), Some(16));
    area.release(0, 9);
    assert_eq!(area.free_runs().collect::<Vec<_>>(), [(0, 16), (24, 40)]);
}

/// The search as its description reads, page by page.
struct Naive {
    base: u64,
    taken: Vec<bool>,
}

impl Naive {
    fn find(&self, wish: Wish, from: u64) -> Option<u64> {
        let aligned = |at: &u64| (self.base + at) % (1 << wish.align_order) == 0;
        let last = (self.taken.len() as u64).checked_sub(wish.pages)?;
        let free = |at: &u64| !self.taken[*at as usize..(at + wish.pages) as usize].contains(&true);
        (from..=last).filter(aligned).find(free)
    }
}

#[test]
fn the_search_is_that_of_a_list_of_pages() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for round in 0..60 {
        let (base, pages) = (next(2048), 1 + next(700));
        let mut area = Area::new(base, pages, 0);
        let mut naive = Naive {
            base,
            taken: vec![false; pages as usize],
        };
        let mut held: Vec<(u64, u64)> = Vec::new();
        for _ in 0..400 {
            if next(5) < 3 {
                let wish = wish(1 + next(1 + pages / 4), next(8) as u32);
                let busy = next(3) as u32;
                let mut from = 0;
                for _ in 0..busy {
                    from = naive
                        .find(wish, from)
                        .map_or(pages, |at| at + (1 << wish.align_order));
                }
                let want = naive.find(wish, from);
                let got = area.claim(wish, busy).map(|pfn| pfn - base);
                assert_eq!(got, want, "round {round}: {wish:?}, {busy} busy");
                if let Some(at) = got {
                    naive.taken[at as usize..(at + wish.pages) as usize].fill(true);
                    held.push((at, wish.pages));
                }
            } else if !held.is_empty() {
                let (at, len) = held.swap_remove(next(held.len() as u64) as usize);
                // A part of it, or all.
                let part = 1 + next(len);
                area.release(base + at, part);
                naive.taken[at as usize..(at + part) as usize].fill(false);
                if part < len {
                    held.push((at + part, len - part));
                }
            }
            let free: u64 = area.free_runs().map(|(_, len)| len).sum();
            let clear = naive.taken.iter().filter(|taken| !**taken).count() as u64;
            assert_eq!((free, area.used_pages()), (clear, pages - clear));
        }
    }
}

#[test]
fn sizes_read_as_the_kernel_reads_them() {
    let params = |default, per_node, nodes| Params::parse(default, per_node, nodes);
    let line = params(
        Some("256M@0x40000000-3G"),
        Some("16M"),
        Some("0:32M,1:0x800K"),
    )
    .unwrap();
    let default = DefaultArea {
        bytes: 256 << 20,
        base: Some(1 << 30),
        end: Some(3 << 30),
    };
    assert_eq!(line.default, Some(default));
    assert_eq!(
        line.to_string(),
        "cma=256M@1G-3G cma_pernuma=16M numa_cma=0:32M,1:2M"
    );
    assert_eq!(line.nodes, [(0, 32 << 20), (1, 0x800 << 10)]);
    assert_eq!(line.per_node, Some(16 << 20));
    assert!(params(Some("64MB"), None, None).is_err());
    assert!(params(Some(""), None, None).is_err());
    assert!(params(None, None, Some("0:32M,one:32M")).is_err());
    assert!(params(Some("64M@2G-1G"), None, None).is_err());
    assert!(params(Some("0"), None, None).is_ok());
}

#[test]
fn areas_are_reserved_node_by_node_and_the_default_one_last() {
    let params = Params::parse(Some("33M"), Some("1M"), Some("1:8M,7:8M,1:4M")).unwrap();
    let areas = params.areas(&[0, 1], DefaultSize::Bytes(0), 1 << 32);
    let shown: Vec<_> = areas
        .iter()
        .map(|area| (area.name.as_str(), area.node, area.bytes >> 20))
        .collect();
    assert_eq!(
        shown,
        [
            ("pernuma0", Some(0), 2),
            ("pernuma1", Some(1), 2),
            ("numa1", Some(1), 4),
            ("reserved", None, 34),
        ]
    );
    let none = Params::default();
    assert!(none.areas(&[0], DefaultSize::Bytes(0), 1 << 32).is_empty());
    let tenth = none.areas(&[0], DefaultSize::Min(16 << 20, 10), 64 << 20);
    assert_eq!(tenth[0].bytes, 8 << 20, "whole pageblocks");
}

#[test]
fn coherent_memory_comes_from_the_devices_node_first_and_from_the_default_area_last() {
    use AreaKind::{Default, Device, Node, PerNode};
    let wide = Requester {
        node: Some(1),
        mask_bits: 64,
        has_area: false,
        may_sleep: true,
    };
    let areas = |who: Requester, bytes| who.areas(Engine::Linux6_12, bytes);
    assert_eq!(areas(wide, 8192), [PerNode(1), Node(1), Default]);
    assert_eq!(wide.areas(Engine::Linux6_1, 8192), [PerNode(1), Default]);
    assert_eq!(areas(wide, 4096), [], "a single page uses no area");
    let low = Requester {
        mask_bits: 32,
        ..wide
    };
    assert_eq!(areas(low, 8192), [Default]);
    let nowhere = Requester { node: None, ..wide };
    assert_eq!(areas(nowhere, 8192), [Default]);
    let own = Requester {
        has_area: true,
        ..wide
    };
    assert_eq!(areas(own, 4096), [Device]);
    let atomic = Requester {
        may_sleep: false,
        ..own
    };
    assert_eq!(areas(atomic, 8192), []);
    assert_eq!(Requester::wish(65536), wish(16, 4));
    assert_eq!(Requester::wish(3 << 20), wish(768, ALIGN_ORDER_MAX));
}

fn log(lines: &[&str]) -> Log {
    let mut sidecar = dmakit_trace::Sidecar::default();
    sidecar.dmesg.lines = lines.iter().map(ToString::to_string).collect();
    Log::new(&sidecar)
}

#[test]
fn free_runs_are_read_over_several_lines_and_without_the_failure_that_they_follow() {
    let log = log(&[
        "[    0.000000] cma: Reserved 4 MiB at 0x0000000040000000 on node -1",
        "[    2.000010] cma: __cma_alloc: reserved: alloc failed, req-size: 900 pages, ret: -12",
        "[    2.000020] cma: number of available pages: 8@8",
        "[    2.000021] +16@48",
        "[    2.000022] => 24 free of 1024 total pages",
        "[    2.000023] +16@48",
        "[    3.000000] cma: number of available pages: => 0 free of 1024 total pages",
    ]);
    assert_eq!((log.ranges[0].pfn, log.ranges[0].pages), (0x40000, 1024));
    let told: Vec<_> = log
        .failures
        .iter()
        .map(|f| (f.at_ns, f.pages, f.free_runs.clone().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            (2_000_010_000, Some(900), vec![(8, 8), (48, 16)]),
            (3_000_000_000, None, vec![]),
        ]
    );
}
