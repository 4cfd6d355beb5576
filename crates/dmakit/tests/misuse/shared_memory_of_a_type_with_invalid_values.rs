#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev) {
    let _ = device.alloc_coherent::<bool>(1, Attributes::NONE);
}

fn main() {}
