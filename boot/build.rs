//! Says how the image is linked: for Arm one flat file that QEMU loads as it would Linux, for x86-64
//! an ELF file with an entry for virtual machines.

use std::env::var;

fn main() {
    let arch = var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let arguments: &[&str] = match arch.as_str() {
        "aarch64" => &["-Timage.ld", "-Taarch64.ld", "--oformat=binary"],
        "x86_64" => &["-Tx86_64.ld", "--no-pie"],
        _ => &[],
    };
    for argument in arguments {
        println!("cargo:rustc-link-arg={argument}");
    }
    println!("cargo:rerun-if-changed={arch}.ld");
}
