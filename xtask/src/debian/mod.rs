//! `cargo xtask image` and `cargo xtask debian`: a whole Debian on a disk
//! image, made from the archive and kept in the cache, and booted with the
//! kernel and initrd that are on it, or through GRUB.

mod build;
mod disk;
mod seed;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::boot::check_kvm;
use crate::builds;
use crate::error::Result;
use crate::packages;
use crate::process;
use crate::ui;
use crate::workspace::{Workspace, make_dir, place};

pub use build::Variant;
pub use disk::BootFiles;

/// The kernel's command line, apart from the console.
pub const ROOT: &str = "root=LABEL=debian ro";

/// Options of `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// With cloud-init, which looks for a seed disk at the first boot
    #[arg(long)]
    cloud: bool,
    /// Write a copy of the image to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The copy's format: raw, or what else `qemu-img convert` writes (qcow2, vmdk, ...)
    #[arg(long, default_value = "raw", requires = "output")]
    format: String,
    /// Write a NoCloud seed disk to this file
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// cloud-init's user data for the seed disk, instead of a sample
    #[arg(long, value_name = "FILE", requires = "seed")]
    user_data: Option<PathBuf>,
}

/// Make the image, and copies of it where asked.
pub fn image(ws: &Workspace, args: &ImageArgs) -> Result<ExitCode> {
    let variant = if args.cloud {
        Variant::Cloud
    } else {
        Variant::Plain
    };
    let kept = build::ensure(ws, variant)?;
    ui::step(&format!(
        "Image (do not write to it): {}",
        kept.disk.display()
    ));
    if let Some(file) = &args.output {
        if args.format == "raw" {
            copy_sparse(&kept.disk, file)?;
        } else {
            convert(ws, &kept.disk, file, &args.format)?;
        }
        ui::step(&format!("A copy as {}: {}", args.format, file.display()));
    }
    if let Some(file) = &args.seed {
        seed::write(file, args.user_data.as_deref())?;
        ui::step(&format!("Seed disk: {}", file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Options of `cargo xtask debian`.
#[derive(Debug, clap::Args)]
pub struct DebianArgs {
    /// Boot through GRUB, which shows the image's menu
    #[arg(long)]
    grub: bool,
    /// The image with cloud-init, and a seed disk beside it
    #[arg(long)]
    cloud: bool,
    /// Start from the image as it was made; without this, what earlier boots wrote is there
    #[arg(long)]
    fresh: bool,
    /// Number of vCPUs
    #[arg(long, default_value = "2")]
    smp: String,
    /// Memory in MiB
    #[arg(long, default_value = "1024")]
    mem: String,
    /// More of the kernel's command line (not with --grub)
    #[arg(long, default_value = "", conflicts_with = "grub")]
    append: String,
    /// Further arguments for xenner, after `--`
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Build what is needed and boot; the exit code is xenner's.
pub fn debian(ws: &Workspace, args: &DebianArgs) -> Result<ExitCode> {
    check_kvm()?;
    let variant = if args.cloud {
        Variant::Cloud
    } else {
        Variant::Plain
    };
    let dir = ws.target.join("debian");
    let disk = working_copy(ws, variant, &dir, args.fresh)?;
    let mut command = Command::new(builds::xenner(ws)?);
    if args.grub {
        command.arg("-kernel").arg(packages::grub_xen(ws)?);
    } else {
        let files = BootFiles::read(&disk, &dir)?;
        command.arg("-kernel").arg(files.kernel);
        command.arg("-initrd").arg(files.initrd);
        let append = format!("{ROOT} console=hvc0 {}", args.append);
        command.args(["-append", append.trim_end()]);
    }
    command.args(["-m", &args.mem, "-smp", &args.smp, "-nographic"]);
    command.args(["-drive", &drive(&disk)]);
    if args.cloud {
        let file = dir.join("seed.img");
        seed::write(&file, None)?;
        command.args(["-drive", &format!("{},readonly=on", drive(&file))]);
    }
    command.args(&args.extra);
    ui::note("Log in as root with the password xenner; `poweroff` ends the guest");
    ui::step(&process::shown(&command));
    let status = process::status(&mut command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// The option's value for a raw image as a PV disk; a comma in its name is doubled.
fn drive(file: &Path) -> String {
    let name = file.to_string_lossy().replace(',', ",,");
    format!("file={name},format=raw,if=xen")
}

/// The disk that this source tree's guests write to.
fn working_copy(ws: &Workspace, variant: Variant, dir: &Path, fresh: bool) -> Result<PathBuf> {
    make_dir(dir)?;
    let disk = dir.join(format!("{}.img", variant.name()));
    if fresh || !disk.exists() {
        let kept = build::ensure(ws, variant)?;
        ui::step("Copying the image");
        copy_sparse(&kept.disk, &disk)?;
    }
    Ok(disk)
}

/// Put the image, its kernel and initrd, GRUB, and the programs that tests of
/// disks and networks run beside guests where the tests look for them.
pub fn stage(ws: &Workspace) -> Result<PathBuf> {
    let kept = build::ensure(ws, Variant::Plain)?;
    let dir = ws.images();
    place(&kept.disk, &dir.join("debian.img"))?;
    place(&kept.boot.kernel, &dir.join("vmlinuz"))?;
    place(&kept.boot.initrd, &dir.join("initrd.img"))?;
    place(&packages::grub_xen(ws)?, &dir.join("grub"))?;
    packages::qemu_img(ws)?.write_script(&dir.join("qemu-img"))?;
    packages::iperf3(ws)?.write_script(&dir.join("iperf3"))?;
    Ok(dir)
}

/// Copy a file and leave its holes holes.
fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--sparse=always", "--reflink=auto", "--no-preserve=mode"]);
    process::capture("copying", cp.arg(from).arg(to)).map(drop)
}

fn convert(ws: &Workspace, from: &Path, to: &Path, format: &str) -> Result<()> {
    let tool = packages::qemu_img(ws)?;
    let mut convert = Command::new(&tool.program);
    convert.env("LD_LIBRARY_PATH", tool.library_path());
    convert.args(["convert", "-f", "raw", "-O", format]);
    process::capture("converting", convert.arg(from).arg(to)).map(drop)
}
