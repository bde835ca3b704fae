//! A whole Debian from its disk image, under libvirt.

use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::guest::{SOON, becomes, disk_of, image, pinned};
use crate::support::libvirt::{EMULATOR, IMAGES, Libvirt, Owner};
use crate::support::session::Session;
use crate::support::{self, PATIENCE};

/// The domain that users are given.
const EXAMPLE: &str = include_str!("../../libvirt.xml");
/// A whole Debian starts, or ends, within this time.
const DEBIAN: Duration = Duration::from_secs(300);

/// libvirt.xml as it stands, but for the place of GRUB: a whole Debian.
pub fn example() -> Result<(), Failed> {
    let mut libvirt = Libvirt::start(Owner::System)?;
    let (_disk, grub) = debian_image()?;
    let network = "<network><name>default</name>
        <forward mode='bridge'/><bridge name='br0'/></network>";
    let network = libvirt.file("network.xml", network)?;
    libvirt.virsh(&format!("net-define {network}"))?;
    libvirt.virsh("net-start default")?;
    let place = "/usr/lib/grub-xen/grub-x86_64-xen.bin";
    libvirt.define(&EXAMPLE.replace(place, &grub))?;
    libvirt.virsh("start debian")?;
    let mut console = libvirt.console("debian")?;
    let guest = &mut console;
    guest.log_in(DEBIAN)?;
    looked_at(&libvirt, guest)?;
    changed(&libvirt, guest)?;
    plugged(&libvirt, guest)?;
    for verb in ["reboot", "reset"] {
        libvirt.virsh(&format!("{verb} debian"))?;
        guest.log_in(DEBIAN)?;
    }
    guest.quiet_log("I/O error|EXT4-fs error")?;
    drop(console);
    to_its_end(&libvirt)?;
    libvirt.virsh("autostart debian")?;
    libvirt.restart_machine()?;
    libvirt.comes("domstate debian", "running", SOON)?;
    libvirt.virsh("destroy debian")?;
    libvirt.is_clean("debian")
}

/// What virsh tells of the domain.
fn looked_at(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.says("dominfo debian", &["State: running", "CPU(s): 2"])?;
    libvirt.says("vcpuinfo debian", &["VCPU: 1", "CPU time:"])?;
    libvirt.says("ttyconsole debian", &["/dev/pts/"])?;
    let stats = [
        "state.state=1",
        "vcpu.current=2",
        "net.0.name=",
        "block.0.path=",
    ];
    libvirt.says("domstats debian", &stats)?;
    guest.shell(
        "dd if=/dev/zero of=/root/zero bs=1M count=8 conv=fsync",
        PATIENCE,
    )?;
    libvirt.says("domblkstat debian vda", &["vda rd_bytes", "vda wr_bytes"])?;
    let nic = libvirt.virsh("domiflist debian")?;
    let mut names = nic
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let nic = names.next_back().ok_or("no network device")?;
    libvirt.says(&format!("domifstat debian {nic}"), &["tx_packets"])?;
    libvirt.says("dommemstat debian", &["actual 786432"])?;
    libvirt.runs("debian")
}

/// State, memory and vcpus.
fn changed(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.virsh("suspend debian")?;
    libvirt.says("domstate debian", &["paused"])?;
    libvirt.virsh("resume debian")?;
    libvirt.virsh("setmem debian 700M --live")?;
    libvirt.comes("dommemstat debian", "actual 716800", PATIENCE)?;
    libvirt.virsh("setmem debian 768M --live")?;
    libvirt.comes("dommemstat debian", "actual 786432", PATIENCE)?;
    libvirt.virsh("setvcpus debian 3 --live")?;
    // The image's rule for udev brings it up.
    becomes(guest, "[ $(nproc) = 3 ]")?;
    libvirt.virsh("vcpupin debian 2 0 --live")?;
    pinned(2, "0")?;
    libvirt.virsh("setvcpus debian 2 --live")?;
    becomes(guest, "[ $(nproc) = 2 ]")
}

/// What comes and goes.
fn plugged(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    let second = image("second", 32)?;
    libvirt.virsh(&format!(
        "attach-disk debian {second} vdb --live --targetbus virtio"
    ))?;
    let name = disk_of(guest, 32 << 11)?;
    libvirt.virsh("detach-disk debian vdb --live")?;
    becomes(guest, &format!("[ ! -e /sys/block/{name} ]"))?;
    let medium = image("medium.iso", 4)?;
    libvirt.virsh(&format!("change-media debian hda {medium} --insert --live"))?;
    disk_of(guest, 4 << 11)?;
    libvirt.virsh("change-media debian hda --eject --live")?;
    let mac = "52:54:00:aa:bb:cc";
    libvirt.virsh(&format!(
        "attach-interface debian bridge br0 --mac {mac} --model virtio --live"
    ))?;
    let found = format!("grep -qx {mac} /sys/class/net/*/address");
    becomes(guest, &found)?;
    libvirt.virsh(&format!(
        "detach-interface debian bridge --mac {mac} --live"
    ))?;
    becomes(guest, &format!("! {found}"))
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

/// The domain `debian`, which runs, off again.
fn to_its_end(libvirt: &Libvirt) -> Result<(), Failed> {
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
    let mut console = libvirt.console("debian")?;
    console.log_in(DEBIAN)?;
    drop(console);
    to_its_end(&libvirt)?;
    libvirt.virsh("undefine debian").map(drop)
}
