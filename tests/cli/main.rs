//! The command line from outside: `cli::parse`, and the program's exit codes.

mod console;
mod disks;
mod domain;
mod network;
mod process;
mod program;
mod qemu;

use std::ffi::OsString;

use xenner::cli::{Action, CliError, parse};
use xenner::config::VmConfig;
use xenner_console::config::{ChardevBackend, ChardevConfig};

fn words(args: &[&str]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// The configuration of `-kernel k` and these arguments.
fn config(args: &[&str]) -> VmConfig {
    match parse(words(&[&["-kernel", "k"], args].concat())) {
        Ok(Action::Run(config)) => *config,
        other => panic!("{args:?} gives {other:?}"),
    }
}

/// The error message of `-kernel k` and these arguments.
fn fault(args: &[&str]) -> String {
    match parse(words(&[&["-kernel", "k"], args].concat())) {
        Err(error) => one_line(&error),
        other => panic!("{args:?} gives {other:?}"),
    }
}

fn one_line(error: &CliError) -> String {
    let line = error.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(line.len() < 400, "{line:?}");
    line
}

fn printed(args: &[&str]) -> String {
    match parse(words(args)) {
        Ok(Action::Print(text)) => {
            assert!(text.ends_with('\n'));
            text
        }
        other => panic!("{args:?} gives {other:?}"),
    }
}

/// The one console's end.
fn console(args: &[&str]) -> ChardevConfig {
    let config = config(args);
    assert_eq!(config.consoles.len(), 1, "{args:?}");
    config
        .chardev(&config.consoles[0].chardev)
        .expect("the console has an end")
        .clone()
}

fn end(backend: ChardevBackend) -> ChardevConfig {
    ChardevConfig::new("serial0", backend)
}

fn on_stdio(mux: bool, signal: bool) -> ChardevConfig {
    ChardevConfig {
        mux,
        ..end(ChardevBackend::Stdio { signal })
    }
}
