//! Events whose calls are known, as text.

use dmakit_linux_model::{BufferKind, CallKind, Calls, CallsIngest, RecordedTranslation};
use dmakit_trace::{Options, Trace};

fn read(text: &str) -> (Calls, RecordedTranslation) {
    let mut ingest = CallsIngest::new();
    let trace = Trace::from_bytes(text.as_bytes().to_vec(), Options::default()).unwrap();
    for event in trace {
        ingest.push(&event.unwrap());
    }
    ingest.finish()
}

fn kinds(calls: &Calls) -> Vec<CallKind> {
    calls.order.iter().map(|call| call.kind).collect()
}

/// A line of task 7 on CPU 0.
fn line(at: &str, event: &str) -> String {
    format!("fio-7 [000] ..... {at}: {event}\n")
}

#[test]
fn a_list_is_one_buffer_and_one_call_however_many_segments_it_has() {
    let text = line(
        "1.000001",
        "dma_map_sg: d1 dir=FROM_DEVICE nents=3/3 ents=2/2 dma_addrs={0x10000,0x20000} \
         sizes={0x2000,0x1000} phys_addrs={0x5000,0x9000,0x7000} attrs=",
    ) + &line(
        "1.000009",
        "dma_unmap_sg: d1 dir=FROM_DEVICE phys_addrs={0x5000,0x9000,0x7000} attrs=",
    );
    let (calls, recorded) = read(&text);
    assert_eq!(kinds(&calls), [CallKind::Map(0), CallKind::Unmap(0)]);
    let buffer = &calls.buffers[0];
    assert_eq!((buffer.kind, buffer.bytes), (BufferKind::List, 0x3000));
    assert_eq!(buffer.pieces.len(), 3);
    assert_eq!(recorded.dma, [Some(0x10000)]);
    // Merged: no piece's own length is shown, each takes at least a page.
    assert_eq!(
        buffer.runs(4096),
        [(0x5000, 0x1000), (0x9000, 0x1000), (0x7000, 0x1000)]
    );
}

#[test]
fn what_a_map_event_cuts_off_the_unmap_event_shows() {
    let entries = |count: usize| -> String {
        let entry = |index: usize| format!("{:#x}", 0x10_0000 + index * 0x2000);
        (0..count).map(entry).collect::<Vec<_>>().join(",")
    };
    let text = line(
        "1.000001",
        &format!(
            "dma_map_sg: d1 dir=TO_DEVICE nents=128/200 ents=1/1 [TRUNCATED] dma_addrs={{0x10000}} \
             sizes={{{:#x}}} phys_addrs={{{}}} attrs=",
            200 * 4096,
            entries(128)
        ),
    ) + &line(
        "1.000009",
        &format!(
            "dma_unmap_sg: d1 dir=TO_DEVICE phys_addrs={{{}}} attrs=",
            entries(200)
        ),
    );
    let (calls, _) = read(&text);
    assert_eq!(kinds(&calls), [CallKind::Map(0), CallKind::Unmap(0)]);
    assert_eq!(calls.buffers[0].pieces.len(), 200);
    assert_eq!(calls.buffers[0].bytes, 200 * 4096);
}

#[test]
fn coherent_memory_is_paired_by_its_address_and_a_free_of_nothing_is_none() {
    let alloc = "dma_alloc: d1 dir=BIDIRECTIONAL dma_addr=fffff000 size=512 \
                 virt_addr=000000004d0f9331 flags=GFP_KERNEL attrs=";
    let free = "dma_free: d1 dir=BIDIRECTIONAL dma_addr=fffff000 size=512 \
                virt_addr=000000004d0f9331 attrs=";
    let nothing = "dma_free: d1 dir=BIDIRECTIONAL dma_addr=0 size=0 \
                   virt_addr=0000000000000000 attrs=";
    let map = "dma_map_page: d1 dir=TO_DEVICE dma_addr=ffffe000 size=8 phys_addr=2000 attrs=";
    let text = line("1.000001", alloc)
        + &line("1.000002", map)
        + &line("1.000003", nothing)
        + &line("1.000004", free);
    let (calls, _) = read(&text);
    let wanted = [CallKind::Map(0), CallKind::Map(1), CallKind::Unmap(0)];
    let mut order = kinds(&calls);
    // Numbered when they are read; ordered by their events.
    let numbers: Vec<BufferKind> = calls.buffers.iter().map(|buffer| buffer.kind).collect();
    if numbers[0] != BufferKind::Coherent {
        order.swap(0, 1);
    }
    assert_eq!(order, wanted);
    assert_eq!(calls.unmaps_unseen, 0);
    assert!(calls.devices[0].is_translated);
}

#[test]
fn a_sync_belongs_to_the_buffer_that_its_address_lies_in() {
    let text = line(
        "1.000001",
        "dma_map_page: d1 dir=FROM_DEVICE dma_addr=5000 size=2048 phys_addr=5000 attrs=",
    ) + &line(
        "1.000002",
        "dma_sync_single_for_cpu: d1 dir=FROM_DEVICE dma_addr=5100 size=68",
    ) + &line(
        "1.000003",
        "dma_sync_single_for_cpu: d1 dir=FROM_DEVICE dma_addr=9000 size=68",
    );
    let (calls, _) = read(&text);
    let sync = CallKind::Sync {
        buffer: 0,
        bytes: 68,
    };
    assert!(kinds(&calls).contains(&sync));
    assert_eq!(calls.order.len(), 2, "the other lies in none");
    assert!(!calls.devices[0].is_translated);
}

#[test]
fn without_calls_what_one_unmap_ends_is_one() {
    let map = |at: &str, iova: u64, phys: u64| {
        let end = iova + 4096;
        line(
            at,
            &format!("map: IOMMU: iova={iova:#018x} - {end:#018x} paddr={phys:#018x} size=4096"),
        )
    };
    let text = map("1.000001", 0xf000, 0x5000)
        + &map("1.000002", 0xd000, 0x9000)
        + &map("1.000003", 0xe000, 0x7000)
        + &line(
            "1.000004",
            "unmap: IOMMU: iova=0x000000000000d000 - 0x000000000000f000 size=8192 unmapped_size=8192",
        );
    let (calls, recorded) = read(&text);
    assert_eq!(
        kinds(&calls),
        [CallKind::Map(0), CallKind::Map(1), CallKind::Unmap(1)]
    );
    assert_eq!(recorded.dma, [Some(0xf000), Some(0xd000)]);
    assert_eq!(
        calls.buffers[1].runs(4096),
        [(0x9000, 4096), (0x7000, 4096)]
    );
}

/// Fresh ranges come from the top down, so what goes on upwards is one call. What was given back
/// comes in any order, each range whole.
#[test]
fn ranges_that_were_given_back_are_calls_of_their_own() {
    let range = |iova: u64, pages: u64| format!("{iova:#018x} - {:#018x}", iova + pages * 4096);
    let map = |at: &str, iova: u64, pages: u64| {
        let (range, bytes) = (range(iova, pages), pages * 4096);
        line(
            at,
            &format!("map: IOMMU: iova={range} paddr=0x0000000000005000 size={bytes}"),
        )
    };
    let unmap = |at: &str, iova: u64, pages: u64| {
        let (range, bytes) = (range(iova, pages), pages * 4096);
        line(
            at,
            &format!("unmap: IOMMU: iova={range} size={bytes} unmapped_size={bytes}"),
        )
    };
    let text = map("1.000001", 0xf000, 1)
        + &map("1.000002", 0xe000, 1)
        + &map("1.000003", 0xc000, 2)
        + &unmap("1.000004", 0xf000, 1)
        + &unmap("1.000005", 0xe000, 1)
        + &unmap("1.000006", 0xc000, 2)
        // Two pages of the last call, then each of the others, upwards.
        + &map("1.000007", 0xc000, 1)
        + &map("1.000008", 0xd000, 1)
        + &map("1.000009", 0xe000, 1)
        + &map("1.000010", 0xf000, 1)
        // Never given back: one call.
        + &map("1.000011", 0x8000, 1)
        + &map("1.000012", 0x9000, 1);
    let (calls, recorded) = read(&text);
    let lasting: Vec<(Option<u64>, u64)> = recorded.dma[3..]
        .iter()
        .zip(&calls.buffers[3..])
        .map(|(dma, buffer)| (*dma, buffer.bytes))
        .collect();
    let wanted = [
        (0xc000, 8192),
        (0xe000, 4096),
        (0xf000, 4096),
        (0x8000, 8192),
    ];
    assert_eq!(lasting, wanted.map(|(dma, bytes)| (Some(dma), bytes)));
}
