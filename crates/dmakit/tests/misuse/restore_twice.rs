#![allow(unused)]
use dmakit_addr::ToDevice;
use dmakit_dma::{PageSlot, PagedWindow, Withdrawn};

fn misuse(paged: &mut PagedWindow<ToDevice, [PageSlot; 4]>, withdrawn: Withdrawn) {
    paged.restore(withdrawn);
    paged.restore(withdrawn);
}

fn main() {}
