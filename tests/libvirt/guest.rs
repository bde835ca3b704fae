//! The guest of most stories, a Debian kernel with a shell on its console, and what is typed there.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::support::PATIENCE;
use crate::support::libvirt::{EMULATOR, IMAGES, Libvirt, processes};
use crate::support::session::{PROMPT, Session};

/// A guest that is asked to power off is off within this time.
pub const SHUTDOWN: Duration = Duration::from_secs(10);
/// What takes no guest's help is done within this time.
pub const SOON: Duration = Duration::from_secs(10);
/// The guest's first disk, its CD, and the disk that is plugged.
pub const DISKS: &str = "<disk type='file' device='disk'>
    <driver name='qemu' type='raw'/>
    <source file='/var/lib/libvirt/images/first'/>
    <target dev='vda' bus='virtio'/>
  </disk>
  <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>";
pub const NIC: &str = "<interface type='bridge'>
    <source bridge='br0'/>
    <target dev='tap9'/>
    <model type='virtio'/>
  </interface>";

/// A domain of the name `guest`: Debian's kernel with a shell on its console.
pub fn linux(devices: &str) -> String {
    let kernel = format!(
        "<kernel>{IMAGES}/kernel-6.1</kernel><initrd>{IMAGES}/initramfs-devices</initrd>\
         <cmdline>console=hvc0 quiet</cmdline>"
    );
    domain(&kernel, "destroy", devices)
}

/// A domain of the name `guest`: the test kernel, running one of its tests.
pub fn pvtest(test: &str, on_crash: &str, devices: &str) -> String {
    let kernel = format!("<kernel>{IMAGES}/pvtest</kernel><cmdline>test={test}</cmdline>");
    domain(&kernel, on_crash, devices)
}

/// A domain of the name `guest`; its second vcpu can be plugged out.
fn domain(kernel: &str, on_crash: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'>
           <name>guest</name>
           <uuid>6e6e6578-0000-4000-8000-000000000001</uuid>
           <memory unit='MiB'>256</memory>
           <vcpu current='2'>3</vcpu>
           <vcpus>
             <vcpu id='0' enabled='yes' hotpluggable='no'/>
             <vcpu id='1' enabled='yes' hotpluggable='yes'/>
             <vcpu id='2' enabled='no' hotpluggable='yes'/>
           </vcpus>
           <os><type arch='x86_64' machine='pc'>hvm</type>{kernel}</os>
           <on_poweroff>destroy</on_poweroff>
           <on_reboot>restart</on_reboot>
           <on_crash>{on_crash}</on_crash>
           <devices>
             <emulator>{EMULATOR}</emulator>
             <serial type='pty'/>
             <console type='pty'/>
             {devices}
           </devices>
         </domain>"
    )
}

/// The shell of a guest that has booted.
pub fn attach(libvirt: &Libvirt) -> Result<Session, Failed> {
    let mut console = libvirt.console("guest")?;
    let end = Instant::now() + PATIENCE;
    loop {
        // What is typed before virsh has set the terminal is lost.
        console.send("\r")?;
        match console.expect(PROMPT, Duration::from_secs(1)) {
            Err(e) if Instant::now() > end => return Err(e),
            Err(_) => {}
            Ok(_) => return Ok(console),
        }
    }
}

/// Define it, start it, wait for its shell.
pub fn boot(libvirt: &Libvirt, xml: &str) -> Result<Session, Failed> {
    libvirt.define(xml)?;
    libvirt.virsh("start guest")?;
    let mut console = libvirt.console("guest")?;
    console.expect(PROMPT, PATIENCE)?;
    Ok(console)
}

pub fn shut_down(libvirt: &Libvirt, console: &mut Session) -> Result<(), Failed> {
    libvirt.virsh("shutdown guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SHUTDOWN)?;
    // virsh console ends with the domain.
    console.end(SOON)?;
    libvirt.is_clean("guest")
}

/// Wait until a command in the guest succeeds, once.
pub fn becomes(guest: &mut Session, test: &str) -> Result<(), Failed> {
    let command = format!(
        "n=0; until {test} || [ $n = 300 ]; do n=$((n+1)); sleep 0.1; done 2>/dev/null; [ $n != 300 ]"
    );
    guest.shell(&command, PATIENCE).map(drop)
}

/// Wait until the guest has a disk of so many sectors; gives its name there.
pub fn disk_of(guest: &mut Session, sectors: u64) -> Result<String, Failed> {
    let find = format!("grep -lx {sectors} /sys/block/xvd*/size");
    becomes(guest, &find)?;
    let path = guest.shell(&find, PATIENCE)?;
    let name = path.split('/').nth(3);
    name.map(str::to_owned)
        .ok_or_else(|| guest.failure("no name"))
}

/// A file for a disk, of so many MiB.
pub fn image(name: &str, size: u64) -> Result<String, Failed> {
    let path = format!("{IMAGES}/{name}");
    std::fs::File::create(&path)?.set_len(size << 20)?;
    Ok(path)
}

/// Has the guest use a vcpu that it was given.
pub fn bring_up(guest: &mut Session, vcpu: u32) -> Result<(), Failed> {
    let online = format!("/sys/devices/system/cpu/cpu{vcpu}/online");
    becomes(guest, &format!("[ -e {online} ]"))?;
    guest
        .shell(&format!("echo 1 > {online}"), PATIENCE)
        .map(drop)
}

/// libvirt and the guest agree on how many vcpus there are.
pub fn has_vcpus(libvirt: &Libvirt, guest: &mut Session, count: u32) -> Result<(), Failed> {
    libvirt.says("vcpucount guest", &[&format!("current live {count}")])?;
    guest.says("nproc", &count.to_string(), PATIENCE)
}

/// Is this vcpu's thread bound to these processors?
pub fn pinned(vcpu: u32, wanted: &str) -> Result<(), Failed> {
    for pid in processes("xenner") {
        for task in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
            let task = task?.path();
            let name = std::fs::read_to_string(task.join("comm"))?;
            if name.trim() != format!("CPU {vcpu}/KVM") {
                continue;
            }
            let status = std::fs::read_to_string(task.join("status"))?;
            let mut lines = status.lines();
            let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            if list.map(str::trim) == Some(wanted) {
                return Ok(());
            }
            return Err(format!("vcpu {vcpu} may run on {list:?}").into());
        }
    }
    Err(format!("no thread of vcpu {vcpu}").into())
}
