//! Buffers made of the program's own memory.
#![allow(unsafe_code)]

use dmakit_addr::{PhysAddr, PhysRange};
use dmakit_platform::CpuBuffer;

fn run(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).unwrap()
}

#[test]
fn a_box_comes_back_with_what_was_written() {
    let runs = vec![run(0x5000, 0x10), run(0x9000, 0x10)];
    // SAFETY: nothing here does DMA, so nothing reaches the physical side.
    let mut buffer = unsafe { CpuBuffer::from_boxed(vec![1; 0x20].into(), runs.clone()) }.unwrap();
    assert_eq!(buffer.runs().collect::<Vec<_>>(), runs);
    assert_eq!(buffer.write(0x1f, &[7, 7]), 1);
    let bytes = buffer.into_boxed().unwrap();
    assert_eq!((bytes[0x1e], bytes[0x1f]), (1, 7));
}

#[test]
fn runs_that_do_not_add_up_give_the_box_back() {
    // SAFETY: as above.
    let refused = unsafe { CpuBuffer::from_boxed(vec![1; 3].into(), vec![run(0, 2)]) };
    assert_eq!(refused.unwrap_err().len(), 3);
}

#[test]
fn static_bytes_come_back_and_only_as_such() {
    let bytes: &'static mut [u8] = Box::leak(vec![0; 8].into());
    // SAFETY: as above.
    let mut buffer = unsafe { CpuBuffer::from_static(bytes, PhysAddr::new(0x40)) }.unwrap();
    buffer.write(0, &[9]);
    let buffer = buffer.into_boxed().unwrap_err().into_segment().unwrap_err();
    let bytes = buffer.into_static().unwrap();
    assert_eq!(bytes[0], 9);
    // SAFETY: the bytes were leaked from a box above and have no other owner now.
    drop(unsafe { Box::from_raw(bytes) });
}
