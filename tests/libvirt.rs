//! Domains under Debian's libvirt: what its users type into virsh, against
//! guests that run.

mod support;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use support::libvirt::{self, EMULATOR, IMAGES, Libvirt, Owner, in_namespaces, processes};
use support::session::{PROMPT, Session};
use support::{PATIENCE, asset, run, trial_unless};

/// A guest that is asked to power off is off within this time.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// What takes no guest's help is done within this time.
const SOON: Duration = Duration::from_secs(10);

/// The probe of the emulator takes no longer, the least of some.
const PROBE: Duration = Duration::from_millis(200);
/// Rounds of starts and ends, unless `XENNER_LIBVIRT_ROUNDS` says otherwise.
const ROUNDS: u32 = 2;
/// The guest's first disk, its CD, and the disk that is plugged.
const DISKS: &str = "<disk type='file' device='disk'>
    <driver name='qemu' type='raw'/>
    <source file='/var/lib/libvirt/images/first'/>
    <target dev='vda' bus='virtio'/>
  </disk>
  <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>";
const NIC: &str = "<interface type='bridge'>
    <source bridge='br0'/>
    <target dev='tap9'/>
    <model type='virtio'/>
  </interface>";

/// Asks the bridge's host for an answer.
const PING: &str = "ping -c 1 -w 1 10.98.0.1 >/dev/null";

/// The domain that users are given.
const EXAMPLE: &str = include_str!("../libvirt.xml");
/// A whole Debian starts, or ends, within this time.
const DEBIAN: Duration = Duration::from_secs(300);

/// What is done with libvirt.
type Story = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    if let Some(code) = in_namespaces() {
        return code;
    }
    let stories: [(&str, Story); 8] = [
        ("probe", probe),
        ("rows", rows),
        ("restarts", restarts),
        ("crash", crash),
        ("rounds", rounds),
        ("session", session),
        ("virt-install", virt_install),
        ("example", example),
    ];
    support::main(stories.map(|(name, run)| libvirt_test(name, run)).into())
}

fn libvirt_test(name: &str, run: Story) -> Trial {
    let mut files: Vec<_> = ["kernel-6.1", "initramfs-devices", "pvtest"]
        .map(asset)
        .into();
    match name {
        "example" => files.extend(["debian.img", "grub"].map(support::image)),
        "virt-install" => files.push("/usr/bin/virt-install".into()),
        _ => {}
    }
    let missing = libvirt::missing().or_else(|| support::missing(&files));
    trial_unless(missing, name.to_owned(), run)
}

/// A domain of the name `guest`: Debian's kernel with a shell on its console.
fn linux(devices: &str) -> String {
    let kernel = format!(
        "<kernel>{IMAGES}/kernel-6.1</kernel><initrd>{IMAGES}/initramfs-devices</initrd>\
         <cmdline>console=hvc0 quiet</cmdline>"
    );
    domain(&kernel, "destroy", devices)
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
fn attach(libvirt: &Libvirt) -> Result<Session, Failed> {
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
fn boot(libvirt: &Libvirt, xml: &str) -> Result<Session, Failed> {
    libvirt.define(xml)?;
    libvirt.virsh("start guest")?;
    let mut console = libvirt.console("guest")?;
    console.expect(PROMPT, PATIENCE)?;
    Ok(console)
}

fn shut_down(libvirt: &Libvirt, console: &mut Session) -> Result<(), Failed> {
    libvirt.virsh("shutdown guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SHUTDOWN)?;
    // virsh console ends with the domain.
    console.end(SOON)?;
    libvirt.is_clean("guest")
}

/// Wait until a command in the guest succeeds.
fn becomes(guest: &mut Session, test: &str) -> Result<(), Failed> {
    let command = format!(
        "n=0; until {test} || [ $n = 300 ]; do n=$((n+1)); sleep 0.1; done 2>/dev/null; {test}"
    );
    guest.shell(&command, PATIENCE).map(drop)
}

/// Wait until the guest has a disk of so many sectors; gives its name there.
fn disk_of(guest: &mut Session, sectors: u64) -> Result<String, Failed> {
    let find = format!("grep -lx {sectors} /sys/block/xvd*/size");
    becomes(guest, &find)?;
    let path = guest.shell(&find, PATIENCE)?;
    let name = path.split('/').nth(3);
    name.map(str::to_owned)
        .ok_or_else(|| guest.failure("no name"))
}

/// A file for a disk, of so many MiB.
fn image(name: &str, size: u64) -> Result<String, Failed> {
    let path = format!("{IMAGES}/{name}");
    std::fs::File::create(&path)?.set_len(size << 20)?;
    Ok(path)
}

/// The questions about an emulator that libvirt does not know yet: how long the
/// process lives that answers them.
fn probe() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let mut least = Duration::MAX;
    for n in 0..5 {
        // It is known by its path.
        let name = format!("xenner-{n}");
        let emulator = format!("/usr/local/bin/{name}");
        std::fs::copy(EMULATOR, &emulator)?;
        let words = ["domcapabilities", "--emulatorbin", &emulator];
        let mut client = libvirt.client(&words).stdout(Stdio::null()).spawn()?;
        let there = || !processes(&name).is_empty();
        let mut before = Instant::now();
        while !there() {
            before = Instant::now();
            if client.try_wait()?.is_some() {
                return Err("no process was seen".into());
            }
        }
        while there() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lived = before.elapsed();
        client.wait()?;
        let machine = "<machine>pc-i440fx-xenner</machine>";
        libvirt.says(&words.join(" "), &[machine, "<domain>kvm</domain>"])?;
        least = least.min(lived);
    }
    eprintln!("the probe takes {least:?}");
    if least > PROBE {
        return Err(format!("the probe takes {least:?}").into());
    }
    libvirt.is_clean("guest")
}

/// All that is asked of, and changed in, one running guest.
fn rows() -> Result<(), Failed> {
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
    let query = "{\"execute\":\"query-status\"}";
    let words = ["qemu-monitor-command", "guest", query];
    let answer = libvirt.virsh_words(&words)?;
    if !answer.contains("\"status\":\"running\"") {
        return Err(format!("query-status: {answer}").into());
    }
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

/// Has the guest use a vcpu that it was given.
fn bring_up(guest: &mut Session, vcpu: u32) -> Result<(), Failed> {
    let online = format!("/sys/devices/system/cpu/cpu{vcpu}/online");
    becomes(guest, &format!("[ -e {online} ]"))?;
    guest
        .shell(&format!("echo 1 > {online}"), PATIENCE)
        .map(drop)
}

/// libvirt and the guest agree on how many vcpus there are.
fn has_vcpus(libvirt: &Libvirt, guest: &mut Session, count: u32) -> Result<(), Failed> {
    libvirt.says("vcpucount guest", &[&format!("current live {count}")])?;
    guest.says("nproc", &count.to_string(), PATIENCE)
}

/// Is this vcpu's thread bound to these processors?
fn pinned(vcpu: u32, wanted: &str) -> Result<(), Failed> {
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

fn pauses(libvirt: &Libvirt, guest: &mut Session) -> Result<(), Failed> {
    for _ in 0..3 {
        libvirt.virsh("suspend guest")?;
        libvirt.says("domstate guest --reason", &["paused (user)"])?;
        libvirt.virsh("resume guest")?;
        libvirt.says("domstate guest --reason", &["running (unpaused)"])?;
    }
    guest.says("echo awake", "awake", PATIENCE)
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

/// The guest's own reboot, libvirt's, a reset; libvirtd's sudden end; autostart.
fn restarts() -> Result<(), Failed> {
    let mut libvirt = Libvirt::start(Owner::System)?;
    let mut console = boot(&libvirt, &linux(NIC))?;
    let before = processes("xenner");
    libvirt.virsh("vcpupin guest 1 0 --live")?;
    libvirt.virsh("reboot guest")?;
    console.expect(PROMPT, PATIENCE)?;
    libvirt.virsh("reset guest")?;
    console.expect(PROMPT, PATIENCE)?;
    has_vcpus(&libvirt, &mut console, 2)?;
    // It is bound to the same processor as before.
    libvirt.says("vcpuinfo guest", &["VCPU: 1", "CPU time:"])?;
    pinned(1, "0")?;
    libvirt.virsh("setvcpus guest 1 --live")?;
    drop(console);
    libvirt.kill_daemon()?;
    libvirt.start_daemon()?;
    libvirt.says("domstate guest", &["running"])?;
    let mut console = attach(&libvirt)?;
    has_vcpus(&libvirt, &mut console, 1)?;
    libvirt.virsh("setvcpus guest 2 --live")?;
    bring_up(&mut console, 1)?;
    has_vcpus(&libvirt, &mut console, 2)?;
    drop(console);
    libvirt.virsh("suspend guest")?;
    libvirt.kill_daemon()?;
    libvirt.start_daemon()?;
    libvirt.says("domstate guest", &["paused"])?;
    libvirt.virsh("resume guest")?;
    if processes("xenner") != before {
        return Err("it is another process".into());
    }
    let mut console = attach(&libvirt)?;
    shut_down(&libvirt, &mut console)?;
    libvirt.virsh("autostart guest")?;
    libvirt.says("dominfo guest", &["Autostart: enable"])?;
    libvirt.kill_daemon()?;
    // libvirtd starts them once after the machine does.
    std::fs::remove_file("/run/libvirt/qemu/autostarted")?;
    libvirt.start_daemon()?;
    libvirt.comes("domstate guest", "running", SOON)?;
    libvirt.virsh("destroy guest")?;
    libvirt.is_clean("guest")
}

/// A guest that crashes, with what is to come of it.
fn crash() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let kernel = format!("<kernel>{IMAGES}/pvtest</kernel><cmdline>test=crash</cmdline>");
    for (action, state) in [
        ("destroy", "shut off (crashed)"),
        ("preserve", "crashed (panicked)"),
    ] {
        libvirt.define(&domain(&kernel, action, ""))?;
        libvirt.virsh("start guest")?;
        libvirt.comes("domstate guest --reason", state, SOON)?;
        if action == "preserve" {
            libvirt.virsh("destroy guest")?;
        }
        libvirt.is_clean("guest")?;
    }
    // It is off by itself.
    let kernel = kernel.replace("crash", "version");
    libvirt.define(&domain(&kernel, "destroy", ""))?;
    libvirt.virsh("start guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SOON)?;
    libvirt.is_clean("guest")
}

/// Starts and ends, which leave nothing.
fn rounds() -> Result<(), Failed> {
    let rounds = std::env::var("XENNER_LIBVIRT_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let libvirt = Libvirt::start(Owner::System)?;
    image("first", 64)?;
    let xml = linux(&format!("{DISKS}{NIC}"));
    libvirt.define(&xml)?;
    for round in 0..rounds {
        libvirt.virsh("start guest")?;
        // At no time of its boot may it matter.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 397 % 3000));
        libvirt.virsh("destroy guest")?;
        libvirt.says("domstate guest --reason", &["shut off (destroyed)"])?;
        libvirt.is_clean("guest")?;
    }
    for _ in 0..rounds {
        let mut console = boot(&libvirt, &xml)?;
        shut_down(&libvirt, &mut console)?;
    }
    eprintln!("{rounds} rounds of start and destroy, and of start and shutdown");
    Ok(())
}

/// libvirt.xml as it stands, but for the place of GRUB: a whole Debian.
fn example() -> Result<(), Failed> {
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
fn virt_install() -> Result<(), Failed> {
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

/// A user without rights.
fn session() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::Session)?;
    let mut console = boot(&libvirt, &linux(""))?;
    libvirt.says("dominfo guest", &["State: running"])?;
    libvirt.virsh("suspend guest")?;
    libvirt.virsh("resume guest")?;
    console.says("echo there", "there", PATIENCE)?;
    shut_down(&libvirt, &mut console)
}
