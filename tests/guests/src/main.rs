//! `pvtest`: a small 64-bit PV kernel that tests the Xen PV interface from the
//! guest's side, one rule a test, and says `PASS`, `FAIL` or `SKIP` on the PV
//! console. Not an operating system: no scheduler, no heap, no drivers beyond
//! the two rings. README.md says how to build, run and extend it.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod harness;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("pvtest is a Xen PV kernel: build it with --target x86_64-unknown-none");
}
