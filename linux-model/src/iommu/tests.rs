//! Claims about the parts, with worked figures.

use dmakit_addr::Direction;

use crate::calls::{
    Buffer, BufferKind, Call, CallKind, CallSource, Calls, DeviceCalls, Flow, Piece,
    RecordedTranslation,
};
use crate::engine::Engine;
use crate::iommu::agreement::agree_on_translation;
use crate::iommu::domain::{Domain, DomainConfig, Invalidation, Timer};
use crate::iommu::layout::{SegmentLimits, lay_out};
use crate::iommu::runs::Runs;
use crate::iommu::setup::TranslationSetup;
use crate::iommu::tables::Tables;
use crate::iommu::tree::Tree;

const K: u64 = 1024;
const LIMITS: SegmentLimits = SegmentLimits {
    boundary_mask: 64 * K - 1,
    bytes_max: 64 * K,
};

/// A of 60 KiB, B of 8 KiB, C of 3.5 KiB from half a KiB into its page: B would cross the boundary,
/// so A is padded up to it; C begins inside a page. Three segments over 76 KiB.
#[test]
fn an_entry_that_would_cross_a_boundary_begins_on_it() {
    let entries = [(0x10_0000, 60 * K), (0x20_0000, 8 * K), (0x30_0200, 0xe00)];
    let layout = lay_out(&entries, 4 * K, &LIMITS);
    let segments = [(0, 60 * K), (64 * K, 8 * K), (72 * K + 0x200, 0xe00)];
    assert_eq!(layout.segments, segments);
    assert_eq!(layout.bytes, 76 * K);
}

/// A segment ends with the entry that does not fill its page.
#[test]
fn entries_join_until_one_ends_short_of_its_page() {
    let entries = [
        (0x10_0000, 4 * K),
        (0x20_0000, 4 * K),
        (0x30_0000, K),
        (0x40_0000, 4 * K),
    ];
    let layout = lay_out(&entries, 4 * K, &LIMITS);
    assert_eq!(layout.segments, [(0, 9 * K), (12 * K, 4 * K)]);
    assert_eq!(layout.runs.len(), 4);
}

#[test]
fn adjacent_entries_enter_the_tables_as_one_run() {
    let entries = [(0x10_0000, 8 * K), (0x10_2000, 4 * K), (0x40_0000, 4 * K)];
    let layout = lay_out(&entries, 4 * K, &SegmentLimits::default());
    assert_eq!(layout.runs, [(0x10_0000, 12 * K), (0x40_0000, 4 * K)]);
    assert_eq!(layout.segments, [(0, 16 * K)]);
}

#[test]
fn a_segment_is_no_longer_than_the_device_takes() {
    let entries = [(0x10_0000, 40 * K), (0x20_0000, 40 * K)];
    let limits = SegmentLimits {
        boundary_mask: u64::from(u32::MAX),
        ..LIMITS
    };
    let layout = lay_out(&entries, 4 * K, &limits);
    assert_eq!(layout.segments, [(0, 40 * K), (40 * K, 40 * K)]);
}

#[test]
fn addresses_come_from_the_top_down_at_multiples_of_their_size() {
    let mut tree = Tree::new(4 * K);
    let end = 1 << 20;
    assert_eq!(tree.take(1, end).start, Some(0xf_ffff));
    assert_eq!(tree.take(4, end).start, Some(0xf_fff8));
    // What lies between is passed over until something above is freed.
    assert_eq!(tree.take(1, end).start, Some(0xf_fff7));
    tree.give(0xf_ffff);
    assert_eq!(tree.take(1, end).start, Some(0xf_ffff));
}

#[test]
fn a_search_that_failed_is_not_repeated_until_something_is_freed() {
    let mut tree = Tree::new(4 * K);
    tree.reserve(0, 0xf_fffd);
    let end = 1 << 20;
    assert_eq!(tree.take(1, end).start, Some(0xf_ffff));
    assert!(tree.take(2, end).steps > 0, "looked at everything");
    assert_eq!(tree.take(2, end).steps, 0, "known to be hopeless");
    tree.give(0xf_ffff);
    assert_eq!(tree.take(2, end).start, Some(0xf_fffe));
}

#[test]
fn below_4_gib_is_tried_first_and_left_for_good_by_6_12() {
    for (engine, again) in [(Engine::Linux6_12, 0x1_0000_0000), (Engine::Linux6_1, 0)] {
        let mut config = DomainConfig::new(engine, Invalidation::Strict, 1);
        config.reserved = vec![(0x10_0000, 0xffff_ffff)];
        let mut domain = Domain::new(config);
        let run = |bytes| [(1 << 40, bytes)];
        let large = domain.map(0, 0, &run(1 << 20)).unwrap();
        assert!(large.iova >= 1 << 32, "nothing below has room");
        let small = domain.map(0, 0, &run(4 * K)).unwrap();
        assert!(small.iova >= again && (again > 0 || small.iova < 1 << 32));
    }
}

#[test]
fn a_full_queue_flushes_and_a_timer_does() {
    let mut domain = Domain::new(DomainConfig::new(Engine::Linux6_12, Invalidation::Lazy, 2));
    for _ in 0..300 {
        let range = domain.map(0, 0, &[(1 << 32, 4 * K)]).unwrap();
        domain.unmap(0, 1_000_000, range);
    }
    // 255 fit, the next one flushes for all of them.
    assert_eq!(domain.costs().flushes, 1);
    assert_eq!(domain.costs().exposed_page_ns, 0);
    domain.advance(11_000_001);
    assert_eq!(domain.costs().flushes, 2);
    assert_eq!(domain.costs().exposed_page_ns, 45 * 10_000_000);
    assert_eq!(domain.costs().syncs, 2);
}

/// A timer's flush on one CPU frees what waits on all, but what another CPU unmapped while hardware
/// was being told waits on.
#[test]
fn what_came_too_late_for_a_flush_waits_for_the_next() {
    let config = DomainConfig::new(Engine::Linux6_12, Invalidation::Lazy, 2);
    let mut domain = Domain::new(DomainConfig {
        timer: Timer::Told,
        ..config
    });
    let run = [(1 << 32, 4 * K)];
    let ranges: Vec<_> = (0..3).map(|_| domain.map(1, 0, &run).unwrap()).collect();
    for range in &ranges {
        domain.unmap(1, 0, *range);
    }
    domain.flushed_but(0, 10, 1);
    assert_eq!(domain.map(0, 20, &run).unwrap(), ranges[1]);
    // Its own CPU frees nothing with its next unmap: hardware has not forgotten it.
    let other = domain.map(1, 20, &run).unwrap();
    domain.unmap(1, 30, other);
    assert!(domain.is_waiting(ranges[2].iova));
    domain.flushed(0, 40);
    assert_eq!(domain.map(0, 50, &run).unwrap(), other);
    assert_eq!(domain.map(0, 50, &run).unwrap(), ranges[2]);
}

/// Nothing recorded the timer, but an address that waited is mapped again: it has run by then, after
/// that address was unmapped and before the next was.
#[test]
fn an_address_that_is_mapped_again_tells_of_a_flush() {
    let config = DomainConfig::new(Engine::Linux6_12, Invalidation::Lazy, 2);
    let mut domain = Domain::new(DomainConfig {
        timer: Timer::Told,
        ..config
    });
    let run = [(1 << 32, 4 * K)];
    let ranges: Vec<_> = (0..3).map(|_| domain.map(1, 0, &run).unwrap()).collect();
    for (at, range) in ranges.iter().enumerate() {
        domain.unmap(1, at as u64, *range);
    }
    assert!(domain.flushed_unseen(0, 10, ranges[1].iova));
    assert_eq!(domain.map(0, 10, &run).unwrap(), ranges[1]);
    assert_eq!(domain.map(0, 10, &run).unwrap(), ranges[0]);
    assert!(domain.is_waiting(ranges[2].iova));
}

#[test]
fn freed_addresses_come_back_last_in_first_out_on_their_cpu() {
    let mut domain = Domain::new(DomainConfig::new(
        Engine::Linux6_12,
        Invalidation::Strict,
        2,
    ));
    let run = [(1 << 32, 4 * K)];
    let ranges: Vec<_> = (0..3).map(|_| domain.map(0, 0, &run).unwrap()).collect();
    for range in &ranges {
        domain.unmap(1, 0, *range);
    }
    assert_eq!(domain.map(1, 0, &run).unwrap(), ranges[2]);
    let other = domain.map(0, 0, &run).unwrap();
    assert!(!ranges.contains(&other), "another CPU's");
    assert_eq!(domain.costs().cache_hits, 1);
}

#[test]
fn tables_are_written_once_for_each_leaf_and_each_table() {
    let mut tables = Tables::new(4 * K);
    // Three tables below the root, then four leaves.
    assert_eq!(tables.map(0x1000, 0x5000, 16 * K), (7, 3));
    assert_eq!(tables.unmap(0x1000, 16 * K), 4);
    assert_eq!(tables.map(0x1000, 0x5000, 4 * K), (1, 0));
    // A block needs no leaf table; a whole leaf table goes with one entry.
    assert_eq!(tables.map(2 << 20, 4 << 20, 2 << 20), (1, 0));
    assert_eq!(tables.unmap(2 << 20, 2 << 20), 1);
    assert_eq!(tables.map(2 << 20, 4 << 12, 2 << 20), (513, 1));
    assert_eq!(tables.unmap(2 << 20, 2 << 20), 1);
}

/// A page at each of two devices, one after the other.
fn two_devices() -> Calls {
    let device = |name: &str| DeviceCalls {
        name: name.to_owned(),
        is_translated: true,
    };
    let page = |device| Buffer {
        device,
        direction: Direction::ToDevice,
        kind: BufferKind::Single,
        pieces: vec![Piece {
            phys: Some(0x10_0000),
            bytes: Some(4 * K),
        }],
        merged: Vec::new(),
        bytes: 4 * K,
        skips_sync: false,
    };
    let map = |buffer: u32| Call {
        at_ns: u64::from(buffer),
        cpu: 0,
        flow: Flow::Task(1),
        event: u64::from(buffer),
        kind: CallKind::Map(buffer),
    };
    Calls {
        source: CallSource::Calls,
        devices: vec![device("0000:00:1f.2"), device("0000:00:1f.3")],
        buffers: vec![page(0), page(1)],
        order: vec![map(0), map(1)],
        unmaps_unseen: 0,
        cut_lists: 0,
        mixed_domains: 0,
    }
}

#[test]
fn devices_of_one_group_take_their_addresses_from_one_domain() {
    let calls = two_devices();
    let apart = |dma: [u64; 2], groups: [u32; 2]| {
        let recorded = RecordedTranslation {
            dma: dma.map(Some).to_vec(),
            ..RecordedTranslation::default()
        };
        let mut setup = TranslationSetup::new(None, &calls, &recorded, Engine::Linux6_12);
        for (device, group) in calls.devices.iter().zip(groups) {
            setup.groups.insert(device.name.clone(), group);
        }
        agree_on_translation(&calls, &recorded, &setup)
            .addresses
            .equal
    };
    let top = (1 << 32) - 4 * K;
    assert_eq!(apart([top, top], [3, 4]), 2);
    assert_eq!(apart([top, top - 4 * K], [3, 3]), 2);
    assert_eq!(apart([top, top], [3, 3]), 1);
    assert_eq!(apart([top, top - 4 * K], [3, 4]), 1);
}

/// Entries of 3.5 KiB from half a KiB into its page and of two pages became one segment of 11.5 KiB,
/// an entry of 2 KiB from 1 KiB into its page another: four granules.
#[test]
fn where_lengths_are_hidden_segments_tell_how_many_granules() {
    let mut calls = two_devices();
    let buffer = &mut calls.buffers[0];
    let hidden = |phys| Piece {
        phys: Some(phys),
        bytes: None,
    };
    buffer.kind = BufferKind::List;
    buffer.pieces = [0x20_0200, 0x30_0000, 0x40_0400].map(hidden).to_vec();
    buffer.merged = vec![(0x200, 11 * K + K / 2), (3 * 4 * K + K, 2 * K)];
    buffer.bytes = 13 * K + K / 2;
    let runs = Runs::of(buffer, 4 * K);
    assert_eq!(runs.bytes, 16 * K);
    assert_eq!(runs.starts, [0x20_0000, 0x30_0000, 0x40_0000]);
    assert_eq!(runs.may_join, [false, true, false]);
    assert!(runs.lengths.is_empty());
}
