//! `xenner-console NAME|PATH`: attaches this terminal to the console of a running domain.

use std::process::ExitCode;

fn main() -> ExitCode {
    xenner_console::client::main()
}
