//! The ends of a domain's life, and what lives on: reboots, crashes, libvirtd's own end, starts and
//! ends in a row.

use std::time::Duration;

use libtest_mimic::Failed;

use crate::guest::{
    DISKS, NIC, SOON, attach, boot, bring_up, domain, has_vcpus, image, linux, pinned, shut_down,
};
use crate::support::PATIENCE;
use crate::support::libvirt::{IMAGES, Libvirt, Owner, processes};
use crate::support::session::PROMPT;

/// Rounds of starts and ends, unless `XENNER_LIBVIRT_ROUNDS` says otherwise.
const ROUNDS: u32 = 2;

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
    libvirt.kill_daemon()?;
    // libvirtd starts them once after the machine does.
    std::fs::remove_file("/run/libvirt/qemu/autostarted")?;
    libvirt.start_daemon()?;
    libvirt.comes("domstate guest", "running", SOON)?;
    libvirt.virsh("destroy guest")?;
    libvirt.is_clean("guest")
}

/// A guest that crashes, with what is to come of it.
pub fn crash() -> Result<(), Failed> {
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
pub fn rounds() -> Result<(), Failed> {
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
