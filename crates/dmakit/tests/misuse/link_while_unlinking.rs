#![allow(unused)]
use dmakit_addr::{Attributes, FromDevice, PhysAddr, PhysRange, ToDevice};
use dmakit_dma::{Debt, Device, PageWindow, Request, Sealed};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, sealed: Sealed<ToDevice>, buffer: CpuBuffer, run: PhysRange) {
    let (mut request, debt) = device.unlink(sealed, buffer, core::iter::empty()).unwrap();
    let _ = device.link(&mut request, run, &debt);
}

fn main() {}
