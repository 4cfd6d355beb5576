#![allow(unused)]
use dmakit_addr::{Attributes, FromDevice, PhysAddr, PhysRange, ToDevice};
use dmakit_dma::{Debt, Device, PageWindow, Request, Sealed};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, sealed: Sealed<ToDevice>, buffers: [CpuBuffer; 2]) {
    let [one, other] = buffers;
    let _ = device.destroy(sealed, one, core::iter::empty());
    let _ = device.destroy(sealed, other, core::iter::empty());
}

fn main() {}
