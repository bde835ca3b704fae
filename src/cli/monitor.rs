//! `-mon`, `-qmp`, `-qmp-pretty` and `-monitor`: who steers the domain.

use std::ffi::OsString;

use clap::Args;
use xenner_console::config::ChardevBackend;

use super::chardev::{self, Serial};
use super::error::CliError;
use super::keyval::KeyVals;
use super::text;
use crate::config::{MonitorConfig, MonitorMode, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Monitor options")]
pub(super) struct MonitorOptions {
    /// Puts a QMP monitor there, for programs: unix:PATH,server=on,wait=off,
    /// tcp:HOST:PORT,server=on,wait=off, stdio, chardev:ID and the other ends
    /// that -serial takes.
    #[arg(long, value_name = "END")]
    qmp: Vec<OsString>,

    /// The same with indented JSON, for people.
    #[arg(long, value_name = "END")]
    qmp_pretty: Vec<OsString>,

    /// Puts a monitor there whose commands people type ('help' lists them), or
    /// none.
    #[arg(long, value_name = "END")]
    monitor: Vec<OsString>,

    /// Puts a monitor on the -chardev of this id: mode=control speaks QMP,
    /// mode=readline is for people.
    #[arg(
        long,
        value_name = "[chardev=]ID[,mode=control|readline][,pretty=on|off]"
    )]
    mon: Vec<OsString>,
}

impl MonitorOptions {
    /// Whether `-monitor` was given, so that the terminal is not shared with one.
    pub(super) fn is_given(&self) -> bool {
        !self.monitor.is_empty()
    }

    /// Adds monitors and their ends.
    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let short = [
            ("monitor", &self.monitor, MonitorMode::Readline, false),
            ("qmp", &self.qmp, MonitorMode::Control, false),
            ("qmp-pretty", &self.qmp_pretty, MonitorMode::Control, true),
        ];
        let mut number = 0;
        for (option, values, mode, pretty) in short {
            for value in values {
                // QEMU's names for ends without one
                let id = format!("compat_monitor{number}");
                let value = text(option, value)?;
                let chardev = match chardev::parse_end(option, value, id, true)? {
                    Serial::None => continue,
                    Serial::New(end) if end.backend == ChardevBackend::Null => continue,
                    Serial::Existing(id) => id,
                    Serial::New(end) => {
                        number += 1;
                        let id = end.id.clone();
                        config.chardevs.push(end);
                        id
                    }
                };
                config.monitors.push(MonitorConfig {
                    chardev,
                    mode,
                    pretty,
                });
            }
        }
        for value in &self.mon {
            config.monitors.push(mon(text("mon", value)?)?);
        }
        Ok(())
    }
}

fn mon(value: &str) -> Result<MonitorConfig, CliError> {
    let in_value = CliError::in_value("mon");
    let mut keys = KeyVals::parse_or_json(value, Some("chardev")).map_err(&in_value)?;
    let chardev = keys.need_text("chardev", "ID").map_err(&in_value)?;
    let modes = [
        ("control", MonitorMode::Control),
        ("readline", MonitorMode::Readline),
    ];
    let mode = keys.take_word("mode", &modes).map_err(&in_value)?;
    let pretty = keys.take_bool("pretty").map_err(&in_value)?;
    // a monitor is known by its chardev
    keys.accept(&["id"]);
    keys.finish().map_err(&in_value)?;
    Ok(MonitorConfig {
        chardev,
        mode: mode.unwrap_or_default(),
        pretty: pretty.unwrap_or(false),
    })
}
