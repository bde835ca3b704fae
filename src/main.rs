//! The `xenner` program: command line in, exit code out.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use xenner::cli::{self, Action};
use xenner::logging::with_causes;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Action::Print(text)) => print(&text),
        Ok(Action::Run(config)) => xenner::run(*config).unwrap_or_else(|error| report(&error)),
        Err(error) => report(&error),
    }
}

/// Prints help. A reader that goes away early (`xenner -help | head`) is no fault.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => report(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// Prints an error and what caused it as one line, and gives QEMU's exit code.
fn report(error: &dyn Error) -> ExitCode {
    let line = with_causes(error);
    // Standard error may be closed; there is nowhere else to say it then.
    drop(writeln!(std::io::stderr(), "xenner: {line}"));
    ExitCode::FAILURE
}
