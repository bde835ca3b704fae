//! What virt-manager asks and does: its calls of libvirt, by its language's binding, and the command
//! that changes domains as its forms do.

use std::os::unix::fs::symlink;

use libtest_mimic::Failed;

use crate::guest::{DISKS, NIC, SHUTDOWN, image, pvtest};
use crate::support::libvirt::{EMULATOR, Libvirt, Owner};
use crate::support::output;

/// The calls.
const CALLS: &str = include_str!("manager.py");
/// Files that are there with virt-manager's packages.
pub const PROGRAMS: [&str; 2] = ["/usr/bin/python3", "/usr/bin/virt-xml"];

/// A running domain in virt-manager's list and window.
pub fn manager() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    // As docs/libvirt.md has it: where there is no QEMU.
    symlink(EMULATOR, "/usr/local/bin/qemu-system-x86_64")?;
    image("first", 64)?;
    image("one.iso", 4)?;
    libvirt.define(&pvtest("serve", "destroy", &format!("{DISKS}{NIC}")))?;
    libvirt.virsh("start guest")?;
    let script = libvirt.file("manager.py", CALLS)?;
    let calls = |part: &[&str]| {
        let mut python = libvirt.command("python3");
        python.args([&script, "qemu:///system", "guest", EMULATOR]);
        output(python.args(part))
    };
    calls(&[])?;
    let change = |words: &[&str]| {
        let mut command = libvirt.command("virt-xml");
        command.args(["--connect", "qemu:///system", "guest", "--update"]);
        output(command.args(words))
    };
    let second = image("second", 32)?;
    let disk = format!("path={second},format=raw,bus=virtio,target=vdb");
    change(&["--add-device", "--disk", &disk])?;
    libvirt.says("domblkinfo guest vdb", &["Capacity: 33554432"])?;
    change(&["--remove-device", "--disk", "target=vdb"])?;
    if libvirt.virsh("domblklist guest")?.contains("vdb") {
        return Err("vdb is still there".into());
    }
    libvirt.log_is_clean()?;
    eprint!("{}", calls(&["refused"])?);
    libvirt.virsh("shutdown guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SHUTDOWN)?;
    libvirt.left_nothing("guest")
}
