//! The command line: QEMU's options, turned into a [`VmConfig`].
//!
//! [`parse`] is all there is to call. The words go through `normalise` (QEMU's
//! one-dash options in clap's form), clap, and one file per family of options,
//! each of which fills in its part of the configuration; `keyval` is QEMU's
//! `key=value,key=value`. No file is opened and nothing on the host is looked
//! at here.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::VmConfig;

mod blockdev;
mod boot;
mod chardev;
mod console;
mod device;
mod disk;
mod drive;
mod error;
mod foreign;
mod help;
pub mod hotplug;
mod keyval;
mod machine;
mod monitor;
mod netdev;
mod normalise;
mod own;
mod process;
mod resources;
mod suggest;
#[cfg(test)]
mod tests;

pub(crate) use chardev::BACKENDS as CHARDEV_BACKENDS;
pub use error::CliError;
pub use keyval::{KeyVals, KeyvalError};
use normalise::Normalised;

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run this domain.
    Run(Box<VmConfig>),
    /// Print this text, which ends with a newline, and end with code 0.
    Print(String),
}

/// Reads a command line, without the program's name in front.
///
/// # Errors
///
/// The first thing that is wrong, as one line that starts with the option at
/// fault and ends with the way out; the exit code is then 1, as QEMU's.
pub fn parse<I: IntoIterator<Item = OsString>>(args: I) -> Result<Action, CliError> {
    let command = command();
    let words = match normalise::normalise(&command, args)? {
        Normalised::Words(words) => words,
        Normalised::Help => return Ok(Action::Print(help::help(&command))),
        Normalised::Version => return Ok(Action::Print(help::version())),
    };
    let matches = command
        .try_get_matches_from(words)
        .map_err(|error| from_clap(&error))?;
    let options = Options::from_arg_matches(&matches).map_err(|error| from_clap(&error))?;
    if let Some(listing) = options.listing() {
        return Ok(Action::Print(help::listing(&listing)));
    }
    let config = options.into_config(&matches)?;
    config.validate()?;
    Ok(Action::Run(Box::new(config)))
}

/// The option table, one struct per family.
#[derive(Debug, Args)]
struct Options {
    #[command(flatten)]
    help: HelpOptions,
    #[command(flatten)]
    machine: machine::MachineOptions,
    #[command(flatten)]
    resources: resources::ResourceOptions,
    #[command(flatten)]
    name: process::NameOptions,
    #[command(flatten)]
    boot: boot::BootOptions,
    #[command(flatten)]
    console: console::ConsoleOptions,
    #[command(flatten)]
    disk: disk::DiskOptions,
    #[command(flatten)]
    net: netdev::NetOptions,
    #[command(flatten)]
    monitor: monitor::MonitorOptions,
    #[command(flatten)]
    device: device::DeviceOptions,
    #[command(flatten)]
    process: process::ProcessOptions,
    #[command(flatten)]
    own: own::OwnOptions,
}

/// Known to the normaliser, which acts on them; here for the table's sake.
#[derive(Debug, Args)]
#[command(next_help_heading = "Standard options")]
struct HelpOptions {
    /// Prints this text.
    #[arg(long = "help", visible_alias = "h")]
    _help: bool,

    /// Prints the version.
    #[arg(long = "version")]
    _version: bool,
}

/// A table for `-option help`.
struct Listing {
    title: &'static str,
    rows: Vec<(&'static str, &'static str)>,
}

impl Options {
    fn listing(&self) -> Option<Listing> {
        self.machine
            .listing()
            .or_else(|| self.console.listing())
            .or_else(|| self.net.listing())
            .or_else(|| self.device.listing())
            .or_else(|| self.process.listing())
            .or_else(|| self.own.listing())
    }

    fn into_config(self, matches: &ArgMatches) -> Result<VmConfig, CliError> {
        let mut config = VmConfig::default();
        foreign::apply(matches, &mut config)?;
        self.machine.apply(&mut config)?;
        self.resources.apply(&mut config)?;
        self.name.apply(&mut config)?;
        self.boot.apply(&mut config)?;
        self.process.apply(&mut config)?;
        self.disk.apply(matches, &mut config)?;
        self.net.apply(&mut config)?;
        self.device.apply(&mut config)?;
        let around = console::Surroundings {
            nodefaults: self.process.nodefaults,
            monitor_given: self.monitor.is_given(),
        };
        self.monitor.apply(&mut config)?;
        self.console.apply(&mut config, &around)?;
        self.own.apply(&mut config)?;
        Ok(config)
    }
}

/// The whole table in clap's terms.
fn command() -> Command {
    let command = Command::new("xenner")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true);
    let command = foreign::augment(Options::augment_args(command));
    // A flag given twice means no more than once, as in QEMU.
    command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => {
            let id = arg.get_id().clone();
            arg.overrides_with(id)
        }
        _ => arg,
    })
}

/// What clap still finds after the normaliser: options given more than once,
/// and file names that are empty.
fn from_clap(error: &clap::Error) -> CliError {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    let (option, value_name) = argument.split_once(' ').unwrap_or((argument, ""));
    let option = option.trim_start_matches('-').to_owned();
    let value_name = value_name.trim_matches(['<', '>']).to_owned();
    match error.kind() {
        ErrorKind::ArgumentConflict => CliError::Repeated { option },
        ErrorKind::InvalidValue => CliError::MissingValue { option, value_name },
        _ => CliError::Unreadable(format!("-{option}")),
    }
}

/// A value as text.
fn text<'a>(option: &'static str, value: &'a OsStr) -> Result<&'a str, CliError> {
    value.to_str().ok_or(CliError::NotText { option })
}

/// Whether a value asks for the list of what could be written there.
fn asks_help(value: &OsString) -> bool {
    ["help", "?"].iter().any(|word| value == word)
}

/// All values of a repeatable option as one; `implied` may be empty for none.
fn merged(option: &'static str, values: &[OsString], implied: &str) -> Result<KeyVals, CliError> {
    let implied = Some(implied).filter(|key| !key.is_empty());
    let mut all = KeyVals::default();
    for value in values {
        let keys = KeyVals::parse(text(option, value)?, implied);
        all.append(keys.map_err(CliError::in_value(option))?);
    }
    Ok(all)
}
