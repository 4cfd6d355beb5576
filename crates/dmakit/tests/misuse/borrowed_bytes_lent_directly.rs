#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, bytes: &mut [u8]) {
    let _ = device.map::<ToDevice>(bytes, Attributes::NONE);
}

fn main() {}
