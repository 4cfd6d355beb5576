#![allow(unused)]
use dmakit_addr::{Attributes, FromDevice, PhysAddr, PhysRange, ToDevice};
use dmakit_dma::{Debt, Device, PageWindow, Request, Sealed};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, sealed: Sealed<FromDevice>, buffer: CpuBuffer) {
    let debt = device.destroy(sealed, buffer, core::iter::empty());
    let _ = buffer.read(0, &mut [0; 4]);
}

fn main() {}
