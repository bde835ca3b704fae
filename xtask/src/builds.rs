//! Building what the commands run: the program itself, the guest benchmark and
//! the PV test kernels, and the target that the emulator is compiled for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::process::{capture, in_path, run};
use crate::ui;
use crate::workspace::Workspace;

/// The target of everything that runs without an operating system.
const BARE_TARGET: &str = "x86_64-unknown-none";
/// The target of the static guest program.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Install the bare target if the toolchain lacks it.
pub fn ensure_target(ws: &Workspace) -> Result<()> {
    let rustc = || {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(&ws.root);
        rustc
    };
    let libdir = capture(
        "rustc",
        rustc().args(["--print", "target-libdir", "--target", BARE_TARGET]),
    )?;
    if Path::new(libdir.trim()).exists() {
        return Ok(());
    }
    if in_path("rustup").is_none() {
        return Err(Error::missing(
            format!("The toolchain has no {BARE_TARGET} and there is no rustup to add it"),
            "install Rust by rustup",
        ));
    }
    ui::step(&format!("Adding the Rust target {BARE_TARGET}"));
    run(Command::new("rustup")
        .current_dir(&ws.root)
        .args(["target", "add", BARE_TARGET]))
}

/// Whether this process has built the programs as tests need them.
static BUILT_WITH_TESTS: AtomicBool = AtomicBool::new(false);

/// Build the programs in release mode; give back the file of the main one.
pub fn xenner(ws: &Workspace) -> Result<PathBuf> {
    if !BUILT_WITH_TESTS.load(Ordering::Relaxed) {
        ensure_target(ws)?;
        ui::step("Building xenner (release)");
        run(ws.cargo().args(["build", "--release", "--locked"]))?;
    }
    Ok(ws.xenner())
}

/// Build the programs and all tests that run them, in release mode. Tests want features of some crates
/// that the programs do not, so that everything would be built twice if it were not built at once.
pub fn with_tests(ws: &Workspace) -> Result<()> {
    ensure_target(ws)?;
    ui::step("Building xenner and its tests (release)");
    let words = ["build", "--release", "--locked", "--bins", "--test", "*"];
    run(ws.cargo().args(words))?;
    BUILT_WITH_TESTS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Build the static benchmark program for guests; give back its file.
pub fn guest_bench(ws: &Workspace) -> Result<PathBuf> {
    static BUILT: AtomicBool = AtomicBool::new(false);
    let file = ws
        .target
        .join(GUEST_TARGET)
        .join("release/xenner-guest-bench");
    if BUILT.swap(true, Ordering::Relaxed) {
        return Ok(file);
    }
    ui::step("Building the guest benchmark");
    run(ws
        .cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "xenner-guest-bench",
        ])
        .args(["--target", GUEST_TARGET])
        // An explicit target keeps these flags away from build scripts and from
        // the artifacts of every other build. Without relocations at start-up
        // a forked process has fewer pages of its own, as C programs have.
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C relocation-model=static -C strip=symbols",
        ))?;
    Ok(ws
        .target
        .join(GUEST_TARGET)
        .join("release/xenner-guest-bench"))
}

/// Build the PV test kernels; give back the image.
pub fn test_kernels(ws: &Workspace) -> Result<PathBuf> {
    ensure_target(ws)?;
    ui::step("Building the PV test kernels");
    run(ws
        .cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "xenner-test-guests",
        ])
        .args(["--features", "image", "--target", BARE_TARGET]))?;
    Ok(ws.target.join(BARE_TARGET).join("release/pvtest"))
}
