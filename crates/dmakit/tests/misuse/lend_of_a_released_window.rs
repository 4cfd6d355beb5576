#![allow(unused)]
use dmakit_dma::{Import, PeerProvider, PeerWindow};
use dmakit_platform::host::HostPlatform;

type Provider = PeerProvider<'static, HostPlatform>;

fn misuse(provider: Provider, import: &Import) {
    let window = provider.release();
    let _ = provider.lend(import, 0, 4096);
}

fn main() {}
