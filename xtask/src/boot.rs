//! `cargo xtask boot`: a stock Debian kernel as a PV domain, to an interactive
//! shell in this terminal, from nothing but a Rust toolchain.

use std::process::{Command, ExitCode};

use crate::builds;
use crate::error::{Error, Result};
use crate::initramfs;
use crate::packages::DEFAULT_KERNEL;
use crate::process;
use crate::ui;
use crate::workspace::Workspace;

/// Options of `cargo xtask boot`.
#[derive(Debug, clap::Args)]
pub struct BootArgs {
    /// 5.10, 6.1, 6.12 (Debian's stock kernels), or a kernel file
    #[arg(long, default_value = DEFAULT_KERNEL)]
    kernel: String,
    /// Number of vCPUs
    #[arg(long, default_value = "1")]
    smp: String,
    /// Memory in MiB
    #[arg(long, default_value = "512")]
    mem: String,
    /// More of the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
    /// Further arguments for xenner, after `--`
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Fetch, build, boot; the exit code is xenner's.
pub fn boot(ws: &Workspace, args: &BootArgs) -> Result<ExitCode> {
    check_kvm()?;
    let kernel = initramfs::kernel(ws, &args.kernel)?;
    let initrd = initramfs::stage(ws)?;
    let xenner = builds::xenner(ws)?;
    let append = format!("console=hvc0 {}", args.append);
    let mut command = Command::new(xenner);
    command
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd);
    command.args([
        "-append",
        append.trim_end(),
        "-m",
        &args.mem,
        "-smp",
        &args.smp,
    ]);
    command.arg("-nographic").args(&args.extra);
    ui::step(&process::shown(&command));
    let status = process::status(&mut command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Is there a `/dev/kvm` that this user may open?
pub fn check_kvm() -> Result<()> {
    let path = "/dev/kvm";
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::missing(
            "No /dev/kvm on this machine",
            "load the KVM module (kvm_intel, kvm_amd or kvm_pvm) or turn virtualization on",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Error::missing(
            "No permission to open /dev/kvm",
            "run as root, or join its group: sudo adduser $USER kvm, then log in again",
        )),
        Err(source) => Err(Error::File {
            action: "open",
            path: path.into(),
            source,
        }),
    }
}
