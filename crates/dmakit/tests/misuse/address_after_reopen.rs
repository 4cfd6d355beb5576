#![allow(unused)]
use dmakit_addr::ToDevice;
use dmakit_dma::Sealed;

fn misuse(sealed: Sealed<ToDevice>) {
    let _request = sealed.reopen();
    let _ = sealed.segment();
}

fn main() {}
