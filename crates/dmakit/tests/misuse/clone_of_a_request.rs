#![allow(unused)]
use dmakit_addr::{Attributes, FromDevice, PhysAddr, PhysRange, ToDevice};
use dmakit_dma::{Debt, Device, PageWindow, Request, Sealed};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(request: Request<ToDevice>) {
    let _ = request.clone();
}

fn main() {}
