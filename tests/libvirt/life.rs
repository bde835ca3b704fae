//! The ends of a domain's life, and what lives on: reboots, crashes, libvirtd's own end, starts and
//! ends in a row.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libtest_mimic::Failed;

use crate::guest::{
    DISKS, NIC, SHUTDOWN, SOON, attach, boot, bring_up, has_vcpus, image, linux, pinned, pvtest,
    shut_down,
};
use crate::support::PATIENCE;
use crate::support::libvirt::{Libvirt, Owner, processes};
use crate::support::session::PROMPT;

/// Rounds of starts and ends of a guest that is there at once.
const ROUNDS: u32 = 100;
/// Parts of a domain's XML, and whether it runs with them.
const PROCESSORS: [(&str, bool); 7] = [
    ("<cpu mode='host-passthrough'/>", true),
    ("<cpu mode='host-passthrough' migratable='on'/>", true),
    ("<features><acpi/><pmu state='off'/></features>", true),
    (
        "<clock offset='utc'><timer name='kvmclock' present='no'/></clock>",
        true,
    ),
    ("<cpu mode='host-model'/>", true),
    // libvirt says it by the one model there is, and features
    ("<cpu mode='custom'><model>Westmere</model></cpu>", true),
    (
        "<cpu mode='custom'><model>qemu64</model><feature policy='disable' name='avx'/></cpu>",
        false,
    ),
];
/// Rounds with Debian's kernel, unless `XENNER_LIBVIRT_ROUNDS` says otherwise.
const LINUX_ROUNDS: u32 = 2;

/// The guest's own reboot, libvirt's, a reset; libvirtd's sudden end; autostart.
pub fn restarts() -> Result<(), Failed> {
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
    libvirt.restart_machine()?;
    libvirt.comes("domstate guest", "running", SOON)?;
    libvirt.virsh("destroy guest")?;
    libvirt.is_clean("guest")
}

/// A guest that crashes, with what is to come of it.
pub fn crash() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    for (action, state) in [
        ("destroy", "shut off (crashed)"),
        ("preserve", "crashed (panicked)"),
    ] {
        libvirt.define(&pvtest("crash", action, ""))?;
        libvirt.virsh("start guest")?;
        libvirt.comes("domstate guest --reason", state, SOON)?;
        if action == "preserve" {
            libvirt.virsh("destroy guest")?;
        }
        libvirt.is_clean("guest")?;
    }
    // It is off by itself.
    libvirt.define(&pvtest("version", "destroy", ""))?;
    libvirt.virsh("start guest")?;
    libvirt.comes("domstate guest --reason", "shut off (shutdown)", SOON)?;
    libvirt.is_clean("guest")
}

/// Starts and ends in a row, which leave nothing: a guest that is there at once and writes to its
/// disk all the time.
pub fn rounds() -> Result<(), Failed> {
    let xml = pvtest("serve", "destroy", &format!("{DISKS}{NIC}"));
    destroyed(&xml, ROUNDS, 397)?;
    let libvirt = with_disk()?;
    libvirt.define(&xml)?;
    for round in 0..ROUNDS {
        libvirt.virsh("start guest")?;
        // Whether it listens already or does not even run.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 37 % 400));
        libvirt.virsh("shutdown guest")?;
        libvirt.comes("domstate guest --reason", "shut off (shutdown)", SHUTDOWN)?;
        libvirt.is_clean("guest")?;
    }
    eprintln!("{ROUNDS} rounds of start and destroy, and of start and shutdown");
    Ok(())
}

/// The same with Debian's kernel.
pub fn linux_rounds() -> Result<(), Failed> {
    let rounds = std::env::var("XENNER_LIBVIRT_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(LINUX_ROUNDS);
    let xml = linux(&format!("{DISKS}{NIC}"));
    destroyed(&xml, rounds, 3000)?;
    let libvirt = with_disk()?;
    for _ in 0..rounds {
        let mut console = boot(&libvirt, &xml)?;
        shut_down(&libvirt, &mut console)?;
    }
    eprintln!("{rounds} rounds of start and destroy, and of start and shutdown");
    Ok(())
}

fn with_disk() -> Result<Libvirt, Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    image("first", 64)?;
    Ok(libvirt)
}

/// Starts and destroys a domain at moments all over its first `span` milliseconds.
fn destroyed(xml: &str, rounds: u32, span: u64) -> Result<(), Failed> {
    let libvirt = with_disk()?;
    libvirt.define(xml)?;
    for round in 0..u64::from(rounds) {
        libvirt.virsh("start guest")?;
        std::thread::sleep(Duration::from_millis(round * 7919 % span));
        libvirt.virsh("destroy guest")?;
        libvirt.says("domstate guest --reason", &["shut off (destroyed)"])?;
        libvirt.is_clean("guest")?;
    }
    Ok(())
}

/// What a domain's XML may say of its processor: it runs, or is refused, and libvirtd lives on.
pub fn processors() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    let plain = pvtest("serve", "destroy", "");
    for (cpu, runs) in PROCESSORS {
        libvirt.define(&plain.replace("<on_poweroff>", &format!("{cpu}<on_poweroff>")))?;
        let started = libvirt.virsh("start guest");
        libvirt.virsh("list")?;
        match (started, runs) {
            (Ok(_), true) => {
                libvirt.virsh("destroy guest")?;
                libvirt.is_clean("guest")?;
            }
            (Err(why), false) => {
                eprintln!("{cpu}: {}", why.message().unwrap_or_default());
                libvirt.left_nothing("guest")?;
            }
            (Ok(_), false) => return Err(format!("{cpu} was taken").into()),
            (Err(e), true) => return Err(e),
        }
    }
    Ok(())
}

/// What a domain's XML may say of its clock: the test kernel crashes if the time is another.
pub fn clock() -> Result<(), Failed> {
    let libvirt = Libvirt::start(Owner::System)?;
    for (clock, ahead) in [
        ("offset='utc'", 0),
        ("offset='variable' adjustment='86400' basis='utc'", 86_400),
        ("offset='timezone' timezone='XST-5:30'", 19_800),
    ] {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let test = format!("time-wallclock wall={}", now + ahead);
        let xml = pvtest(&test, "destroy", "");
        libvirt.define(&xml.replace("<on_poweroff>", &format!("<clock {clock}/><on_poweroff>")))?;
        libvirt.virsh("start guest")?;
        libvirt.comes("domstate guest --reason", "shut off (shutdown)", SOON)?;
        libvirt.is_clean("guest")?;
    }
    Ok(())
}
