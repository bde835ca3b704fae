//! `-machine`, `-accel`, `-enable-kvm` and `-cpu`: what runs the domain.

use std::ffi::OsString;

use clap::Args;

use super::error::CliError;
use super::keyval::{KeyVals, parse_bool};
use super::{Listing, asks_help, merged, text};
use crate::config::{Machine, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Standard options")]
pub(super) struct MachineOptions {
    /// Selects the machine ('-machine help' lists them). accel=kvm is the
    /// accelerator there is; properties of a PC (usb, hpet, acpi,
    /// dump-guest-core and others) are taken and mean nothing to a PV domain.
    #[arg(
        long,
        visible_alias = "M",
        value_name = "[type=]NAME[,prop[=value]...]"
    )]
    machine: Vec<OsString>,

    /// Selects the accelerator; KVM is the only one ('-accel help').
    #[arg(long, value_name = "[accel=]kvm[,prop[=value]...]")]
    accel: Vec<OsString>,

    /// The same as -accel kvm.
    #[arg(long)]
    enable_kvm: bool,

    /// Selects the processor that the guest sees: the host's own
    /// ('-cpu help').
    #[arg(long, value_name = "host[,migratable=on|off]")]
    cpu: Option<OsString>,
}

/// Names on the command line, and what they stand for.
const MACHINES: [(&str, Machine, &str); 4] = [
    (
        "pc-i440fx-xenner",
        Machine::Pc,
        "PV domain; devices may carry PCI addresses (default)",
    ),
    ("pc", Machine::Pc, "alias of pc-i440fx-xenner"),
    ("xenner", Machine::Xenner, "PV domain without any PCI"),
    ("none", Machine::None, "no domain"),
];

/// Properties of QEMU's PC that a PV domain has no use for.
const MACHINE_PROPS: [&str; 22] = [
    "acpi",
    "aes-key-wrap",
    "dea-key-wrap",
    "dump-guest-core",
    "graphics",
    "hmat",
    "hpet",
    "i8042",
    "kernel-irqchip",
    "kernel_irqchip",
    "max-ram-below-4g",
    "mem-merge",
    "nvdimm",
    "nvram",
    "pic",
    "pit",
    "sata",
    "smbus",
    "smm",
    "suppress-vmdesc",
    "usb",
    "vmport",
];

/// Properties of KVM that a PV domain has no use for.
const ACCEL_PROPS: [&str; 6] = [
    "dirty-ring-size",
    "kernel-irqchip",
    "kvm-shadow-mem",
    "notify-vmexit",
    "notify-window",
    "thread",
];

/// Properties that QEMU's processor option has and that change nothing here.
const CPU_PROPS: [&str; 11] = [
    "check",
    "enforce",
    "host-cache-info",
    "host-phys-bits",
    "kvm",
    "kvm-hint-dedicated",
    "kvm-pv-eoi",
    "kvm-pv-unhalt",
    "kvmclock",
    "l3-cache",
    "pmu",
];

/// The models that QEMU, and libvirt for a domain that names none, take for any x86 processor.
const ANY_PROCESSOR: [&str; 2] = ["kvm64", "qemu64"];

/// Features that no PV guest sees, so that they need not be hidden.
const NEVER_SEEN: [&str; 2] = ["svm", "vmx"];

impl MachineOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        if self.machine.iter().any(asks_help) {
            let rows = MACHINES
                .iter()
                .map(|(name, _, help)| (*name, *help))
                .collect();
            return Some(Listing {
                title: "Machines:",
                rows,
            });
        }
        if self.accel.iter().any(asks_help) {
            let rows = vec![("kvm", "the Linux kernel's KVM, any flavour")];
            return Some(Listing {
                title: "Accelerators:",
                rows,
            });
        }
        if self.cpu.iter().any(asks_help) {
            let same = |name| (name, "the same");
            let mut rows = vec![("host", "the host's processor"), same("max")];
            rows.extend(ANY_PROCESSOR.map(same));
            return Some(Listing {
                title: "Processors:",
                rows,
            });
        }
        None
    }

    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        self.apply_machine(config)?;
        for value in &self.accel {
            let mut keys = KeyVals::parse(text("accel", value)?, Some("accel"))
                .map_err(CliError::in_value("accel"))?;
            accelerator("accel", &mut keys)?;
            keys.accept(&ACCEL_PROPS);
            keys.finish().map_err(CliError::in_value("accel"))?;
        }
        self.apply_cpu(config)
    }

    fn apply_machine(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let in_value = CliError::in_value("machine");
        let mut keys = merged("machine", &self.machine, "type")?;
        accelerator("machine", &mut keys)?;
        let name = keys.take_text("type").map_err(&in_value)?;
        keys.accept(&MACHINE_PROPS);
        keys.finish().map_err(&in_value)?;
        let Some(name) = name else {
            return Ok(());
        };
        let Some((_, machine, _)) = MACHINES.iter().find(|(known, ..)| *known == name) else {
            return Err(CliError::Invalid {
                option: "machine",
                value: name,
                problem: "is not a machine; '-machine help' lists them".to_owned(),
            });
        };
        config.machine = *machine;
        Ok(())
    }

    fn apply_cpu(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let Some(value) = &self.cpu else {
            return Ok(());
        };
        let in_value = CliError::in_value("cpu");
        let value = text("cpu", value)?;
        let mut keys = KeyVals::parse(value, Some("model")).map_err(&in_value)?;
        let model = keys.need_text("model", "host").map_err(&in_value)?;
        if ANY_PROCESSOR.contains(&model.as_str()) {
            let note = format!("-cpu {model}: the guest sees the host's processor");
            config.notes.push(note);
        } else if !["host", "max"].contains(&model.as_str()) {
            return Err(CliError::Invalid {
                option: "cpu",
                value: model,
                problem: "is not supported; the guest sees the host's processor, write 'host'"
                    .to_owned(),
            });
        }
        config.cpu.migratable = keys
            .take_bool("migratable")
            .map_err(&in_value)?
            .unwrap_or(false);
        keys.accept(&CPU_PROPS);
        let mut wanted = Vec::new();
        for (key, setting) in keys.take_rest() {
            let (feature, on) = match (key.strip_prefix('-'), parse_bool(&setting)) {
                (_, None) => {
                    return Err(CliError::Invalid {
                        option: "cpu",
                        value: format!("{key}={setting}"),
                        problem: "is not a processor property; write 'host' alone".to_owned(),
                    });
                }
                (Some(feature), Some(_)) => (feature, false),
                (None, Some(on)) => (key.trim_start_matches('+'), on),
            };
            if on {
                wanted.push(feature.to_owned());
            } else if !NEVER_SEEN.contains(&feature) {
                return Err(CliError::UnsupportedValue {
                    option: "cpu",
                    value: feature.to_owned(),
                    what: "Hiding single processor features is",
                });
            }
        }
        if !wanted.is_empty() {
            let list = wanted.join(", ");
            let note = format!("-cpu: the guest has of these what the host has: {list}");
            config.notes.push(note);
        }
        Ok(())
    }
}

/// Takes `accel=`, a list separated by colons of which the first that works
/// counts: KVM has to be among them.
fn accelerator(option: &'static str, keys: &mut KeyVals) -> Result<(), CliError> {
    let Some(list) = keys
        .take_text("accel")
        .map_err(CliError::in_value(option))?
    else {
        return Ok(());
    };
    if list.split(':').any(|name| name == "kvm") {
        return Ok(());
    }
    Err(CliError::Invalid {
        option,
        value: list,
        problem: "is not an accelerator of xenner; write 'kvm'".to_owned(),
    })
}
