//! `cargo xtask`: the project's own commands. Each installs or fetches what it
//! needs, says what it does, and is quick the second time.

mod apt;
mod assets;
mod boot;
mod builds;
mod cpio;
mod error;
mod initramfs;
mod packages;
mod process;
mod rig;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot a stock Debian kernel to a shell in this terminal
    Boot(boot::BootArgs),
    /// Fetch kernels, busybox, xenstore tools and QEMU into the cache
    Fetch,
    /// Run a command in a machine with kvm_amd, emulated by QEMU TCG
    Rig(rig::RigArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(source) = cause {
                text.push_str(&format!(": {source}"));
                cause = source.source();
            }
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<ExitCode> {
    let ws = Workspace::locate()?;
    workspace::make_dir(&ws.cache)?;
    match task {
        Task::Boot(args) => boot::boot(&ws, args),
        Task::Fetch => packages::fetch_all(&ws),
        Task::Rig(args) => rig::rig(&ws, args),
    }
}
