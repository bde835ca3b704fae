//! QEMU's other options: those a PV domain has no use for, which are taken and
//! noted, and those that this version cannot serve, which are refused.
//!
//! They are rows of a table, and join the options that clap derives, so that
//! the normaliser and the help text know them too.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::error::CliError;
use super::keyval::KeyVals;
use super::text;
use crate::config::VmConfig;

/// Heading of the options that are taken.
pub(super) const TAKEN: &str = "Options that are taken and change nothing";
/// Heading of the options that are refused.
pub(super) const REFUSED: &str = "Options of QEMU that this version does not support";

/// What becomes of an option.
enum Fate {
    /// Taken; the text says why it changes nothing.
    Taken(&'static str),
    /// Taken when `key` (which may go unnamed) has one of these values,
    /// refused otherwise. `""` among them lets the key be absent.
    Only {
        key: &'static str,
        values: &'static [&'static str],
        what: &'static str,
    },
    /// Refused; the text says what is not supported, with its verb.
    Refused(&'static str),
}

struct Foreign {
    name: &'static str,
    /// What the value stands for; `None` for an option without one.
    value_name: Option<&'static str>,
    fate: Fate,
}

const fn taken(name: &'static str, value_name: Option<&'static str>, why: &'static str) -> Foreign {
    Foreign {
        name,
        value_name,
        fate: Fate::Taken(why),
    }
}

const fn refused(
    name: &'static str,
    value_name: Option<&'static str>,
    what: &'static str,
) -> Foreign {
    Foreign {
        name,
        value_name,
        fate: Fate::Refused(what),
    }
}

const fn only(
    name: &'static str,
    value_name: &'static str,
    key: &'static str,
    values: &'static [&'static str],
    what: &'static str,
) -> Foreign {
    Foreign {
        name,
        value_name: Some(value_name),
        fate: Fate::Only { key, values, what },
    }
}

/// Objects of which the guest notices nothing.
const IDLE_OBJECTS: &[&str] = &["iothread", "rng-builtin", "rng-random", "secret"];

const FOREIGN: &[Foreign] = &[
    taken("no-acpi", None, "a PV domain has no ACPI tables"),
    taken("no-hpet", None, "a PV domain has no HPET"),
    taken("no-fd-bootchk", None, "a PV domain has no BIOS"),
    taken("usb", None, "a PV domain has no USB controller"),
    taken(
        "usbdevice",
        Some("NAME"),
        "a PV domain has no USB controller",
    ),
    taken(
        "global",
        Some("DRIVER.PROP=VALUE"),
        "the device is not there",
    ),
    taken(
        "smbios",
        Some("type=N[,field=value...]"),
        "a PV domain has no SMBIOS tables",
    ),
    taken(
        "acpitable",
        Some("file=FILE[,...]"),
        "a PV domain has no ACPI tables",
    ),
    taken("watchdog-action", Some("ACTION"), "there is no watchdog"),
    taken(
        "audiodev",
        Some("[driver=]DRIVER,id=ID[,...]"),
        "there is no sound",
    ),
    taken("audio", Some("[driver=]DRIVER[,...]"), "there is no sound"),
    taken("k", Some("LAYOUT"), "there is no graphical keyboard"),
    taken("L", Some("DIR"), "no firmware is loaded"),
    taken(
        "compat",
        Some("POLICY"),
        "no command of the monitor is on its way out",
    ),
    taken("only-migratable", None, "every PV device can be migrated"),
    only(
        "overcommit",
        "mem-lock=off[,cpu-pm=off]",
        "mem-lock",
        &["off", ""],
        "Locked memory is",
    ),
    only(
        "object",
        "secret|rng-random|iothread,id=ID[,...]",
        "qom-type",
        IDLE_OBJECTS,
        "Such objects are",
    ),
    only(
        "run-with",
        "async-teardown=on|off",
        "chroot",
        &[""],
        "Changing the root directory is",
    ),
    only("display", "none", "type", &["none"], "Displays are"),
    only("vga", "none", "type", &["none"], "Displays are"),
    only("vnc", "none", "vnc", &["none"], "VNC displays are"),
    only(
        "parallel",
        "none",
        "dev",
        &["none", "null"],
        "Parallel ports are",
    ),
    only("gdb", "none", "dev", &["none"], "The debugger's port is"),
    refused("fda", Some("FILE"), "Floppy disks are"),
    refused("fdb", Some("FILE"), "Floppy disks are"),
    refused("sd", Some("FILE"), "Memory cards are"),
    refused("mtdblock", Some("FILE"), "Flash memory is"),
    refused("pflash", Some("FILE"), "Firmware images are"),
    refused("bios", Some("FILE"), "Firmware images are"),
    refused(
        "fsdev",
        Some("DRIVER,id=ID[,...]"),
        "Shared file systems are",
    ),
    refused("virtfs", Some("DRIVER[,...]"), "Shared file systems are"),
    refused(
        "set",
        Some("GROUP.ID.KEY=VALUE"),
        "Changing earlier options is",
    ),
    refused("readconfig", Some("FILE"), "Configuration files are"),
    refused("writeconfig", Some("FILE"), "Configuration files are"),
    refused("incoming", Some("URI"), "Migration is"),
    refused("loadvm", Some("TAG"), "Loading a saved domain is"),
    refused("mem-path", Some("FILE"), "Memory from a file is"),
    refused(
        "mem-prealloc",
        None,
        "Allocating all memory at the start is",
    ),
    refused("numa", Some("node[,...]"), "NUMA is"),
    refused("spice", Some("KEYS"), "SPICE displays are"),
    refused("full-screen", None, "Displays are"),
    refused("curses", None, "Displays are"),
    refused("soundhw", Some("CARD"), "Sound is"),
    refused("s", None, "The debugger's port is"),
    refused("runas", Some("USER"), "Changing the user is"),
    refused("chroot", Some("DIR"), "Changing the root directory is"),
    refused("fw_cfg", Some("NAME[,...]"), "Firmware configuration is"),
    refused("option-rom", Some("FILE"), "Firmware images are"),
    refused("dtb", Some("FILE"), "Device trees are"),
    refused("shim", Some("FILE"), "The EFI shim loader is"),
    refused(
        "tpmdev",
        Some("secret|rng-random|iothread,id=ID[,...]"),
        "TPM devices are",
    ),
    refused("icount", Some("KEYS"), "Counting instructions is"),
    refused("trace", Some("PATTERN"), "Tracing is"),
    refused("preconfig", None, "Configuration by a monitor is"),
];

/// Adds these options to those that clap derives.
pub(super) fn augment(command: Command) -> Command {
    command.args(FOREIGN.iter().map(|foreign| {
        let refused = matches!(foreign.fate, Fate::Refused(_));
        let arg = Arg::new(foreign.name)
            .long(foreign.name)
            .help_heading(if refused { REFUSED } else { TAKEN })
            .help(help(&foreign.fate));
        match foreign.value_name {
            Some(value_name) => arg
                .action(ArgAction::Append)
                .value_name(value_name)
                .value_parser(value_parser!(OsString)),
            None => arg.action(ArgAction::SetTrue),
        }
    }))
}

fn help(fate: &Fate) -> String {
    match fate {
        Fate::Taken(why) => with_first(why, |letter| letter.to_ascii_uppercase()),
        Fate::Only { what, .. } => {
            let proper_name = what.chars().nth(1).is_some_and(char::is_uppercase);
            let lower = |letter: char| {
                if proper_name {
                    letter
                } else {
                    letter.to_ascii_lowercase()
                }
            };
            format!(
                "Anything else is refused: {} not supported",
                with_first(what, lower)
            )
        }
        Fate::Refused(what) => format!("{what} not supported"),
    }
}

fn with_first(text: &str, change: impl Fn(char) -> char) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(change);
    first.into_iter().chain(letters).collect()
}

/// Whether the option was given.
fn given(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
}

/// Refuses what has to be refused, the leftmost first, and notes the rest.
pub(super) fn apply(matches: &ArgMatches, config: &mut VmConfig) -> Result<(), CliError> {
    let mut present: Vec<_> = FOREIGN
        .iter()
        .filter(|foreign| given(matches, foreign.name))
        .map(|foreign| (matches.index_of(foreign.name), foreign))
        .collect();
    present.sort_by_key(|(index, _)| *index);
    for (_, foreign) in present {
        apply_one(foreign, matches, config)?;
    }
    Ok(())
}

fn apply_one(
    foreign: &Foreign,
    matches: &ArgMatches,
    config: &mut VmConfig,
) -> Result<(), CliError> {
    let option = foreign.name;
    match foreign.fate {
        Fate::Taken(why) => config.notes.push(format!("-{option}: {why}")),
        Fate::Refused(what) => {
            return Err(CliError::Unsupported { option, what });
        }
        Fate::Only { key, values, what } => {
            for value in matches.get_many::<OsString>(option).into_iter().flatten() {
                let mut keys = KeyVals::parse_or_json(text(option, value)?, Some(key))
                    .map_err(CliError::in_value(option))?;
                let word = keys.take_text(key).map_err(CliError::in_value(option))?;
                let word = word.unwrap_or_default();
                if !values.contains(&word.as_str()) {
                    return Err(CliError::UnsupportedValue {
                        option,
                        value: word,
                        what,
                    });
                }
            }
        }
    }
    Ok(())
}
