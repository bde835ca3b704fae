//! The domain's name and the process around it: `-name`, `-uuid`, `-S`,
//! `-no-reboot`, `-action`, `-daemonize`, `-pidfile`, `-D`, `-d`, `-msg`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::keyval::KeyVals;
use super::suggest::nearest;
use super::{Listing, asks_help, merged, text};
use crate::config::{
    LOG_ITEMS, LogItems, PanicAction, RebootAction, ShutdownAction, Uuid, VmConfig,
};

#[derive(Debug, Args)]
#[command(next_help_heading = "Standard options")]
pub(super) struct NameOptions {
    /// Names the domain. debug-threads=on names the threads after what they
    /// do, process sets the name of the process in ps.
    #[arg(
        long,
        value_name = "[guest=]NAME[,debug-threads=on|off][,process=NAME]"
    )]
    name: Option<OsString>,

    /// Sets the domain's UUID.
    #[arg(long, value_name = "UUID")]
    uuid: Option<OsString>,
}

impl NameOptions {
    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        if let Some(value) = &self.name {
            let in_value = CliError::in_value("name");
            let mut keys =
                KeyVals::parse(text("name", value)?, Some("guest")).map_err(&in_value)?;
            config.name = keys.take_text("guest").map_err(&in_value)?;
            config.process_name = keys.take_text("process").map_err(&in_value)?;
            let debug_threads = keys.take_bool("debug-threads").map_err(&in_value)?;
            config.debug_threads = debug_threads.unwrap_or(false);
            keys.finish().map_err(&in_value)?;
        }
        if let Some(value) = &self.uuid {
            let value = text("uuid", value)?;
            config.uuid = Some(Uuid::parse(value).ok_or_else(|| CliError::Invalid {
                option: "uuid",
                value: value.to_owned(),
                problem: "is not a UUID; write 8-4-4-4-12 hexadecimal digits".to_owned(),
            })?);
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process and logging options")]
pub(super) struct ProcessOptions {
    /// Does not start the vcpus; the monitor's cont does.
    #[arg(long = "S")]
    start_paused: bool,

    /// Ends when the guest reboots; the same as -action reboot=shutdown.
    #[arg(long)]
    no_reboot: bool,

    /// Stays when the guest powers off; the same as -action shutdown=pause.
    #[arg(long)]
    no_shutdown: bool,

    /// Says what happens when the guest reboots, powers off or crashes. A
    /// crash ends the process with a code other than 0 if nothing is said.
    #[arg(
        long,
        value_name = "reboot=reset|shutdown[,shutdown=poweroff|pause]\
                      [,panic=exit-failure|shutdown|pause|none]"
    )]
    action: Vec<OsString>,

    /// Leaves the terminal and goes on in the background once the domain is
    /// set up. Until then errors are printed and end with code 1.
    #[arg(long)]
    daemonize: bool,

    /// Writes the number of the process into this file.
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,

    /// Writes the log to this file rather than to standard error.
    #[arg(long = "D", value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Logs these items too ('-d help' lists them).
    #[arg(long = "d", value_name = "ITEM[,ITEM...]")]
    log_items: Vec<OsString>,

    /// Starts every line of the log with the time, or with the domain's name.
    #[arg(long, value_name = "[timestamp=on|off][,guest-name=on|off]")]
    msg: Option<OsString>,

    /// Taken for QEMU's sake: this version has no system call filter.
    #[arg(long, value_name = "on|off[,obsolete=...][,elevateprivileges=...]...")]
    sandbox: Option<OsString>,

    /// Creates no console that is not asked for.
    #[arg(long)]
    pub(super) nodefaults: bool,

    /// Taken for QEMU's sake: xenner reads no configuration file.
    #[arg(long, alias = "nodefconfig")]
    no_user_config: bool,
}

impl ProcessOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        self.log_items.iter().any(asks_help).then(|| Listing {
            title: "Log items:",
            rows: LOG_ITEMS
                .iter()
                .map(|item| (item.name, item.help))
                .collect(),
        })
    }

    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        self.apply_lifecycle(config)?;
        config.daemonize = self.daemonize;
        config.pidfile.clone_from(&self.pidfile);
        config.log.file.clone_from(&self.log_file);
        for value in &self.log_items {
            config.log.items |= log_items(text("d", value)?)?;
        }
        if let Some(value) = &self.msg {
            let in_value = CliError::in_value("msg");
            let mut keys = KeyVals::parse(text("msg", value)?, None).map_err(&in_value)?;
            config.log.timestamp = keys
                .take_bool("timestamp")
                .map_err(&in_value)?
                .unwrap_or(false);
            config.log.guest_name = keys
                .take_bool("guest-name")
                .map_err(&in_value)?
                .unwrap_or(false);
            keys.finish().map_err(&in_value)?;
        }
        self.apply_sandbox(config)
    }

    fn apply_lifecycle(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let in_value = CliError::in_value("action");
        let mut keys = merged("action", &self.action, "")?;
        let reboot = [
            ("reset", RebootAction::Reset),
            ("shutdown", RebootAction::Shutdown),
        ];
        let reboot = keys.take_word("reboot", &reboot).map_err(&in_value)?;
        let shutdown = [
            ("poweroff", ShutdownAction::Poweroff),
            ("pause", ShutdownAction::Pause),
        ];
        let shutdown = keys.take_word("shutdown", &shutdown).map_err(&in_value)?;
        let panic = [
            ("exit-failure", PanicAction::ExitFailure),
            ("shutdown", PanicAction::Shutdown),
            ("pause", PanicAction::Pause),
            ("none", PanicAction::None),
        ];
        let panic = keys.take_word("panic", &panic).map_err(&in_value)?;
        keys.accept(&["watchdog"]);
        keys.finish().map_err(&in_value)?;
        if self.no_reboot && reboot == Some(RebootAction::Reset) {
            return Err(CliError::Conflict {
                option: "no-reboot",
                other: "-action reboot=reset",
            });
        }
        if self.no_shutdown && shutdown == Some(ShutdownAction::Poweroff) {
            let other = "-action shutdown=poweroff";
            return Err(CliError::Conflict {
                option: "no-shutdown",
                other,
            });
        }
        let lifecycle = &mut config.lifecycle;
        lifecycle.start_paused = self.start_paused;
        lifecycle.reboot = match self.no_reboot {
            true => RebootAction::Shutdown,
            false => reboot.unwrap_or_default(),
        };
        lifecycle.shutdown = match self.no_shutdown {
            true => ShutdownAction::Pause,
            false => shutdown.unwrap_or_default(),
        };
        // as in QEMU, a process that is to stay stays for a crash as well
        lifecycle.panic = match (panic, lifecycle.shutdown) {
            (Some(panic), _) => panic,
            (None, ShutdownAction::Pause) => PanicAction::Pause,
            (None, ShutdownAction::Poweroff) => PanicAction::default(),
        };
        Ok(())
    }

    fn apply_sandbox(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let Some(value) = &self.sandbox else {
            return Ok(());
        };
        let in_value = CliError::in_value("sandbox");
        let mut keys =
            KeyVals::parse(text("sandbox", value)?, Some("enable")).map_err(&in_value)?;
        config.sandbox = keys
            .take_bool("enable")
            .map_err(&in_value)?
            .unwrap_or(false);
        keys.accept(&["obsolete", "elevateprivileges", "spawn", "resourcecontrol"]);
        keys.finish().map_err(&in_value)?;
        if config.sandbox {
            config
                .notes
                .push("-sandbox: this version has no system call filter".to_owned());
        }
        Ok(())
    }
}

fn log_items(value: &str) -> Result<LogItems, CliError> {
    let mut items = LogItems::empty();
    for name in value.split(',') {
        let Some(item) = LOG_ITEMS.iter().find(|item| item.name == name) else {
            let hint = match nearest(name, LOG_ITEMS.iter().map(|item| item.name)) {
                Some(near) => format!("is not a log item; did you mean '{near}'?"),
                None => "is not a log item; '-d help' lists them".to_owned(),
            };
            return Err(CliError::Invalid {
                option: "d",
                value: name.to_owned(),
                problem: hint,
            });
        };
        items |= item.flag;
    }
    Ok(items)
}
