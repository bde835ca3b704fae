//! Domains under Debian's libvirt: what its users type into virsh, against
//! guests that run.

mod consoles;
mod debian;
mod guest;
mod life;
mod manager;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod vivm;
mod words;

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use support::libvirt::{self, EMULATOR, Libvirt, Owner, in_namespaces, processes};
use support::{PATIENCE, asset, run, trial_unless};

use guest::{becomes, boot, linux, shut_down};

const USER_NIC: &str = "<interface type='user'><model type='virtio'/></interface>";

/// The probe of the emulator takes no longer, the least of some.
const PROBE: Duration = Duration::from_millis(200);

/// What is done with libvirt.
type Story = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    if let Some(code) = in_namespaces() {
        return code;
    }
    let stories: &[(&str, Story)] = &[
        ("probe", probe),
        ("words", words::words),
        ("rows", rows::rows),
        ("consoles", consoles::consoles),
        ("console-ends", consoles::ends),
        ("restarts", life::restarts),
        ("crash", life::crash),
        ("processors", life::processors),
        ("clock", life::clock),
        ("rounds", life::rounds),
        ("linux-rounds", life::linux_rounds),
        ("session", session),
        ("manager", manager::manager),
        ("virt-install", debian::virt_install),
        ("example", debian::example),
        ("vivm", vivm::stories),
        ("table", table::table),
    ];
    let trials = stories.iter().map(|(name, run)| libvirt_test(name, *run));
    support::main(trials.collect())
}

fn libvirt_test(name: &str, run: Story) -> Trial {
    let mut files: Vec<_> = ["kernel-6.1", "initramfs-devices", "pvtest"]
        .map(asset)
        .into();
    match name {
        "example" => files.extend(["debian.img", "grub"].map(support::image)),
        "virt-install" => files.push("/usr/bin/virt-install".into()),
        "vivm" => files.push(vivm::program()),
        "session" => files.push("/usr/bin/passt".into()),
        "manager" => files.extend(manager::PROGRAMS.map(Into::into)),
        _ => {}
    }
    let missing = libvirt::missing().or_else(|| support::missing(&files));
    let story = name.to_owned();
    trial_unless(missing, name.to_owned(), move || {
        libvirt::forget_commands();
        run()?;
        table::told(story, libvirt::commands());
        Ok(())
    })
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

/// A user without rights, whose guest has the network that takes none.
fn session() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::Session)?;
    // passt wants to see a way out, by a link that has been told of no end of its carrier.
    run("ip link add way type bridge")?;
    run("ip addr add 10.97.0.1/24 dev way")?;
    run("ip link set way up")?;
    run("ip route add default via 10.97.0.2")?;
    let mut console = boot(&libvirt, &linux(USER_NIC))?;
    console.shell("ip addr add 10.0.2.15/24 dev eth0", PATIENCE)?;
    console.shell("ip link set eth0 up", PATIENCE)?;
    let answered = "grep -q '^10.0.2.2 .* 0x2 ' /proc/net/arp";
    becomes(
        &mut console,
        &format!("{{ ping -c 1 -w 1 10.0.2.2; {answered}; }} >/dev/null"),
    )?;
    libvirt.says("dominfo guest", &["State: running"])?;
    libvirt.virsh("suspend guest")?;
    libvirt.virsh("resume guest")?;
    console.says("echo there", "there", PATIENCE)?;
    shut_down(&libvirt, &mut console)
}
