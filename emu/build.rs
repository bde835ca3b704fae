//! Hands the linker script to the ring-0 image; the host build of the library needs none.

fn main() {
    println!("cargo:rerun-if-changed=emu.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg-bin=emu-image=-T{dir}/emu.ld");
    println!("cargo:rustc-link-arg-bin=emu-image=--no-pie");
}
