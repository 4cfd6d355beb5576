//! Owning tokens, windows and buffers over RAM of this process.

use std::sync::atomic::Ordering;

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::host::HostRam;
use dmakit_platform::{Carved, CopySource, CopyTarget, CpuBuffer, Segment};

fn range(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

fn machine() -> (HostRam, Vec<Segment>) {
    HostRam::new(&[
        range(0x8000_0000, 0x10_0000),
        range(0x1_0000_0000, 0x10_0000),
    ])
    .unwrap()
}

#[test]
fn overlapping_or_empty_ram_is_refused() {
    assert!(HostRam::new(&[range(0, 0x2000), range(0x1000, 0x1000)]).is_err());
    assert!(HostRam::new(&[range(0, 0)]).is_err());
}

#[test]
fn hardware_sees_what_the_owner_wrote_at_the_same_physical_address() {
    let (ram, segments) = machine();
    segments[1].window().slice(0x10, 4).unwrap().write(b"dma!");
    let mut seen = [0; 4];
    ram.hardware_window(range(0x1_0000_0010, 4))
        .unwrap()
        .read(&mut seen);
    assert_eq!(&seen, b"dma!");
    assert!(
        ram.hardware_window(range(0x800f_fffe, 4)).is_none(),
        "RAM ends there"
    );
    assert!(ram.hardware_window(range(0, 1)).is_none(), "no RAM there");
}

#[test]
fn memory_outlives_the_machine_for_as_long_as_somebody_owns_a_part() {
    let (ram, segments) = machine();
    drop(ram);
    let (low, high) = segments
        .into_iter()
        .next()
        .unwrap()
        .split_at(0x1000)
        .unwrap();
    drop(low);
    high.window().fill(0xa5);
    let mut byte = [0];
    high.window()
        .slice(high.len() - 1, 1)
        .unwrap()
        .read(&mut byte);
    assert_eq!(byte, [0xa5]);
}

#[test]
fn halves_merge_only_with_their_neighbour() {
    let (_ram, mut segments) = machine();
    let other = segments.pop().unwrap();
    let (low, rest) = segments.pop().unwrap().split_at(0x1000).unwrap();
    let (middle, high) = rest.split_at(0x1000).unwrap();
    let refused = Segment::merge(low, high).unwrap_err();
    let refused = Segment::merge(refused.high, other).unwrap_err();
    let rest = Segment::merge(middle, refused.low).unwrap();
    assert_eq!(rest.range(), range(0x8000_1000, 0xf_f000));
}

#[test]
fn a_split_past_the_end_gives_the_segment_back() {
    let (_ram, mut segments) = machine();
    let segment = segments.pop().unwrap();
    let len = segment.len();
    assert_eq!(segment.split_at(len + 1).unwrap_err().len(), len);
}

#[test]
fn words_need_aligned_ends() {
    let (_ram, segments) = machine();
    let window = segments[0].window();
    let words = window.slice(8, 16).unwrap().words64().unwrap();
    words[1].store(0x0102_0304_0506_0708, Ordering::Relaxed);
    let mut byte = [0];
    window.slice(16, 1).unwrap().read(&mut byte);
    assert_eq!(byte, [8], "little-endian");
    assert!(window.slice(4, 16).unwrap().words64().is_none());
    assert!(window.slice(8, 12).unwrap().words64().is_none());
    assert_eq!(window.slice(4, 12).unwrap().words32().unwrap().len(), 3);
}

fn scattered() -> CpuBuffer {
    let (_ram, segments) = machine();
    let pieces = segments
        .into_iter()
        .map(|segment| {
            segment
                .split_at(0x1000)
                .unwrap()
                .0
                .split_at(0x800)
                .unwrap()
                .1
        })
        .collect();
    CpuBuffer::from_segments(pieces, 0xc00).unwrap()
}

#[test]
fn runs_cover_the_buffer_and_no_more() {
    let runs: Vec<_> = scattered().runs().collect();
    assert_eq!(
        runs,
        [range(0x8000_0800, 0x800), range(0x1_0000_0800, 0x400)]
    );
}

#[test]
fn a_copy_across_runs_keeps_every_byte_in_order() {
    let bytes: Vec<u8> = (0..0xc00_u32).map(|i| (i % 251) as u8).collect();
    let mut buffer = scattered();
    assert_eq!(buffer.write(0, &bytes), 0xc00);
    let mut back = vec![0; 0x900];
    assert_eq!(
        buffer.read(0x700, &mut back),
        0x500,
        "as far as the buffer reaches"
    );
    assert_eq!(back[..0x500], bytes[0x700..]);

    let (_ram, segments) = machine();
    let window = segments[0].window().slice(3, 0x200).unwrap();
    buffer.copy_to(0x700, window);
    let mut copied = vec![0; 0x200];
    window.read(&mut copied);
    assert_eq!(copied, bytes[0x700..0x900]);
    window.fill(0xee);
    buffer.copy_from(0x700, window);
    buffer.read(0x6ff, &mut back[..0x202]);
    assert_eq!(back[0], bytes[0x6ff]);
    assert!(back[1..0x201].iter().all(|&byte| byte == 0xee));
    assert_eq!(back[0x201], bytes[0x900]);
}

#[test]
fn a_copy_past_the_end_of_the_source_stops_there() {
    let buffer = scattered();
    let (_ram, segments) = machine();
    let window = segments[1].window().slice(0, 16).unwrap();
    window.fill(0x11);
    buffer.copy_to(0xbf8, window);
    let mut copied = [0; 16];
    window.read(&mut copied);
    assert_eq!(copied[..8], [0; 8]);
    assert_eq!(copied[8..], [0x11; 8]);
    buffer.copy_to(0xc01, window);
    [1_u8, 2].copy_to(3, window);
    window.read(&mut copied);
    assert_eq!(copied[8..], [0x11; 8]);
}

#[test]
fn a_buffer_longer_than_its_memory_is_refused() {
    let (_ram, mut segments) = machine();
    let segment = segments.pop().unwrap();
    let len = segment.len();
    let segment = CpuBuffer::from_segment(segment, len + 1).unwrap_err();
    assert_eq!(segment.len(), len, "it comes back");
}

fn carved() -> Carved<[u64; 2]> {
    let (_ram, mut segments) = machine();
    let (_, high) = segments.pop().unwrap().split_at(0x1000).unwrap();
    let (whole, _) = high.split_at(0x2010).unwrap();
    Carved::new(whole, 0x80).unwrap()
}

#[test]
fn a_unit_is_out_once_and_comes_back_once() {
    let mut carved = carved();
    assert_eq!(
        carved.units(),
        0x40,
        "the odd bytes at the end are not lent"
    );
    let piece = carved.take(0x3e, 2).unwrap();
    assert_eq!(piece.range(), range(0x1_0000_2f00, 0x100));
    assert!(carved.take(0x3f, 1).is_none());
    assert!(carved.take(0x40, 1).is_none() && carved.take(3, 0).is_none());
    let (low, high) = piece.split_at(0x80).unwrap();
    carved.put(high).unwrap();
    let carved = carved.into_segment().unwrap_err();
    let mut carved = carved;
    carved.put(low).unwrap();
    assert_eq!(carved.into_segment().unwrap().len(), 0x2010);
}

#[test]
fn what_was_not_taken_here_is_not_taken_back() {
    let mut one = carved();
    // The same physical run of another machine: a stranger that only looks alike.
    let stranger = carved().take(0, 1).unwrap();
    let own = one.take(0, 1).unwrap();
    let stranger = one.put(stranger).unwrap_err();
    let (half, rest) = own.split_at(0x40).unwrap();
    let half = one.put(half).unwrap_err();
    one.put(Segment::merge(half, rest).unwrap()).unwrap();
    assert!(one.put(stranger).is_err());
}

#[test]
fn runs_across_words_of_the_bitmap_are_taken_whole() {
    let (_ram, mut segments) = machine();
    let (whole, _) = segments.pop().unwrap().split_at(128 * 16).unwrap();
    let mut carved: Carved<[u64; 2]> = Carved::new(whole, 16).unwrap();
    let all = carved.take(0, 128).unwrap();
    carved.put(all).unwrap();
    let middle = carved.take(60, 8).unwrap();
    assert!(carved.take(63, 1).is_none() && carved.take(67, 1).is_none());
    assert!(carved.take(68, 60).is_some() && carved.take(0, 60).is_some());
    carved.put(middle).unwrap();
    let piece = carved.take(60, 8).unwrap();
    let piece = Carved::<[u64; 2]>::new(piece, 0).unwrap_err();
    assert!(Carved::<[u64; 0]>::new(piece, 16).is_err());
}

#[test]
fn what_is_not_out_is_given_whole_and_once() {
    let (_ram, mut segments) = machine();
    let (whole, _) = segments.pop().unwrap().split_at(130 * 16 + 5).unwrap();
    let mut bits = [!0; 3];
    let mut carved = Carved::with_bits(whole, 16, &mut bits[..]).unwrap();
    let low = carved.take(0, 2).unwrap();
    let middle = carved.take(60, 70).unwrap();
    assert!(carved.is_out(1) && !carved.is_out(2) && carved.is_out(130));
    let held: Vec<Segment> = carved.into_held().collect();
    assert_eq!(
        held.iter().map(Segment::len).collect::<Vec<_>>(),
        [58 * 16, 5]
    );
    // Together they are the whole again.
    let mut joined = low;
    let mut held = held.into_iter();
    for next in [held.next().unwrap(), middle, held.next().unwrap()] {
        joined = Segment::merge(joined, next).unwrap();
    }
    assert_eq!(joined.len(), 130 * 16 + 5);
}

#[test]
fn small_words_need_no_more_alignment_than_they_have() {
    let (_ram, segments) = machine();
    let window = segments[0].window();
    window.slice(2, 2).unwrap().words16().unwrap()[0].store(0x0201, Ordering::Relaxed);
    assert_eq!(
        window.slice(3, 1).unwrap().bytes()[0].load(Ordering::Relaxed),
        2
    );
    assert!(window.slice(1, 2).unwrap().words16().is_none());
}
