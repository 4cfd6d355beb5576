#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(device: &Dev, mut mapping: Mapping<Bidirectional>) {
    let one = device.sync_part_for_cpu(&mut mapping, 0, 1).unwrap();
    let other = device.sync_part_for_cpu(&mut mapping, 0, 1).unwrap();
    one.read(0, &mut [1]);
}

fn main() {}
