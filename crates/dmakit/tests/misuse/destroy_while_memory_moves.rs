#![allow(unused)]
use dmakit_addr::Bidirectional;
use dmakit_dma::{Device, Sealed};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, sealed: Sealed<Bidirectional>, buffer: CpuBuffer) {
    let moving = device.withhold(&sealed, 0, 4096).unwrap();
    let _ = device.destroy(sealed, buffer, core::iter::empty());
    let _ = device.readmit(moving);
}

fn main() {}
