//! What virt-manager asks and does: its calls of libvirt, by its language's binding, and the command
//! that changes domains as its forms do.

use libtest_mimic::Failed;

use crate::guest::{DISKS, NIC, SHUTDOWN, attach, becomes, boot, disk_of, image, linux};
use crate::support::PATIENCE;
use crate::support::libvirt::{EMULATOR, Libvirt, Owner};
use crate::support::output;

/// The calls.
const CALLS: &str = include_str!("manager.py");
/// Files that are there with virt-manager's packages.
pub const PROGRAMS: [&str; 2] = ["/usr/bin/python3", "/usr/bin/virt-xml"];

/// A running domain in virt-manager's list and window.
pub fn manager() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    image("first", 64)?;
    image("one.iso", 4)?;
    drop(boot(&libvirt, &linux(&format!("{DISKS}{NIC}")))?);
    let script = libvirt.file("manager.py", CALLS)?;
    let calls = |part: &[&str]| {
        let mut python = libvirt.command(PROGRAMS[0]);
        python.args([&script, "qemu:///system", "guest", EMULATOR]);
        output(python.args(part))
    };
    calls(&[])?;
    // Its console took the guest's from everyone else.
    let mut guest = attach(&libvirt)?;
    let change = |words: &[&str]| {
        let mut command = libvirt.command(PROGRAMS[1]);
        command.args(["--connect", "qemu:///system", "guest", "--update"]);
        output(command.args(words))
    };
    let disk = format!(
        "path={},format=raw,bus=virtio,target=vdb",
        image("second", 32)?
    );
    change(&["--add-device", "--disk", &disk])?;
    let name = disk_of(&mut guest, 32 << 11)?;
    change(&["--remove-device", "--disk", "target=vdb"])?;
    becomes(&mut guest, &format!("[ ! -e /sys/block/{name} ]"))?;
    libvirt.log_is_clean()?;
    eprint!("{}", calls(&["refused"])?);
    guest.says("echo there", "there", PATIENCE)?;
    libvirt.virsh("shutdown guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SHUTDOWN)?;
    libvirt.left_nothing("guest")
}
