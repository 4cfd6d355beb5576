#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, block: &dmakit_dma::Coherent<u64>) {
    let view = device.view(block).unwrap();
    let word: &u64 = &*view.at(0).unwrap();
}

fn main() {}
