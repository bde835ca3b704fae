//! The words that libvirt says to xenner, and what it hears: the same as were kept.

use std::fs::{self, File};
use std::path::PathBuf;

use libtest_mimic::Failed;

use crate::guest::{DISKS, NIC, image, linux};
use crate::support::conversation::{Exchange, change, golden, heard, write};
use crate::support::libvirt::{Libvirt, Owner};
use crate::support::output;

/// Names a directory to write the conversations to.
const RECORD: &str = "XENNER_RECORD";

/// The questions about the emulator, and a domain's start.
pub fn words() -> Result<(), Failed> {
    let mut libvirt = Libvirt::start(Owner::System)?;
    let log = libvirt.listen()?;
    let version = version(&libvirt)?;
    image("first", 64)?;
    libvirt.define(&linux(&format!("{DISKS}{NIC}")))?;
    libvirt.virsh("start guest")?;
    libvirt.virsh("destroy guest")?;
    libvirt.is_clean("guest")?;
    let talks = heard(&fs::read_to_string(log)?);
    let mut probe = None;
    let mut start = None;
    for mut talk in talks {
        let place = |command| {
            talk.iter()
                .position(|exchange| exchange.command() == command)
        };
        if let Some(n) = place("query-version") {
            // The machine may have other emulators.
            let name = talk[n].get["return"]["package"].as_str();
            if name.is_some_and(|name| name.starts_with("xenner")) {
                probe = Some(talk);
            }
        } else if let Some(n) = place("cont") {
            talk.truncate(n + 1);
            start = Some(talk);
        }
    }
    for (what, talk) in [("probe", probe), ("start", start)] {
        let talk = talk.ok_or(format!("libvirtd's log has no {what}"))?;
        keep_or_compare(&format!("{what}-{version}"), &talk)?;
    }
    Ok(())
}

/// The first two numbers of libvirtd's.
fn version(libvirt: &Libvirt) -> Result<String, Failed> {
    // virsh's version asks for the emulator's as well.
    let text = output(libvirt.command("libvirtd").arg("--version"))?;
    let number = text.split_whitespace().last().unwrap_or_default();
    Ok(number.splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
}

fn keep_or_compare(name: &str, talk: &[Exchange]) -> Result<(), Failed> {
    if let Some(dir) = std::env::var_os(RECORD) {
        let file = PathBuf::from(dir).join(format!("{name}.jsonl"));
        return Ok(write(File::create(file)?, talk)?);
    }
    match golden(name) {
        Some(kept) => compare(&kept, talk).map_err(|what| {
            format!(
                "{name}: {what}; if that is as it has to be: \
                 cargo xtask libvirt --suite SUITE --record words"
            )
            .into()
        }),
        None => {
            eprintln!("{name} was never kept: {} requests", talk.len());
            Ok(())
        }
    }
}

fn compare(kept: &[Exchange], talk: &[Exchange]) -> Result<(), String> {
    for (kept, now) in kept.iter().zip(talk) {
        if kept.ask != now.ask {
            return Err(format!("{} is asked, not {}", now.ask, kept.ask));
        }
        if let Some(what) = change(&kept.get, &now.get) {
            return Err(format!("{} is answered by {what}", now.ask));
        }
    }
    match kept.len() == talk.len() {
        true => Ok(()),
        false => Err(format!("{} requests, not {}", talk.len(), kept.len())),
    }
}
