//! `cargo xtask`: the project's own commands. Each installs or fetches what it
//! needs, says what it does, and is quick the second time.

mod apt;
mod assets;
mod boot;
mod builds;
mod cpio;
mod debian;
mod error;
mod initramfs;
mod libvirt;
mod observe;
mod packages;
mod process;
mod programs;
mod rig;
mod test;
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
    /// Boot a whole Debian from a disk image, to its login prompt in this terminal
    Debian(debian::DebianArgs),
    /// Make the Debian disk image, copies of it in other formats, seed disks
    Image(debian::ImageArgs),
    /// Check and test everything, on this machine's KVM and in the rig
    Test(test::TestArgs),
    /// Test domains under the libvirt of another Debian, without installing it
    Libvirt(libvirt::LibvirtArgs),
    /// Fetch kernels, busybox, xenstore tools and QEMU into the cache
    Fetch,
    /// Run a command in a machine with kvm_amd, emulated by QEMU TCG
    Rig(rig::RigArgs),
    /// Guest benchmark and boot times, QEMU beside xenner, exits counted
    Bench(observe::bench::BenchArgs),
    /// Boots in a row without a hang, a leak or a failure
    Soak(observe::soak::SoakArgs),
    /// What `bench` runs in the rig's machine
    #[command(hide = true)]
    BenchHere(observe::bench::BenchArgs),
    /// What `soak` runs in the rig's machine
    #[command(hide = true)]
    SoakHere(observe::soak::SoakArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<ExitCode> {
    // These two run where there is no source tree.
    match task {
        Task::BenchHere(args) => return observe::bench::bench_here(args),
        Task::SoakHere(args) => return observe::soak::soak_here(args),
        _ => {}
    }
    let ws = Workspace::locate()?;
    workspace::make_dir(&ws.cache)?;
    match task {
        Task::Boot(args) => boot::boot(&ws, args),
        Task::Debian(args) => debian::debian(&ws, args),
        Task::Image(args) => debian::image(&ws, args),
        Task::Test(args) => test::test(&ws, args),
        Task::Libvirt(args) => libvirt::libvirt(&ws, args),
        Task::Fetch => packages::fetch_all(&ws),
        Task::Rig(args) => rig::rig(&ws, args),
        Task::Bench(args) => observe::bench::bench(&ws, args),
        Task::Soak(args) => observe::soak::soak(&ws, args),
        Task::BenchHere(_) | Task::SoakHere(_) => Ok(ExitCode::SUCCESS),
    }
}
