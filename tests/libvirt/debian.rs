//! A whole Debian from its disk image, under libvirt.

use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::support;
use crate::support::libvirt::{EMULATOR, IMAGES, Libvirt, Owner};

/// The domain that users are given.
const EXAMPLE: &str = include_str!("../../libvirt.xml");
/// A whole Debian starts, or ends, within this time.
const DEBIAN: Duration = Duration::from_secs(300);

/// libvirt.xml as it stands, but for the place of GRUB: a whole Debian.
pub fn example() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let (_disk, grub) = debian_image()?;
    let network = "<network><name>default</name>
        <forward mode='bridge'/><bridge name='br0'/></network>";
    let network = libvirt.file("network.xml", network)?;
    libvirt.virsh(&format!("net-define {network}"))?;
    libvirt.virsh("net-start default")?;
    let place = "/usr/lib/grub-xen/grub-x86_64-xen.bin";
    libvirt.define(&EXAMPLE.replace(place, &grub))?;
    libvirt.virsh("start debian")?;
    debian_to_its_end(&libvirt)
}

/// The Debian image's disk, a file of its own whose holes stay holes, and GRUB.
fn debian_image() -> Result<(String, String), Failed> {
    let (disk, grub) = (format!("{IMAGES}/debian.img"), format!("{IMAGES}/grub"));
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always")
        .arg(support::image("debian.img"));
    support::output(copy.arg(&disk))?;
    std::fs::copy(support::image("grub"), &grub)?;
    Ok((disk, grub))
}

/// The domain `debian`, just started, to its login prompt and off again.
fn debian_to_its_end(libvirt: &Libvirt) -> Result<(), Failed> {
    let start = Instant::now();
    let mut console = libvirt.console("debian")?;
    console.expect("debian login: ", DEBIAN)?;
    eprintln!("login after {:?}", start.elapsed());
    let start = Instant::now();
    libvirt.virsh("shutdown debian")?;
    libvirt.comes("domstate debian --reason", "shut off (shutdown)", DEBIAN)?;
    eprintln!("off after {:?}", start.elapsed());
    libvirt.is_clean("debian")
}

/// virt-install's own idea of a domain with the Debian image, as docs/libvirt.md has it.
pub fn virt_install() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let (disk, grub) = debian_image()?;
    // It offers the emulators that it finds under QEMU's names.
    std::os::unix::fs::symlink(EMULATOR, "/usr/local/bin/qemu-system-x86_64")?;
    let mut command = libvirt.command("virt-install");
    command.args(["--connect", "qemu:///system", "--name", "debian"]);
    command.args(["--memory", "768", "--vcpus", "2", "--import"]);
    command.args(["--os-variant", "linux2020", "--graphics", "none"]);
    command.args(["--noautoconsole", "--network", "bridge=br0"]);
    command.args(["--disk", &format!("{disk},format=raw")]);
    command.args(["--boot", &format!("kernel={grub}")]);
    support::output(&mut command)?;
    debian_to_its_end(&libvirt)?;
    libvirt.virsh("undefine debian").map(drop)
}
