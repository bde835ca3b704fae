//! The human monitor: commands and answers as text, for `human-monitor-command` and `-monitor`.
//!
//! Words and answers are QEMU's, as far as people and libvirt use them.

use std::fmt::Write;

use super::control::{Answer, Control, RunState};
use super::error::QmpError;
use super::session::QEMU_VERSION;

type Run = fn(&mut dyn Control, &[&str]) -> Answer<String>;
type Show = fn(&dyn Control) -> Answer<String>;

/// Name, other name, arguments, what it does, and its function.
const COMMANDS: &[(&str, &str, &str, &str, Run)] = &[
    (
        "balloon",
        "",
        "MIB",
        "asks the guest to have this much memory",
        balloon,
    ),
    ("cont", "c", "", "lets the vcpus run", |c, _| {
        c.cont().map(quiet)
    }),
    ("device_del", "", "ID", "unplugs a device", device_del),
    ("eject", "", "[-f] ID", "takes a drive's medium out", eject),
    ("help", "?", "", "lists the commands", |_, _| Ok(help())),
    ("info", "", "SUBJECT", "shows the domain's state", info),
    (
        "netdev_del",
        "",
        "ID",
        "removes a network device's host end",
        netdev_del,
    ),
    ("nmi", "", "", "sends the guest an NMI", |c, _| {
        c.inject_nmi().map(quiet)
    }),
    (
        "quit",
        "q",
        "",
        "ends the domain and this process",
        |c, _| {
            c.quit();
            Ok(String::new())
        },
    ),
    (
        "set_link",
        "",
        "ID on|off",
        "puts a network cable in or out",
        set_link,
    ),
    ("stop", "s", "", "stops the vcpus", |c, _| {
        c.stop().map(quiet)
    }),
    (
        "system_powerdown",
        "",
        "",
        "asks the guest to power off",
        |c, _| c.powerdown().map(quiet),
    ),
    ("system_reset", "", "", "builds the domain anew", |c, _| {
        c.reset().map(quiet)
    }),
];

/// Subject, what it is, and its function.
const SUBJECTS: &[(&str, &str, Show)] = &[
    ("balloon", "the domain's memory", info_balloon),
    ("block", "disks", |c| Ok(info_block(c))),
    ("blockstats", "what went through the disks", |c| {
        Ok(info_blockstats(c))
    }),
    ("chardev", "character devices", |c| Ok(info_chardev(c))),
    ("cpus", "vcpus and their threads", |c| Ok(info_cpus(c))),
    ("kvm", "whether KVM runs the domain", |c| {
        let state = if c.identity().kvm {
            "enabled"
        } else {
            "disabled"
        };
        Ok(format!("kvm support: {state}\r\n"))
    }),
    ("name", "the domain's name", |c| {
        let name = c.identity().name;
        Ok(name.map_or_else(String::new, |name| format!("{name}\r\n")))
    }),
    ("network", "network devices", |c| Ok(info_network(c))),
    ("status", "whether the vcpus run", |c| Ok(info_status(c))),
    ("uuid", "the domain's UUID", |c| {
        Ok(format!("{}\r\n", c.identity().uuid))
    }),
    ("version", "this program's version", |_| {
        let [major, minor, micro] = QEMU_VERSION;
        let own = env!("CARGO_PKG_VERSION");
        Ok(format!("{major}.{minor}.{micro}xenner {own}\r\n"))
    }),
    ("xenstore", "the domain's xenstore", info_xenstore),
];

/// Runs a line; returns what the user sees.
pub fn run(line: &str, control: &mut dyn Control) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else {
        return String::new();
    };
    let known = COMMANDS
        .iter()
        .find(|(long, short, ..)| long == name || (!short.is_empty() && short == name));
    match known {
        None => format!("unknown command: '{name}'\r\n"),
        Some((.., run)) => run(control, arguments).unwrap_or_else(|e| format!("Error: {e}\r\n")),
    }
}

fn quiet((): ()) -> String {
    String::new()
}

/// Appends to a text.
fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    // writing to a string cannot fail
    let _ = write!(text, "{line}\r\n");
}

fn help() -> String {
    let mut text = String::new();
    for (long, short, arguments, what, _) in COMMANDS {
        let bar = if short.is_empty() { "" } else { "|" };
        add(
            &mut text,
            format_args!("{long}{bar}{short} {arguments} -- {what}"),
        );
    }
    text
}

fn one<'a>(arguments: &[&'a str], what: &str) -> Answer<&'a str> {
    match arguments {
        [one] => Ok(one),
        _ => Err(QmpError::generic(format!("Write {what}"))),
    }
}

fn balloon(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    let mib = one(arguments, "balloon MIB")?.parse::<u64>().ok();
    let bytes = mib.and_then(|mib| mib.checked_mul(1 << 20));
    let bytes = bytes.ok_or_else(|| QmpError::generic("Write a number of MiB"))?;
    control.set_balloon(bytes).map(quiet)
}

fn device_del(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    control
        .device_del(one(arguments, "device_del ID")?)
        .map(quiet)
}

fn netdev_del(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    control
        .netdev_del(one(arguments, "netdev_del ID")?)
        .map(quiet)
}

fn eject(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    let (force, id) = match arguments {
        ["-f", id] => (true, id),
        [id] => (false, id),
        _ => return Err(QmpError::generic("Write eject [-f] ID")),
    };
    control.open_tray(id, force)?;
    control.remove_medium(id).map(quiet)
}

fn set_link(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    match arguments {
        [id, state @ ("on" | "off")] => control.set_link(id, *state == "on").map(quiet),
        _ => Err(QmpError::generic("Write set_link ID on|off")),
    }
}

fn info(control: &mut dyn Control, arguments: &[&str]) -> Answer<String> {
    let Some(subject) = arguments.first() else {
        let mut text = String::new();
        for (name, what, _) in SUBJECTS {
            add(&mut text, format_args!("info {name} -- {what}"));
        }
        return Ok(text);
    };
    match SUBJECTS.iter().find(|(name, ..)| name == subject) {
        Some((.., show)) => show(control),
        None => Ok(format!("unknown command: 'info {subject}'\r\n")),
    }
}

fn info_status(control: &dyn Control) -> String {
    match control.status() {
        RunState::Running => "VM status: running\r\n".to_owned(),
        RunState::Paused => "VM status: paused\r\n".to_owned(),
        other => format!("VM status: paused ({})\r\n", other.word()),
    }
}

fn info_balloon(control: &dyn Control) -> Answer<String> {
    let actual = control.balloon_actual()?;
    Ok(format!("balloon: actual={}\r\n", actual >> 20))
}

fn info_block(control: &dyn Control) -> String {
    let mut text = String::new();
    for disk in control.blocks() {
        let name = [Some(disk.device.clone()), disk.qdev.clone()]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        match &disk.inserted {
            None => add(&mut text, format_args!("{name}: [not inserted]")),
            Some(node) => {
                let ro = if node.ro { ", read-only" } else { "" };
                add(
                    &mut text,
                    format_args!("{name}: {} ({}{ro})", node.file, node.drv),
                );
            }
        }
        if let Some(qdev) = &disk.qdev {
            add(&mut text, format_args!("    Attached to:      {qdev}"));
        }
    }
    text
}

fn info_blockstats(control: &dyn Control) -> String {
    let mut text = String::new();
    for disk in control.block_stats(false) {
        let stats = &disk.stats;
        add(
            &mut text,
            format_args!(
                "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} \
                 wr_total_time_ns={} rd_total_time_ns={} flush_total_time_ns={}",
                disk.device.or(disk.qdev).unwrap_or_default(),
                stats.rd_bytes,
                stats.wr_bytes,
                stats.rd_operations,
                stats.wr_operations,
                stats.flush_operations,
                stats.wr_total_time_ns,
                stats.rd_total_time_ns,
                stats.flush_total_time_ns,
            ),
        );
    }
    text
}

fn info_chardev(control: &dyn Control) -> String {
    let mut text = String::new();
    for chardev in control.chardevs() {
        add(
            &mut text,
            format_args!("{}: filename={}", chardev.label, chardev.filename),
        );
    }
    text
}

fn info_cpus(control: &dyn Control) -> String {
    let mut text = String::new();
    for vcpu in control.vcpus() {
        let Some(thread) = vcpu.thread else { continue };
        let mark = if vcpu.id == 0 { '*' } else { ' ' };
        add(
            &mut text,
            format_args!("{mark} CPU #{}: thread_id={thread}", vcpu.id),
        );
    }
    text
}

fn info_network(control: &dyn Control) -> String {
    let mut text = String::new();
    for (name, what) in control.networks() {
        add(&mut text, format_args!("{name}: {what}"));
    }
    text
}

fn info_xenstore(control: &dyn Control) -> Answer<String> {
    let mut text = String::new();
    for node in control.xenstore("/")? {
        add(
            &mut text,
            format_args!("{} = \"{}\" ({})", node.path, node.value, node.permissions),
        );
    }
    Ok(text)
}
