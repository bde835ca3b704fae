//! Domains that were another hypervisor's: `xenner-vivm` makes them xenner's, and they run.

use std::path::PathBuf;

use libtest_mimic::Failed;

use crate::guest::{SOON, image, shut_down};
use crate::support::libvirt::{EMULATOR, IMAGES, Libvirt, Owner};
use crate::support::session::{PROMPT, Session};
use crate::support::{PATIENCE, output, xenner};

/// Beside the emulator, which it finds there.
const VIVM: &str = "/usr/local/bin/xenner-vivm";

/// A domain as a Xen host's libvirt prints it, but for its boot loader: there is no Debian on its disks.
fn of_a_xen_host() -> String {
    format!(
        "<domain type='xen' id='7'>
  <name>guest</name>
  <memory unit='MiB'>256</memory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>
    <kernel>{IMAGES}/kernel-6.1</kernel>
    <initrd>{IMAGES}/initramfs-devices</initrd>
    <cmdline>console=hvc0 quiet</cmdline>
  </os>
  <clock offset='utc' adjustment='reset'/>
  <devices>
    <disk type='file' device='disk'>
      <driver name='file'/>
      <source file='{IMAGES}/first'/>
      <target dev='xvda' bus='xen'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='tap' type='aio'/>
      <source file='{IMAGES}/third'/>
      <target dev='xvdc' bus='xen'/>
    </disk>
    <interface type='bridge'>
      <mac address='00:16:3e:5d:c7:9e'/>
      <source bridge='br0'/>
      <script path='vif-bridge'/>
      <target dev='vif7.0'/>
      <model type='netfront'/>
    </interface>
    <console type='pty' tty='/dev/pts/3'>
      <source path='/dev/pts/3'/>
      <target type='xen' port='0'/>
    </console>
    <input type='mouse' bus='xen'/>
    <graphics type='vnc' port='-1' autoport='yes'/>
    <video><model type='xen' vram='4096'/></video>
    <memballoon model='xen'/>
  </devices>
</domain>
"
    )
}

/// A domain as virt-install makes it for QEMU, which need not be there.
fn of_qemu() -> String {
    include_str!("../../vivm/tests/golden/virt-install.xml")
        .replace("<name>debian12<", "<name>guest<")
        .replace(
            "/var/lib/libvirt/images/debian12.qcow2",
            "/var/lib/libvirt/images/first",
        )
        .replace("type=\"qcow2\"", "type=\"raw\"")
        .replace("<source file=\"/srv/iso/debian-12.iso\"/>", "")
        .replace(">2097152<", ">262144<")
}

/// The release build of the program, which `cargo xtask test` makes beside xenner's.
pub fn program() -> PathBuf {
    PathBuf::from(xenner().get_program()).with_file_name("xenner-vivm")
}

/// What it says to these words; its editor is a shell's command.
fn vivm(libvirt: &Libvirt, words: &[&str], editor: &str) -> Result<String, Failed> {
    let mut command = libvirt.command("xenner-vivm");
    command.args(["--connect", "qemu:///system"]).args(words);
    // What it keeps goes with the test.
    command.env("TMPDIR", IMAGES).env("EDITOR", editor);
    output(&mut command)
}

fn says(text: &str, wanted: &[&str]) -> Result<(), Failed> {
    match wanted.iter().find(|part| !text.contains(*part)) {
        None => Ok(()),
        Some(part) => Err(format!("xenner-vivm does not say {part:?}:\n{text}").into()),
    }
}

fn start(libvirt: &Libvirt) -> Result<Session, Failed> {
    libvirt.virsh("start guest")?;
    let mut console = libvirt.console("guest")?;
    console.expect(PROMPT, PATIENCE)?;
    Ok(console)
}

/// What runs there is nothing that is to be done again.
fn is_done(libvirt: &Libvirt) -> Result<(), Failed> {
    let text = vivm(libvirt, &["guest", "--no-edit"], "false")?;
    says(&text, &["nothing is defined"])
}

/// A domain of a Xen host, a domain of QEMU's on q35, a domain that is half xenner's, and an edit.
pub fn stories() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    std::fs::copy(program(), VIVM)?;
    image("first", 64)?;
    image("third", 32)?;
    xen(&libvirt)?;
    libvirt.virsh("undefine guest")?;
    qemu(&libvirt)
}

fn xen(libvirt: &Libvirt) -> Result<(), Failed> {
    let file = libvirt.file("xen.xml", &of_a_xen_host())?;
    let text = vivm(libvirt, &["--file", &file, "--define"], "false")?;
    // The names that the report gives are the guest's.
    let renamed = "<target dev='xvdc'> is xvdb in the guest";
    says(&text, &["Domain guest defined", renamed])?;
    is_done(libvirt)?;
    let mut guest = start(libvirt)?;
    let size = |disk: &str| format!("cat /sys/block/{disk}/size");
    guest.says(&size("xvda"), &(64 << 11).to_string(), PATIENCE)?;
    guest.says(&size("xvdb"), &(32 << 11).to_string(), PATIENCE)?;
    guest.says(
        "cat /sys/class/net/eth0/address",
        "00:16:3e:5d:c7:9e",
        PATIENCE,
    )?;
    shut_down(libvirt, &mut guest)
}

/// Without a QEMU libvirt takes no domain that wants one, so this one comes from a file.
fn qemu(libvirt: &Libvirt) -> Result<(), Failed> {
    let file = libvirt.file("qemu.xml", &of_qemu())?;
    let kernel = format!("{IMAGES}/kernel-6.1");
    let initrd = format!("{IMAGES}/initramfs-devices");
    let boots = ["--kernel", &kernel, "--initrd", &initrd];
    let boots = [&boots[..], &["--cmdline", "console=hvc0 quiet"]].concat();
    let text = vivm(
        libvirt,
        &[&["--file", &file, "--define"], &boots[..]].concat(),
        "false",
    )?;
    says(
        &text,
        &["<graphics type='spice'> removed", "Domain guest defined"],
    )?;
    is_done(libvirt)?;
    libvirt.says(
        "dumpxml guest",
        &[EMULATOR, "pc-i440fx-xenner", "host-passthrough"],
    )?;
    back_and_forth(libvirt, &boots)?;
    let text = vivm(libvirt, &["guest"], "sed -i s,>2</vcpu>,>1</vcpu>,")?;
    says(&text, &["Domain guest defined"])?;
    let mut guest = start(libvirt)?;
    guest.says("nproc", "1", PATIENCE)?;
    guest.says("cat /sys/block/xvda/size", &(64 << 11).to_string(), SOON)?;
    shut_down(libvirt, &mut guest)?;
    refused(libvirt)
}

/// The domain as somebody left it who knew no more than the emulator's name, with
/// no kernel and a processor of libvirt's: converted where it is, back, and here again.
fn back_and_forth(libvirt: &Libvirt, boots: &[&str]) -> Result<(), Failed> {
    let converted = libvirt.virsh("dumpxml guest --inactive")?;
    let of_the_kernel = ["<kernel>", "<initrd>", "<cmdline>"];
    let mut without = String::new();
    for line in converted.lines() {
        if line.contains("<cpu ") {
            without.push_str("<cpu mode='host-model'/>\n");
        } else if !of_the_kernel.iter().any(|name| line.contains(name)) {
            without.push_str(line);
            without.push('\n');
        }
    }
    libvirt.define(&without)?;
    let backup = format!("{IMAGES}/backup.xml");
    let words = [&["guest", "--no-edit", "--backup", &backup], boots].concat();
    vivm(libvirt, &words, "false")?;
    libvirt.says("dumpxml guest", &[boots[1], "host-passthrough"])?;
    libvirt.virsh(&format!("define {backup}"))?;
    let old = libvirt.virsh("dumpxml guest --inactive")?;
    if old.contains("<kernel>") || !old.contains("host-model") {
        return Err(format!("the way back leads elsewhere:\n{old}").into());
    }
    std::fs::remove_file(&backup)?;
    vivm(libvirt, &words, "false")?;
    is_done(libvirt)
}

/// libvirt's own schema has the last word on what was edited.
fn refused(libvirt: &Libvirt) -> Result<(), Failed> {
    match vivm(libvirt, &["guest"], "sed -i s,<vcpu,<vcpux/><vcpu,") {
        Ok(text) => Err(format!("an unknown element is defined: {text}").into()),
        Err(error) => says(
            error.message().unwrap_or_default(),
            &["vcpux", "what you wrote is in"],
        ),
    }
}
