#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, bytes: &mut [u8]) {
    let _ = device.bounce_from_device::<FromDevice, _>(bytes, Attributes::NONE, |_| (bytes[0], 1));
}

fn main() {}
