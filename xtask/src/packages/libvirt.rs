//! Debian's libvirt and virt-install, the only thing that is installed on this machine: its
//! daemon finds its drivers and data at fixed places. The packages that start
//! it as a service are left out.

use std::path::Path;
use std::process::Command;

use crate::error::Result;
use crate::process::{capture, in_path};
use crate::ui;

/// What the tests run and use, and the package that has it.
const PROGRAMS: [(&str, &str); 7] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon"),
    ("/usr/sbin/virtlogd", "libvirt-daemon"),
    (
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
    ),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/virt-install", "virtinst"),
    ("/usr/share/osinfo", "osinfo-db"),
    ("/usr/bin/passt", "passt"),
];

/// Install what is missing.
pub fn install() -> Result<()> {
    let there = |program: &str| Path::new(program).exists() || in_path(program).is_some();
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !there(program))
        .map(|(_, package)| *package)
        .collect();
    if !there("ip") {
        missing.push("iproute2");
    }
    if missing.is_empty() {
        return Ok(());
    }
    ui::step(&format!("Installing {}", missing.join(", ")));
    capture("apt-get update", apt_get().args(["update", "--quiet"]))?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    capture("apt-get install", install.args(missing)).map(drop)
}

/// apt-get with the rights to install.
fn apt_get() -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"]);
    command
}
