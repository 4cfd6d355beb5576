#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, buffer: CpuBuffer) {
    let mapping = device.map::<ToDevice>(buffer, Attributes::NONE);
    buffer.read(0, &mut [1]);
}

fn main() {}
