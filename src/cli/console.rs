//! `-chardev`, `-serial`, `-nographic` and `-echr`: where the PV console's
//! other end is.

use std::ffi::OsString;

use clap::Args;
use xenner_console::config::{ChardevBackend, ChardevConfig};

use super::chardev::{self, BACKENDS, Serial};
use super::error::CliError;
use super::keyval::parse_number;
use super::{Listing, asks_help, text};
use crate::config::{ConsoleConfig, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Console options")]
pub(super) struct ConsoleOptions {
    /// Puts the console on this terminal, with the keys of Ctrl-a ('Ctrl-a h'
    /// lists them). That is also what happens when no option names a console,
    /// unless -nodefaults or -daemonize is given.
    #[arg(long)]
    nographic: bool,

    /// Puts a console there, the first time hvc0, then hvc1 and so on: stdio,
    /// mon:stdio (with the keys of Ctrl-a), pty, file:PATH, pipe:PATH,
    /// unix:PATH[,server=on][,wait=off], tcp:HOST:PORT[,server=on][,wait=off],
    /// chardev:ID, null, or none for no console.
    #[arg(long, value_name = "END")]
    serial: Vec<OsString>,

    /// Defines an end for a console ('-chardev help' lists the backends).
    /// mux=on gives it the keys of Ctrl-a.
    #[arg(
        long,
        value_name = "[backend=]BACKEND,id=ID[,mux=on|off][,logfile=PATH[,logappend=on|off]]\
                      [,key=value...]"
    )]
    chardev: Vec<OsString>,

    /// Sets the key that stands for Ctrl-a, as a number: 1 is Ctrl-a, 2 is
    /// Ctrl-b.
    #[arg(long, value_name = "CODE")]
    echr: Option<OsString>,
}

/// What other options say about the console.
pub(super) struct Surroundings {
    /// `-nodefaults`.
    pub(super) nodefaults: bool,
    /// `-monitor` was given, so the terminal is not shared with it.
    pub(super) monitor_given: bool,
}

impl ConsoleOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        self.chardev.iter().any(asks_help).then(|| Listing {
            title: "Character device backends:",
            rows: BACKENDS.to_vec(),
        })
    }

    /// Adds character devices and consoles; those of `-device` are in
    /// `config.consoles` already.
    pub(super) fn apply(
        &self,
        config: &mut VmConfig,
        around: &Surroundings,
    ) -> Result<(), CliError> {
        // Under -nographic Ctrl-C is the guest's, as in QEMU.
        let signal = !self.nographic;
        for value in &self.chardev {
            config
                .chardevs
                .push(chardev::parse(text("chardev", value)?, signal)?);
        }
        let mut consoles = Vec::new();
        for (index, value) in self.serial.iter().enumerate() {
            let value = text("serial", value)?;
            match chardev::parse_end("serial", value, format!("serial{index}"), signal)? {
                Serial::None => {}
                Serial::Existing(chardev) => consoles.push(ConsoleConfig { chardev }),
                Serial::New(chardev) => {
                    consoles.push(ConsoleConfig {
                        chardev: chardev.id.clone(),
                    });
                    config.chardevs.push(chardev);
                }
            }
        }
        config.consoles.splice(0..0, consoles);
        if self.serial.is_empty() && config.consoles.is_empty() && !around.nodefaults {
            self.default_console(config, around)?;
        }
        self.apply_echr(config)
    }

    fn default_console(
        &self,
        config: &mut VmConfig,
        around: &Surroundings,
    ) -> Result<(), CliError> {
        if config.daemonize && self.nographic {
            return Err(CliError::Conflict {
                option: "daemonize",
                other: "-nographic",
            });
        }
        if config.daemonize {
            return Ok(());
        }
        let stdio = |end: &ChardevConfig| matches!(end.backend, ChardevBackend::Stdio { .. });
        let backend = match config.chardevs.iter().any(stdio) {
            // a monitor has the terminal
            true => ChardevBackend::Pty { path: None },
            false => ChardevBackend::Stdio { signal: false },
        };
        let has_keys = matches!(backend, ChardevBackend::Stdio { .. }) && !around.monitor_given;
        let mut chardev = ChardevConfig::new("serial0", backend);
        chardev.mux = has_keys;
        config.consoles.push(ConsoleConfig {
            chardev: chardev.id.clone(),
        });
        config.chardevs.push(chardev);
        Ok(())
    }

    fn apply_echr(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let Some(value) = &self.echr else {
            return Ok(());
        };
        let value = text("echr", value)?;
        let code = parse_number(value).and_then(|code| u8::try_from(code).ok());
        config.escape_char = code.ok_or_else(|| CliError::Invalid {
            option: "echr",
            value: value.to_owned(),
            problem: "is not a character's code; write a number from 0 to 255".to_owned(),
        })?;
        Ok(())
    }
}
