//! All that is asked of, and changed in, one running guest.

use libtest_mimic::Failed;

use crate::guest::{
    DISKS, NIC, SOON, becomes, boot, bring_up, disk_of, has_vcpus, image, linux, pinned, shut_down,
};
use crate::support::libvirt::{IMAGES, Libvirt, Owner};
use crate::support::session::{PROMPT, Session};
use crate::support::{PATIENCE, run};

/// Asks the bridge's host for an answer.
const PING: &str = "ping -c 1 -w 1 10.98.0.1 >/dev/null";

pub fn rows() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    image("first", 64)?;
    let small = Small::new()?;
    let mut console = boot(&libvirt, &linux(&format!("{DISKS}{NIC}")))?;
    let guest = &mut console;
    information(&libvirt, guest)?;
    vcpus(&libvirt, guest)?;
    pauses(&libvirt, guest)?;
    memory(&libvirt, guest)?;
    plugged_disks(&libvirt, guest)?;
    cdrom(&libvirt, guest)?;
    full_disk(&libvirt, guest, &small)?;
    interfaces(&libvirt, guest)?;
    guest.says(
        "dmesg | grep -cE 'BUG|WARNING: CPU|Call Trace' || true",
        "0",
        PATIENCE,
    )?;
    shut_down(&libvirt, guest)?;
    libvirt.virsh("undefine guest")?;
    libvirt.says("list --all --name", &[""]).map(drop)
}

fn information(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.says("list", &["guest running"])?;
    libvirt.says(
        "dominfo guest",
        &["State: running", "CPU(s): 2", "Max memory: 262144 KiB"],
    )?;
    libvirt.says("domstate guest --reason", &["running (booted)"])?;
    let pty = libvirt.says("ttyconsole guest", &["/dev/pts/"])?;
    if !std::path::Path::new(&pty).exists() {
        return Err(format!("the console {pty:?} is not there").into());
    }
    libvirt.says("vcpucount guest", &["maximum live 3", "current live 2"])?;
    libvirt.says(
        "vcpuinfo guest",
        &["VCPU: 0", "VCPU: 1", "State: running", "CPU time:"],
    )?;
    libvirt.virsh("vcpupin guest 1 0 --live")?;
    libvirt.says("vcpupin guest", &["1 0"])?;
    pinned(1, "0")?;
    libvirt.says("emulatorpin guest", &["*:"])?;
    let stats = [
        "state.state=1",
        "cpu.time=",
        "balloon.current=262144",
        "vcpu.current=2",
        "vcpu.1.state=1",
        "net.0.name=tap9",
        "block.0.path=",
        "block.0.rd.bytes=",
    ];
    libvirt.says("domstats guest", &stats)?;
    libvirt.runs("guest")?;
    let answer = libvirt.virsh_words(&["qemu-monitor-command", "guest", "--hmp", "info status"])?;
    if !answer.contains("running") {
        return Err(format!("info status: {answer}").into());
    }
    guest.says("cat /sys/hypervisor/type", "xen", PATIENCE)
}

/// Vcpus come and go; the guest brings up a new one when its shell says so, as under Xen.
fn vcpus(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    has_vcpus(libvirt, guest, 2)?;
    libvirt.virsh("setvcpus guest 3 --live")?;
    bring_up(guest, 2)?;
    has_vcpus(libvirt, guest, 3)?;
    libvirt.says("vcpuinfo guest", &["VCPU: 2"])?;
    libvirt.virsh("vcpupin guest 2 0 --live")?;
    pinned(2, "0")?;
    for _ in 0..2 {
        libvirt.virsh("setvcpus guest 1 --live")?;
        has_vcpus(libvirt, guest, 1)?;
        libvirt.virsh("setvcpus guest 2 --live")?;
        bring_up(guest, 1)?;
        has_vcpus(libvirt, guest, 2)?;
    }
    // The guest need not have brought it up.
    libvirt.virsh("setvcpus guest 3 --live")?;
    libvirt.virsh("setvcpus guest 2 --live")?;
    has_vcpus(libvirt, guest, 2)?;
    guest_that_is_late(libvirt, guest)
}

/// A guest that does not answer keeps its vcpu until it does.
fn guest_that_is_late(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.virsh("suspend guest")?;
    if let Ok(text) = libvirt.virsh("setvcpus guest 1 --live") {
        return Err(format!("setvcpus of a guest that stands: {text}").into());
    }
    libvirt.says("vcpucount guest", &["current live 2"])?;
    libvirt.virsh("resume guest")?;
    libvirt.comes("vcpucount guest", "current live 1", SOON)?;
    has_vcpus(libvirt, guest, 1)?;
    libvirt.virsh("setvcpus guest 2 --live")?;
    bring_up(guest, 1)?;
    has_vcpus(libvirt, guest, 2)
}

fn pauses(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    for _ in 0..3 {
        libvirt.virsh("suspend guest")?;
        libvirt.says("domstate guest --reason", &["paused (user)"])?;
        libvirt.virsh("resume guest")?;
        libvirt.says("domstate guest --reason", &["running (unpaused)"])?;
    }
    guest.says("echo awake", "awake", PATIENCE)?;
    libvirt.virsh("inject-nmi guest")?;
    for vcpu in 0..2 {
        let noted = format!("dmesg | grep -q 'NMI received for unknown reason 00 on CPU {vcpu}'");
        becomes(guest, &noted)?;
    }
    Ok(())
}

/// The balloon: the guest gives memory back, and has it again.
fn memory(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.says("dommemstat guest", &["actual 262144", "rss"])?;
    let free = "awk '/MemTotal/ { print int($2/1024) }' /proc/meminfo";
    let before: u64 = guest.shell(free, PATIENCE)?.parse()?;
    libvirt.virsh("setmem guest 200M --live")?;
    libvirt.comes("dommemstat guest", "actual 204800", SOON)?;
    let after: u64 = guest.shell(free, PATIENCE)?.parse()?;
    if before < after + 50 {
        return Err(guest.failure(&format!("the guest has {after} MiB of {before}")));
    }
    libvirt.virsh("setmem guest 256M --live")?;
    libvirt.comes("dommemstat guest", "actual 262144", SOON)
}

fn plugged_disks(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.says(
        "domblklist guest",
        &["vda /var/lib/libvirt/images/first", "hda -"],
    )?;
    libvirt.says("domblkinfo guest vda", &["Capacity: 67108864"])?;
    libvirt.says("domblkerror guest", &["No errors found"])?;
    guest.shell(
        "dd if=/dev/zero of=/dev/xvda bs=1M count=3 conv=fsync 2>/dev/null",
        PATIENCE,
    )?;
    libvirt.says("domblkstat guest vda", &["vda wr_bytes 3145728"])?;
    libvirt.virsh("blockresize guest vda 96M")?;
    disk_of(guest, 96 << 11)?;
    let second = image("second", 32)?;
    for _ in 0..3 {
        libvirt.virsh(&format!(
            "attach-disk guest {second} vdb --live --targetbus virtio"
        ))?;
        let name = disk_of(guest, 32 << 11)?;
        let read = format!("dd if=/dev/{name} of=/dev/null bs=1M 2>/dev/null");
        guest.shell(&read, PATIENCE)?;
        let stats = libvirt.virsh("domblkstat guest vdb")?;
        let bytes = stats
            .lines()
            .find_map(|line| line.strip_prefix("vdb rd_bytes "));
        // It has looked for partitions, too.
        if bytes.is_none_or(|bytes| bytes.parse().unwrap_or(0) < 32u64 << 20) {
            return Err(format!("32 MiB were read:\n{stats}").into());
        }
        libvirt.virsh("detach-disk guest vdb --live")?;
        becomes(guest, &format!("[ ! -e /sys/block/{name} ]"))?;
    }
    let left = libvirt.virsh("domblklist guest")?;
    match left.contains("vdb") {
        false => Ok(()),
        true => Err(left.into()),
    }
}

fn cdrom(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    for (file, size) in [("one.iso", 4u64), ("two.iso", 6)] {
        let path = image(file, size)?;
        libvirt.virsh(&format!("change-media guest hda {path} --insert --live"))?;
        libvirt.says("domblklist guest", &[&format!("hda {path}")])?;
        disk_of(guest, size << 11)?;
        libvirt.virsh("change-media guest hda --eject --live")?;
        libvirt.says("domblklist guest", &["hda -"])?;
    }
    Ok(())
}

/// A file system that is too small for its disk image, until it is dropped. A
/// domain sees it if it is there before.
struct Small;

impl Small {
    fn new() -> Result<Small, Failed> {
        let dir = format!("{IMAGES}/small");
        std::fs::create_dir(&dir)?;
        run(&format!("mount -t tmpfs -o size=1M,mode=755 tmpfs {dir}"))?;
        Ok(Small)
    }

    fn grow(&self) -> Result<(), Failed> {
        run(&format!("mount -o remount,size=16M {IMAGES}/small"))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = run(&format!("umount --lazy {IMAGES}/small"));
    }
}

/// The domain stands while its disk's file system is full.
fn full_disk(libvirt: &Libvirt, guest: &mut Session, small: &Small) -> Result<(), Failed> {
    let file = image("small/disk", 8)?;
    let xml = format!(
        "<disk type='file' device='disk'>
           <driver name='qemu' type='raw' error_policy='enospace'/>
           <source file='{file}'/><target dev='vdc' bus='virtio'/>
         </disk>"
    );
    let xml = libvirt.file("small.xml", &xml)?;
    libvirt.virsh(&format!("attach-device guest {xml} --live"))?;
    let name = disk_of(guest, 8 << 11)?;
    let fill = format!("dd if=/dev/zero of=/dev/{name} bs=1M conv=fsync\r");
    guest.send(&fill)?;
    libvirt.comes("domstate guest --reason", "paused (I/O error)", SOON)?;
    libvirt.says("domblkerror guest", &["vdc: no space"])?;
    small.grow()?;
    libvirt.virsh("resume guest")?;
    guest.expect("8+0 records out", PATIENCE)?;
    guest.expect(PROMPT, PATIENCE)?;
    libvirt.says("domblkerror guest", &["No errors found"])?;
    libvirt.virsh("detach-disk guest vdc --live").map(drop)
}

fn interfaces(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    libvirt.says("domiflist guest", &["tap9 bridge br0 virtio"])?;
    guest.shell("ip addr add 10.98.0.2/24 dev eth0", PATIENCE)?;
    guest.shell("ip link set eth0 up", PATIENCE)?;
    becomes(guest, PING)?;
    libvirt.virsh("domif-setlink guest tap9 down")?;
    libvirt.says("domif-getlink guest tap9", &["tap9 down"])?;
    becomes(guest, &format!("! {PING}"))?;
    libvirt.virsh("domif-setlink guest tap9 up")?;
    becomes(guest, PING)?;
    let stats = libvirt.says(
        "domifstat guest tap9",
        &["tap9 rx_packets", "tap9 tx_packets"],
    )?;
    if stats.contains("tap9 tx_packets 0\n") {
        return Err(format!("the guest has sent nothing:\n{stats}").into());
    }
    for _ in 0..3 {
        let mac = "52:54:00:aa:bb:cc";
        libvirt.virsh(&format!(
            "attach-interface guest bridge br0 --mac {mac} --model virtio --live"
        ))?;
        becomes(guest, "[ -e /sys/class/net/eth1 ]")?;
        guest.says("cat /sys/class/net/eth1/address", mac, PATIENCE)?;
        libvirt.virsh(&format!("detach-interface guest bridge --mac {mac} --live"))?;
        becomes(guest, "[ ! -e /sys/class/net/eth1 ]")?;
    }
    Ok(())
}
