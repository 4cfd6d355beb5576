//! Says how the image is linked: one flat file that QEMU loads as it would Linux.

fn main() {
    println!("cargo:rustc-link-arg=-Timage.ld");
    println!("cargo:rustc-link-arg=-Tmemory.ld");
    println!("cargo:rustc-link-arg=--oformat=binary");
    println!("cargo:rerun-if-changed=memory.ld");
}
