#![allow(unused)]
use dmakit_addr::{Attributes, Bidirectional, FromDevice, ToDevice};
use dmakit_dma::{CpuMapping, Debt, Device, Mapping, Proof};
use dmakit_platform::{CpuBuffer, host::HostPlatform};

type Dev = Device<'static, HostPlatform>;

fn misuse(mapping: &Mapping<ToDevice>) {
    let twin: Mapping<ToDevice> = mapping.clone();
}

fn main() {}
