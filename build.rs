//! Builds the emulator's ring-0 image, which the program carries inside.

use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-none";

fn main() {
    for path in [
        "emu/src",
        "emu/abi/src",
        "emu/xen-abi/src",
        "emu/emu.ld",
        "emu/build.rs",
        "emu/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let cargo = std::env::var_os("CARGO").expect("cargo sets CARGO");
    let target_dir = out.join("emu");
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "xenner-emu",
            "--features",
            "image",
        ])
        .args(["--target", TARGET, "--profile", "emu", "--target-dir"])
        .arg(&target_dir)
        // position-independent code at a fixed address: no run-time relocations
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Crelocation-model=pic\u{1f}-Clink-arg=-no-pie",
        )
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .status();
    match status {
        Ok(s) if s.success() => {}
        other => panic!(
            "cannot build the emulator for {TARGET} ({other:?}); \
             is the target there? rustup target add {TARGET}"
        ),
    }
    let image = target_dir.join(TARGET).join("emu/emu-image");
    println!("cargo:rustc-env=XENNER_EMU_IMAGE={}", image.display());
}
